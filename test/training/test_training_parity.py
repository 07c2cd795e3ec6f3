"""openpi's recorded training runs are reproduced, and a changed number is found."""

import shutil

import numpy as np
import pytest
from places import GOLDEN
from training_cases import quick_compiling

from training import parity

BESIDE = ("config.json", "inputs.npz", "params.npz")


def run(*arguments):
    with quick_compiling():
        return parity.main([str(argument) for argument in arguments])


def recorded(folder, keep, **changes):
    """A set with some of the recorded arrays, a few of them changed."""
    for part in BESIDE:
        shutil.copy(GOLDEN / f"tiny_a_{part}", folder)
    with np.load(GOLDEN / "tiny_a_train.npz") as arrays:
        data = {key: arrays[key] for key in arrays if keep(key)}
    np.savez(folder / "tiny_a_train.npz", **(data | {key: change(data[key]) for key, change in changes.items()}))
    return folder


def test_six_steps_with_augmentation_are_reproduced_and_a_changed_number_is_found(tmp_path, capsys):
    changes = {
        "lr": lambda v: v * 1.0001,
        "noise/3": lambda v: v + 1e-3,
        "aug/ema_sum/action_in_proj/kernel": lambda v: v + 0.01,
        "aug/params/PaliGemma/llm/layers/attn/q_einsum/w": lambda v: v + 1e-3 * (v == v.max()),
    }
    assert run(recorded(tmp_path, lambda key: not key.startswith("noaug"), **changes)) == 1
    out = capsys.readouterr().out
    exceeded = [line for line in out.splitlines() if "EXCEEDED" in line]
    assert len(exceeded) == len(changes)
    for text in ("learning rate ", "noise of step 3", "average of action_in_proj/kernel", "attn/q_einsum/w"):
        assert any(text in line for line in exceeded), text
    assert f"117 quantities compared, {len(changes)} exceed" in out
    assert "not checked: tiny_a noaug: there is no such run in the set" in out
    assert "key/bias: its gradient is zero but for rounding" in out


@pytest.mark.long
def test_the_golden_training_runs_are_reproduced(capsys):
    assert run(GOLDEN) == 0
    assert "220 quantities compared, 0 exceed their tolerance" in capsys.readouterr().out


def test_an_incomplete_or_damaged_set_is_named(tmp_path, capsys):
    folder = recorded(tmp_path, lambda key: key in ("lr", "noaug/metrics"))
    (folder / "tiny_a_inputs.npz").unlink()
    assert run(folder) == 1
    assert "tiny_a_inputs.npz is missing beside it" in capsys.readouterr().err
    (folder / "tiny_a_train.npz").write_bytes(b"PK\x03\x04 broken")
    assert run(folder) == 1
    assert "tiny_a_train.npz is damaged" in capsys.readouterr().err


def test_a_folder_without_a_recorded_run_is_an_error(capsys):
    assert run(GOLDEN / "tiny_lora_out_bf16_train.npz") == 1
    assert "nothing was checked" in capsys.readouterr().err
