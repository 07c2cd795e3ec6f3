"""openpi's recorded training runs are reproduced, and a changed number is found, on every set of instructions."""

import os
import platform
import shutil
import subprocess
import sys

import numpy as np
import pytest
from places import GOLDEN, ROOT
from training_cases import quick_compiling

from training.parity.__main__ import main
from training.parity.differences import compare_metric, compare_parameter, compare_sums, sums

BESIDE = ("config.json", "inputs.npz", "params.npz")
SCALED = ("PaliGemma/llm/layers/attn/q_einsum/w", "PaliGemma/llm/embedder/input_embedding", "action_out_proj/bias")


def run(*arguments):
    with quick_compiling():
        return main([str(argument) for argument in arguments])


def recorded(folder, keep, change=lambda start, data: {}):
    """A set with some of the recorded arrays, a few of them changed."""
    for part in BESIDE:
        shutil.copy(GOLDEN / f"tiny_a_{part}", folder)
    with np.load(GOLDEN / "tiny_a_train.npz") as arrays, np.load(GOLDEN / "tiny_a_params.npz") as start:
        data = {key: arrays[key] for key in arrays if keep(key)}
        np.savez(folder / "tiny_a_train.npz", **(data | change(start, data)))
    return folder


def one_hundredth_more(start, data):
    """Learning rates, metrics and updates of the augmented run, one hundredth larger than recorded; other noise."""

    def larger(key, before=0.0):
        return before + 1.01 * (data[key] - before)

    averages = [key for key in data if key.startswith("aug/ema_sum/")]
    return {
        **{key: larger(key) for key in ("lr", "lr_default", "time/2", "aug/metrics")},
        **{f"aug/params/{path}": larger(f"aug/params/{path}", start[path]) for path in SCALED},
        **{key: larger(key, sums(np.float64(start[key.removeprefix("aug/ema_sum/")]))) for key in averages},
        "noise/3": data["noise/3"] + 1e-3,
    }


def exceeded(out):
    """Names of what exceeds its tolerance, without blanks: those that are long are folded."""
    rows = []
    for line in out.splitlines():
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        if len(cells) > 4 and cells[1]:
            rows.append([cells[0], cells[4]])
        elif len(cells) > 4:
            rows[-1][0] += cells[0]
    return {name.replace(" ", "") for name, verdict in rows if verdict == "EXCEEDED"}


def assert_one_hundredth_is_refused(out):
    found = exceeded(out)
    assert {name for name in found if "average" not in name} == {
        "learningrate",
        "learningrateofthedefault",
        "timeofstep2",
        "noiseofstep3",
        *(f"aug{metric}" for metric in ("loss", "grad_norm", "param_norm")),
        *(f"aug{path}{of}" for path in SCALED for of in ("", ",scale")),
    }
    assert "augsumsofallaverages,scale" in found
    assert not {name for name in found if name.startswith("noaug")}


def test_six_steps_with_augmentation_are_reproduced_and_one_hundredth_more_is_refused(tmp_path, capsys):
    assert run(recorded(tmp_path, lambda key: not key.startswith("noaug"), one_hundredth_more)) == 1
    out = capsys.readouterr().out
    assert_one_hundredth_is_refused(out)
    assert "167 quantities compared" in out
    assert "not checked: tiny_a noaug: there is no such run in the set" in out
    assert "key/bias: its gradient is zero but for rounding" in out


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="names instructions of x86 processors")
@pytest.mark.parametrize("instructions", ["", "AVX2", "SSE4_2"])
def test_every_set_of_instructions_reproduces_both_runs_and_refuses_one_hundredth_more(tmp_path, instructions):
    folder = recorded(tmp_path, lambda key: True, one_hundredth_more)
    env = os.environ | {"XLA_FLAGS": f"--xla_cpu_max_isa={instructions}" if instructions else ""}
    command = [sys.executable, "-m", "training.parity", str(folder)]
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert result.returncode == 1, result.stderr
    assert_one_hundredth_is_refused(result.stdout)
    assert "320 quantities compared" in result.stdout


def rounded_runs(size=400):
    """A parameter at the start, of a run, of four that are rounded differently, and of one more of these."""
    rng = np.random.default_rng(0)
    start = rng.normal(0, 1e-3, size)
    ours = start + rng.normal(0, 1e-3, size)
    return start, ours, *np.split(ours + rng.normal(0, 1e-7, (5, size)), [4])


def verdicts(*arguments):
    return {check.name: check.ok for check in compare_parameter("w", *arguments)}


def test_a_difference_as_large_as_rounding_passes_and_a_larger_one_is_refused():
    start, ours, others, (theirs,) = rounded_runs()
    assert verdicts(start, ours, others, theirs) == {"w": True, "w, scale": True}
    assert verdicts(start, ours, others, ours + 4 * (theirs - ours)) == {"w": False, "w, scale": True}
    assert compare_metric("m", ours, others, theirs).ok
    assert not compare_metric("m", ours, others, 1.01 * theirs).ok
    assert compare_sums("s", start, ours, others, sums(theirs)).ok
    assert not compare_sums("s", start, ours, others, sums(theirs) + 1e-4).ok


def test_a_common_factor_is_refused_where_rounding_would_hide_it():
    start, ours, others, (theirs,) = rounded_runs()
    others, theirs = ours + 1e2 * (others - ours), ours + 1e2 * (theirs - ours)
    assert verdicts(start, ours, others, theirs) == {"w": True, "w, scale": True}
    assert verdicts(start, ours, others, start + 1.01 * (theirs - start)) == {"w": True, "w, scale": False}


def test_a_number_that_rounding_alone_moves_is_left_out_and_no_other():
    start, ours, others, (theirs,) = rounded_runs()
    others[:, 7] += [1e-4, -1e-4, 1e-4, -1e-4]
    there, elsewhere = theirs.copy(), theirs.copy()
    there[7] += 1e-3
    elsewhere[8] += 1e-3
    assert verdicts(start, ours, others, there) == {"w": True, "w, scale": True}
    assert not verdicts(start, ours, others, elsewhere)["w"]


def test_what_is_no_number_is_refused():
    start, ours, others, (theirs,) = rounded_runs()
    assert not any(verdicts(start, np.full_like(ours, np.nan), others, theirs).values())
    assert not all(verdicts(start, ours, others, np.where(ours == ours.max(), np.nan, theirs)).values())


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
