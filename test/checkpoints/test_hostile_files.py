"""Checkpoints of strangers: whatever is written in them, what is wrong is told on one printable line."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from pi05_progress.checkpoints.description import read_info
from pi05_progress.checkpoints.foreign.safetensors_files import open_safetensors
from pi05_progress.errors import UserError
from pi05_progress.policies.backend import choose_backend

FORGED = "weight\n2026-11-27 12:00:00 ERROR all is lost \x1b[31m\u202e"


def test_names_of_tensors_cannot_forge_lines(tmp_path):
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "part.safetensors")
    index = {"weight_map": {FORGED: "part.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(UserError, match="ERROR all is lost") as error:
        open_safetensors(tmp_path)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 5_000, "[]", "null", "", json.dumps({FORGED: 1}), json.dumps({"model_id": FORGED})],
)
def test_a_configuration_that_makes_no_sense_is_one_line(tmp_path, text):
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    (tmp_path / "params").mkdir()
    for read in (read_info, lambda folder: choose_backend(str(folder), "auto") and read_info(folder)):
        with pytest.raises(UserError) as error:
            read(tmp_path)
        assert str(error.value).isprintable()
