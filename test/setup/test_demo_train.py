"""The script that makes the demo's checkpoint anew: what is done once, what again, and how it is stopped."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import tyro
from conftest import PATIENCE_S, wait_for
from places import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

import demo_train
import tiny_acting_plan
import tiny_demo_plan
from steps import Ship, Step, StepError, carry_out, copied, stamp_path

from pi05_progress.files.output_folder import OutputFolderError
from training.train_temporal import TemporalOptions

MAKE = """
import pathlib, sys
result, text, *flags = sys.argv[1:]
with open("runs", "a") as file:
    file.write(" ".join([text, *flags]) + "\\n")
if text == "fail":
    sys.exit(7)
folder = pathlib.Path(result)
folder.mkdir(exist_ok=True)
(folder / "text").write_text(text)
"""
WAIT = """
import pathlib, signal, sys, time
def stop(number, frame):
    time.sleep(0.6)  # as training does, which saves
    pathlib.Path("saved").write_text(str(number))
    sys.exit(40)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, stop)
pathlib.Path("ready").write_text("")
time.sleep(60)
"""
PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, {scripts!r})
from steps import Step, StepError, carry_out
here = Path.cwd()
try:
    carry_out(Step("wait", ("-c", {program!r}), here / "result"), here, here)
except StepError as error:
    print(error, file=sys.stderr)
    sys.exit(error.status)
"""


@pytest.fixture
def step(tmp_path):
    """A step that makes ``result`` from ``input``; its command writes down that it was run, and with what flags."""
    (tmp_path / "input").mkdir()
    (tmp_path / "input/a").write_text("1")
    result = tmp_path / "result"
    arguments = ("-c", MAKE, str(result), "first")
    return Step("make", arguments, result, (tmp_path / "input",), resume=("--resume",), redo=("--overwrite",))


def do(step, **changes):
    """Carry out, and tell all runs so far."""
    here = step.result.parent
    carry_out(replace(step, **changes), here, here)
    return (here / "runs").read_text().splitlines()


def with_text(step, text):
    return (*step.arguments[:-1], text)


def test_what_was_made_from_the_same_is_not_made_again(step, capsys):
    assert len(do(step)) == len(do(step)) == 1
    assert f"{step.result} is there" in capsys.readouterr().out


def test_other_arguments_make_it_anew(step):
    do(step)
    assert do(step, arguments=with_text(step, "second"))[1:] == ["second --overwrite"]
    assert (step.result / "text").read_text() == "second"


@pytest.mark.parametrize("change", ["content", "more", "gone"])
def test_other_inputs_make_it_anew(step, change):
    do(step)
    file = step.inputs[0] / "a"
    match change:
        case "content":
            file.write_text("other")
        case "more":
            (file.parent / "b").write_text("")
        case "gone":
            file.unlink()
    assert do(step)[1:] == ["first --overwrite"]
    assert len(do(step)) == 2


def test_what_took_long_is_refused_rather_than_replaced(step):
    do(step, redo=None)
    with pytest.raises(StepError, match=r"made from something else .* Remove it to make it anew"):
        do(step, redo=None, arguments=with_text(step, "second"))
    assert (step.result / "text").read_text() == "first"
    assert len(do(step, redo=None)) == 1


def test_a_result_without_a_stamp_is_not_taken_for_a_finished_one(step):
    step.result.mkdir()
    with pytest.raises(StepError, match="there is no stamp"):
        do(step, redo=None)
    assert do(step) == ["first --overwrite"]


def test_what_failed_goes_on_and_other_work_is_begun_again(step):
    for arguments in (with_text(step, "fail"), with_text(step, "fail"), step.arguments):
        try:
            do(step, arguments=arguments)
        except StepError as error:
            assert error.status == 7 and "ended with exit status 7" in str(error)
    assert do(step) == ["fail --overwrite", "fail --resume", "first --overwrite"]


def test_a_step_that_looks_for_itself_is_always_run(step):
    do(step, always=True)
    assert len(do(step, always=True)) == 2
    assert not stamp_path(step.result).exists()


def test_a_command_that_makes_nothing_is_an_error(step):
    with pytest.raises(StepError, match=r"there is no .*other"):
        do(step, result=step.result.with_name("other"))


def test_a_folder_of_everything_may_be_moved(step, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    moved = replace(step, arguments=("-c", MAKE, str(folder / "result"), "first"), result=folder / "result")
    carry_out(moved, folder, folder)
    folder = folder.rename(tmp_path / "elsewhere")
    moved = replace(step, arguments=("-c", MAKE, str(folder / "result"), "first"), result=folder / "result")
    carry_out(moved, folder, folder)
    assert (folder / "runs").read_text().splitlines() == ["first --overwrite"]


@pytest.mark.parametrize(
    ("number", "to_all", "interrupts", "arrives"),
    [
        (signal.SIGINT, True, signal.SIG_DFL, signal.SIGINT),
        (signal.SIGTERM, False, signal.SIG_DFL, signal.SIGINT),
        (signal.SIGHUP, False, signal.SIG_DFL, signal.SIGINT),
        (signal.SIGTERM, False, signal.SIG_IGN, signal.SIGTERM),  # a script's background job ignores Ctrl-C
    ],
    ids=["Ctrl-C", "SIGTERM", "SIGHUP", "in the background"],
)
def test_a_signal_lets_the_command_end_in_order_and_one_line_says_how_to_go_on(
    tmp_path, number, to_all, interrupts, arrives
):
    program = PARENT.format(scripts=str(ROOT / "scripts"), program=WAIT)

    def as_a_terminal_would() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also if the tests were started by nohup
        signal.signal(signal.SIGINT, interrupts)

    child = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, start_new_session=True,
                             preexec_fn=as_a_terminal_would,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    wait_for((tmp_path / "ready").exists, what="the command's start")
    (os.killpg if to_all else os.kill)(child.pid, number)  # Ctrl-C goes to all of a terminal's processes
    _, said = child.communicate(timeout=PATIENCE_S)
    assert (tmp_path / "saved").read_text() == str(int(arrives))
    assert said == "wait: stopped; the same command goes on from here\n"
    assert child.returncode == 40


def checkpoint(folder, text="1"):
    """What looks like a checkpoint of a run."""
    (folder / "params").mkdir(parents=True)
    (folder / "params/x").write_text(text)
    (folder / "train_state").mkdir()
    (folder / "train_state/y").write_text("")
    for name in ("config.json", "run.json", "position.bin"):
        (folder / name).write_text("{}")
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_best_checkpoint_is_shipped_once_and_without_what_only_resuming_needs(tmp_path, capsys):
    run, target = tmp_path / "run", tmp_path / "checkpoint"
    checkpoint(run / "100")
    (run / "best").symlink_to("100")
    demo_train.ship(Ship(run, target))
    assert names(target) == ["config.json", "params"]
    before = target.stat().st_ino
    demo_train.ship(Ship(run, target))
    assert target.stat().st_ino == before and re.search("made from.*\n.*still", capsys.readouterr().out)
    checkpoint(run / "200", "other")
    (run / "best").unlink()
    (run / "best").symlink_to("200")
    demo_train.ship(Ship(run, target))
    assert (target / "params/x").read_text() == "other" and names(target) == ["config.json", "params"]
    assert names(tmp_path) == ["checkpoint", "checkpoint.made.json", "run"]


def test_a_folder_that_is_no_checkpoint_is_not_replaced(tmp_path):
    run, target = tmp_path / "run", tmp_path / "checkpoint"
    checkpoint(run / "best")
    target.mkdir()
    (target / "monday.mcap").write_text("precious")
    with pytest.raises(StepError, match=r"has no config\.json and no params"):
        demo_train.ship(Ship(run, target))
    assert names(target) == ["monday.mcap"] and names(tmp_path) == ["checkpoint", "run"]


def test_a_copy_that_was_broken_off_is_made_again(tmp_path, monkeypatch):
    source, target = checkpoint(tmp_path / "source"), tmp_path / "target"
    markers = ("config.json",)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr("steps.shutil.copytree", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
        copied(source, target, markers, ())
    assert not target.exists()
    assert copied(source, target, markers, ()) and not copied(source, target, markers, ())
    (target / "config.json").unlink()
    with pytest.raises(OutputFolderError):
        copied(source, target, markers, ())


def test_the_list_has_every_command_and_paths_within_the_folder_of_everything(tmp_path, monkeypatch, capsys):
    out = tmp_path / "with a blank"
    monkeypatch.setattr(sys, "argv", ["demo_train.py", "--model", "tiny_demo", "--list", "--out", str(out)])
    assert demo_train.main() == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"OUT='{out}'" and not out.exists()
    assert not [line for line in lines if str(out) in line]
    assert [line.split()[2] for line in lines if line.startswith("python")] == [
        *["pi05_progress_ros.sim.generate"] * 3, "pi05_progress_ros.sim.record_live",
        *["pi05_progress_ros.sim.generate"] * 3, "pi05_progress_ros.sim.record_live",
        *["training.convert_rosbags", "training.add_progress_labels"] * 4, "training.train",
        *["training.evaluate_progress"] * 2, "pi05_progress_ros.sim.evaluate",
    ]  # fmt: skip
    given = next(line for line in lines if "training.train" in line)
    shell = subprocess.run(["bash", "-c", f"{first}\nprintf '%s\\n' {given}"], capture_output=True, text=True)
    assert f"--output={out}/runs" in shell.stdout.splitlines()


@pytest.mark.parametrize("plan", [tiny_demo_plan, tiny_acting_plan])
def test_what_was_trained_from_other_data_is_noticed(tmp_path, plan):
    """The chain of inputs: what one item makes is what a later one looks at, and nothing is read before it is made."""
    made, read = {plan.RECIPE}, set()
    for item in plan.plan(tmp_path):
        inputs = {item.run} if isinstance(item, Ship) else set(item.inputs)
        first = not isinstance(item, Ship) and item.name.startswith(("generate", "record"))
        assert (inputs or first or item.always) and inputs <= made, item
        made.add(item.checkpoint if isinstance(item, Ship) else item.result)
        read |= inputs
    assert plan.RECIPE.is_file() and tmp_path / "checkpoint" in read


def test_the_checkpoint_that_drives_remembers(tmp_path):
    items = tiny_acting_plan.plan(tmp_path)
    step = next(item for item in items if isinstance(item, Step) and item.result == tmp_path / "checkpoint")
    options = tyro.cli(TemporalOptions, args=step.arguments[2:])
    (last,) = (item for item in items if isinstance(item, Ship) and item.checkpoint == options.checkpoint)
    assert last == [item for item in items if isinstance(item, Ship)][-1]
    assert options.output == step.result and len(options.dataset) == 11
