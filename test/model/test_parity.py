"""The parity tool: it passes on recorded numbers of any size and fails on anything else."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from places import GOLDEN

from pi05_progress.parity.__main__ import main
from pi05_progress.parity.checks import Tolerance, compare

LORA = ("config.json", "inputs.npz", "params.npz", "out_f32.npz")


def copy(folder, *names):
    for name in names:
        shutil.copy(GOLDEN / name, folder / Path(name).name)
    return folder


def model_set(folder):
    """The smallest recorded model, float32 outputs only: one program to compile."""
    return copy(folder, *(f"tiny_lora_{part}" for part in LORA))


def rewrite(path, **changes):
    with np.load(path) as arrays:
        data = dict(arrays)
    np.savez(path, **(data | {k: change(data[k]) for k, change in changes.items()}))


def run(capsys, *paths):
    status = main([str(path) for path in paths])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_everything_around_the_model_passes_and_what_is_not_ours_is_named(capsys):
    status, out, _ = run(capsys, GOLDEN / "transforms", GOLDEN / "websocket_session.json")
    assert status == 0
    assert "90 quantities compared, 0 exceed their tolerance" in out
    assert "not checked: aloha/state: units of the ALOHA robot" in out
    for quantity in (
        "norm/quantile/un_x_long",
        "norm/zscore/x_short",
        "stats/q99",
        "delta/abs",
        "pad/actions",
        "resize/0/pil",
        "resize/2/jax_u8",
        "aug/base_0_rgb/out",
        "policy_noise/1",
        "binning/bin",
        "prompt 5: mask",
        "written again",
        "packed again",
        "decoded fortran",
        "frame 4 server->client action",
    ):
        assert f" {quantity} " in out


def test_a_model_passes_and_fails_with_one_parameter_changed(tmp_path, capsys):
    folder = model_set(tmp_path)
    status, out, _ = run(capsys, folder)
    assert status == 0, out
    assert "f32 sample_actions_10 plain" in out
    assert " 0 exceed" in out
    rewrite(folder / "tiny_lora_params.npz", **{"action_out_proj/bias": lambda v: v + 1e-3})
    status, out, _ = run(capsys, folder, "--failures")
    assert status == 1
    assert "f32 v_t_joint" in out
    assert "prefix_out" not in out  # the prefix does not depend on it


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("norm/quantile/x", lambda v: v + 1e-4),
        ("stats/q01", lambda v: v * 1.1),
        ("resize/0/pil", lambda v: v ^ 1),
        ("resize/0/jax_u8", lambda v: v + (v < 255)),
        ("resize/1/jax_f32", lambda v: v + 1e-3),
        ("aug/base_0_rgb/out", lambda v: v + 1e-3),
        ("aug/key_seed", lambda v: v + 1),
        ("policy_noise/1", lambda v: -v),
        ("binning/bin", lambda v: v + (v == 7)),
        ("delta/abs", lambda v: v[:, :-1]),
        ("pad/state", lambda v: np.where(np.arange(len(v)) == len(v) - 1, np.nan, v)),
    ],
)
def test_one_perturbed_array_is_found(tmp_path, capsys, name, change):
    folder = copy(tmp_path, "transforms/transforms.npz")
    rewrite(folder / "transforms.npz", **{name: change})
    status, out, _ = run(capsys, folder, "--failures")
    assert status == 1
    assert "EXCEEDED" in out
    assert " 0 exceed" not in out


@pytest.mark.parametrize(
    ("name", "old", "new", "failing"),
    [
        ("transforms/tokenizer_cases.json", "Fold the towel.", "Fold the bowel.", "prompt 1: text"),
        ("transforms/tokenizer_cases.json", '"mask_true": 3', '"mask_true": 4', "prompt 2: mask"),
        ("websocket_session.json", "cb3ff8", "ca3ff8", "frame"),
        ("transforms/norm_stats_example/norm_stats.json", '"norm_stats": {', '"norm_stats": {"x": {"mean": [1]},', ""),
    ],
)
def test_one_changed_text_is_found(tmp_path, capsys, name, old, new, failing):
    folder = copy(tmp_path, name)
    path = folder / Path(name).name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    status, out, err = run(capsys, folder)
    assert status == 1
    assert failing in out + err


def test_a_changed_message_is_found(tmp_path, capsys):
    folder = copy(tmp_path, "transforms/msgpack_example.json", "transforms/msgpack_example.bin")
    path = folder / "msgpack_example.bin"
    path.write_bytes(path.read_bytes()[:-1])
    status, out, _ = run(capsys, path)
    assert status == 1
    assert "msgpack_example.bin: bytes" in out


@pytest.mark.parametrize("part", LORA)
def test_a_truncated_file_is_named(tmp_path, capsys, part):
    path = model_set(tmp_path) / f"tiny_lora_{part}"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    status, _, err = run(capsys, tmp_path)
    assert status == 1
    assert f"{path} is damaged" in err


def test_a_set_whose_other_files_are_missing_is_an_error_and_not_a_pass(tmp_path, capsys):
    copy(tmp_path, "transforms/tokenizer_cases.json", "tiny_lora_config.json")
    status, _, err = run(capsys, tmp_path)
    assert status == 1
    assert "tiny_lora_inputs.npz" in err
    copy(tmp_path, "tiny_lora_inputs.npz", "tiny_lora_params.npz")
    status, _, err = run(capsys, tmp_path)
    assert status == 1
    assert "tiny_lora_config.json: the set has nothing to compare with" in err
    copy(tmp_path, "tiny_lora_out_f32.npz")
    rewrite(tmp_path / "tiny_lora_inputs.npz", x_t=lambda v: v[:, :, :2])
    status, _, err = run(capsys, tmp_path)
    assert status == 1
    assert "tiny_lora_config.json: x_t is float32[2, 4, 2]; expected float[2, 4, 3]" in err


def test_where_nothing_is_checked_the_status_says_so(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("nothing")
    np.savez(tmp_path / "other.npz", a=np.zeros(2))
    (tmp_path / "other.json").write_text("[1, 2]")
    status, out, err = run(capsys, tmp_path)
    assert status == 1
    assert "nothing was checked" in err
    assert out.count("belongs to no set that is known here") == 3
    status, _, err = run(capsys, tmp_path / "absent")
    assert status == 1
    assert "absent does not exist" in err


def test_prompts_of_other_numbers_and_lengths_are_checked_too(tmp_path, capsys):
    """The schema decides, not the cases that happen to be recorded here."""
    case = {
        "prompt": "a_b", "state": [0.5, float("nan")], "state_dtype": "float32", "max_len": 44,
        "encode_calls": [["Task: a b, State: 192 255;\nAction: ", True]], "bins": [192, 255],
    }  # fmt: skip
    (tmp_path / "more.json").write_text(json.dumps([case] * 3))
    status, out, _ = run(capsys, tmp_path)
    assert status == 0
    assert "6 quantities compared, 0 exceed" in out


def test_differences_are_held_against_their_tolerance():
    check = compare("x", [1.0, 2.0], [1.0, 2.1], Tolerance(atol=0.05, rtol=0.01))
    assert (check.ok, round(check.absolute, 6)) == (False, 0.1)
    assert compare("x", [1.0, 2.0], [1.0, 2.1], Tolerance(atol=0.05, rtol=0.05)).ok
    assert not compare("x", [np.nan], [1.0], Tolerance(atol=1e9)).ok
    assert compare("x", [np.nan], [np.nan], Tolerance()).ok
    assert not compare("x", [1.0], [1.0, 1.0], Tolerance(atol=1e9)).ok
    assert not compare("x", [1.0, np.inf], [1.0, 2.0], Tolerance(rms=0.5)).ok
    assert compare("x", [100.0, 1.5], [100.0, 1.0], Tolerance(rms=0.01)).ok


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_all_recorded_numbers_are_reproduced(capsys):
    status, out, _ = run(capsys, GOLDEN)
    assert status == 0, out
