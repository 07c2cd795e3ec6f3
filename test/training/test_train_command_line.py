"""The command line of training: recipes, flags, what is refused before anything is read."""

import dataclasses
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PATIENCE_S
from places import ROOT

from pi05_progress.errors import UserError
from training import train
from training.recipes.registry import recipes
from training.running import command_line, run_folder
from training.running.command_line import UsageError, parse, plan
from training.running.loop import Ended
from training.running.setup import check_complete, check_config
from training.train import how_to_go_on


def test_the_command_of_the_readme_is_understood():
    line = "--config=pi05_teleavatar --exp_name=my_experiment --data.repo_id=/data/stack_with_progress"
    config = parse([*line.split(), "--num_train_steps=20000"])
    assert (config.name, config.exp_name, config.num_train_steps) == ("pi05_teleavatar", "my_experiment", 20_000)
    assert config.data.repo_id == "/data/stack_with_progress"


@pytest.mark.parametrize("spelling", ["exp_name {0} data.repo_id {1}", "exp-name {0} data.repo-id {1}"])
@pytest.mark.parametrize("joined", ["--{}={}", "--{} {}"])
def test_every_flag_has_both_spellings(spelling, joined):
    words = spelling.format("first", "/data/x").split()
    flags = [joined.format(*pair).split() for pair in (words[:2], words[2:])]
    config = parse(["--config", "tiny_demo", *flags[0], *flags[1], "--optimizer.peak-learning-rate=0.5"])
    assert (config.exp_name, config.data.repo_id) == ("first", "/data/x")
    assert config.optimizer.peak_learning_rate == 0.5


@pytest.mark.parametrize("flag", ["--cache", "--data.cache"])
def test_the_cache_has_a_short_flag_too(flag):
    given = ["--config=tiny_demo", "--exp_name=x", "--data.repo_id=/data", f"{flag}=/fast"]
    assert parse(given).data.cache == Path("/fast")


def test_recipes_are_what_the_issue_asks_for():
    made = {name: make() for name, (_, make) in recipes().items()}
    full_size = {"pi05_teleavatar", "pi05_teleavatar_lora", "pi05_teleavatar_progress_only"}
    assert set(made) == full_size | {"tiny_demo", "tiny_acting"}
    for name, config in made.items():
        assert config.name == name
        check_config(dataclasses.replace(config, exp_name="x", checkpoint=Path("/base")))
    full = made["pi05_teleavatar"]
    model = full.model
    assert (model.action_horizon, model.action_dim, model.discrete_state) == (30, 32, False)
    assert (full.batch_size, full.num_train_steps, full.trained) == (64, 20_000, "everything")
    optimizer = full.optimizer
    assert (optimizer.clip_norm, optimizer.warmup_steps, optimizer.peak_learning_rate) == (1.0, 5000, 5e-5)
    assert (optimizer.schedule, optimizer.ema_decay) == ("constant", 0.999)
    lora = made["pi05_teleavatar_lora"]
    assert (lora.trained, lora.optimizer.ema_decay) == ("adapters", None) and lora.model.paligemma.lora.rank == 16
    assert made["pi05_teleavatar_progress_only"].trained == "head"
    tiny = made["tiny_demo"]
    assert (tiny.model.name, tiny.tokenizer, tiny.model.discrete_state) == ("tiny", "words", True)
    assert tiny.model.progress.kind == "categorical"


def test_help_lists_recipes_and_then_every_field(capsys):
    with pytest.raises(SystemExit) as ended:
        parse(["--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(name in out for name in recipes())
    with pytest.raises(SystemExit) as ended:
        parse(["--config=tiny_demo", "--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    for flag in ("--exp-name", "--data.repo-id", "--optimizer.ema-decay", "--model.progress.kind", "--logs.wandb"):
        assert flag in out
    assert "Steps between checkpoints." in out


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "--config=RECIPE is missing"),
        (["--exp_name=x"], "tiny_demo"),
        (["--config=pi05_teleavtar"], "did you mean pi05_teleavatar"),
        (["--config"], "needs the name of a recipe"),
        (["--config=tiny_demo", "--config=pi05_teleavatar"], "given 2 times"),
    ],
)
def test_without_a_recipe_the_recipes_are_shown(arguments, said):
    with pytest.raises(UsageError, match=said):
        parse(arguments)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"exp_name": ""}, "--exp_name"),
        ({"exp_name": "a/b"}, "--exp_name"),
        ({"batch_size": 0}, "--batch_size is 0"),
        ({"save_interval": 300, "validation_interval": 250}, "--save_interval is 300, --validation_interval 250"),
        ({"keep_period": 0}, "--keep_period is 0"),
    ],
)
def test_what_contradicts_itself_is_refused_by_the_flag(changes, said):
    config = parse(["--config=tiny_demo", "--exp_name=x"])
    with pytest.raises(UserError, match=said):
        check_config(dataclasses.replace(config, **changes))


LACKING = {"--checkpoint", "--from-scratch", "--tokenizer_path", "--data.repo_id"}


@pytest.mark.parametrize(
    "arguments, named",
    [
        ("--config=pi05_teleavatar", LACKING),
        ("--config=pi05_teleavatar_lora --data.repo_id=/x", LACKING - {"--data.repo_id"}),
        ("--config=pi05_teleavatar_progress_only --from-scratch", LACKING - {"--from-scratch"}),
        ("--config=pi05_teleavatar --from-scratch --data.repo_id=/x", {"--tokenizer_path"}),
        ("--config=pi05_teleavatar --checkpoint=/x --tokenizer_path=/x --data.repo_id=/x", set()),
        ("--config=tiny_demo --data.repo_id=/x", set()),
    ],
)
def test_all_that_a_run_lacks_is_named_at_once_in_one_line(arguments, named):
    config = parse(arguments.split())
    if not named:
        return check_complete(config)
    with pytest.raises(UserError) as refused:
        check_complete(config)
    said = str(refused.value)
    assert {flag for flag in LACKING if flag in said} == named
    assert "\n" not in said and ("gs://big_vision/paligemma_tokenizer.model" in said) == ("--tokenizer_path" in named)


def test_a_run_that_goes_on_needs_neither_its_checkpoint_nor_its_tokenizer_again(tmp_path):
    given = ["--config=pi05_teleavatar", "--exp_name=x", "--data.repo_id=/x"]
    started = parse([*given, "--checkpoint=/base", "--tokenizer_path=/tokenizer.model"])
    path = tmp_path / "config.json"
    former = {name: value for name, value in run_folder.to_json(started).items() if name != "from_scratch"}
    path.write_text(json.dumps({"config": former, "jax": "1"}), encoding="utf-8")
    config, saved = run_folder.gone_on_with(path, parse([*given, "--resume"]))
    assert config == dataclasses.replace(started, resume=True) and saved["jax"] == "1"
    moved, _ = run_folder.gone_on_with(path, parse([*given, "--resume", "--tokenizer_path=/other.model"]))
    assert moved.tokenizer_path == Path("/other.model")
    with pytest.raises(UserError, match='checkpoint: "/base" -> "/another"'):
        run_folder.gone_on_with(path, parse([*given, "--resume", "--checkpoint=/another"]))


def test_the_program_is_found_as_a_script_and_from_any_folder(tmp_path):
    command = [sys.executable, str(ROOT / "scripts/train.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0 and "usage:" in done.stdout, done.stderr


def test_changes_are_told_by_dotted_names_and_harmless_ones_are_not():
    before = run_folder.to_json(parse(["--config=tiny_demo", "--exp_name=x"]))
    now = run_folder.to_json(
        parse(
            ["--config=tiny_demo", "--exp_name=x", "--resume", "--num_train_steps=9", "--data.workers=2"]
            + ["--model.action_horizon=7", "--optimizer.ema_decay=None", "--mesh.fsdp_devices=2", "--log_interval=3"]
        )
    )
    assert run_folder.changes(before, now) == ["model.action_horizon: 30 -> 7", "optimizer.ema_decay: 0.99 -> null"]
    assert json.loads(json.dumps(before)) == before


def test_the_command_to_go_on_is_the_one_that_was_given():
    given = ["--config=tiny_demo", "--exp_name=my run", "--overwrite"]
    assert how_to_go_on(given) == f"{command_line.PROGRAM} --config=tiny_demo '--exp_name=my run' --resume"


@pytest.mark.parametrize("stopped_by, status", [("", 0), ("SIGTERM", 143), ("SIGINT", 130), ("another process", 75)])
def test_a_scheduler_can_tell_a_run_that_was_stopped_from_one_that_is_done(stopped_by, status, monkeypatch, capsys):
    monkeypatch.setattr(train, "train", lambda config: Ended(3, stopped_by))
    monkeypatch.setattr(sys, "argv", [command_line.PROGRAM, "--config=tiny_demo", "--exp_name=x"])
    assert train.main() == status
    assert ("--resume" in capsys.readouterr().out) == bool(stopped_by)


def test_the_program_refuses_in_one_line_what_is_missing(tmp_path):
    command = [sys.executable, "-m", "training.train", "--config=tiny_demo", "--exp_name=x", f"--output={tmp_path}"]
    command.append("--data.repo_id=/nowhere")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith("error: /nowhere: no such folder")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("page", ["training", "distributed"])
def test_every_command_of_the_docs_is_understood(page):
    text = (ROOT / f"docs/{page}.md").read_text()
    text = re.sub(r"\\\n|\n {14}", " ", text)  # continued in a shell, or in the description of a job
    commands = [shlex.split(line) for line in re.findall(r"python -m training\.train (--config=.*)", text)]
    assert len(commands) >= 3
    for command in commands:
        if "--help" not in command:
            config = parse([word.replace("$JOB_COMPLETION_INDEX", "1") for word in command])
            assert config.plan or config.exp_name in ("first", "one", "two")


def test_the_plan_says_per_mesh_what_a_device_needs_and_whether_it_fits():
    config = parse(["--config=pi05_teleavatar", "--plan", "--plan_devices", "1", "8", "--mesh.fsdp_devices=4"])
    lines = plan(config).splitlines()
    assert "3,353,958,673 parameters" in lines[0]
    rows = {line[:6].strip(): line for line in lines[3:]}
    assert list(rows) == ["1 x 1", "8 x 1", "8 x 4", "8 x 8"]
    assert "does not fit 80 GiB" in rows["1 x 1"] and "  fits 80 GiB" in rows["8 x 8"]


@pytest.mark.long
def test_adapters_fit_a_gpu_of_24_gib():
    config = parse(["--config=pi05_teleavatar_lora", "--plan", "--plan_devices", "1", "--plan_gib=24"])
    assert "does not" not in plan(config) and "fits 24 GiB" in plan(config)


def test_a_batch_that_no_mesh_can_share_is_refused():
    config = parse(["--config=tiny_demo", "--plan", "--plan_devices", "3", "--batch_size=16"])
    with pytest.raises(UserError, match="multiple of 3 devices"):
        plan(config)
