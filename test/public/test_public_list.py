"""Everything public is as it was recorded in data/public: what users type, and what their files and scripts name.

What is listed must stay; what is new may be added without touching the lists.
"""

import os
import re
import runpy
import subprocess
import sys
import tomllib
from importlib import import_module
from unittest import mock

import pytest
import yaml
from places import ROOT

from pi05_progress.robots.profile import RobotProfile
from pi05_progress_ros import demo

# The programs are imported before they are run as such, here: that is meant.
pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules after import of package:RuntimeWarning")
PUBLIC = ROOT / "test/data/public"
LISTED = yaml.safe_load((PUBLIC / "programs.yaml").read_text())
PROGRAMS = {name: listed for listed in LISTED for name in listed["programs"]}
NAMES = yaml.safe_load((PUBLIC / "names.yaml").read_text())
UNKNOWN = "--no-such-option"
NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?")


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a program as ``python -m`` or ``python FILE`` does, in this process; returns its status and what it says."""

    def run(words, columns):
        monkeypatch.setattr(sys, "argv", list(words))
        monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("NO_COLOR", "1")
        status = 0
        try:
            if words[0].endswith(".py"):
                sys.path.insert(0, str((ROOT / words[0]).parent))
                runpy.run_path(str(ROOT / words[0]), run_name="__main__")
            else:
                runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        except SystemExit as end:
            status = end.code or 0
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def described(help_text):
    """What a help text says about each option: the text from its name at the beginning of a line to the next one."""
    texts, names, unfinished = {}, [], False
    for line in help_text.splitlines():
        line = line.strip(" │|")
        if (line.startswith("--") and not line.startswith("---")) or re.match(r"-\w, --", line):
            spec = re.split(r"\s{2,}", line)[0]
            found = [name.rstrip(",") for name in spec.split() if name.startswith("--")]
            names = [*names, *found] if unfinished else found
            texts |= {name: "" for name in found}
            unfinished = spec.endswith(",")
        for name in names:
            texts[name] += f" {line}"
    return texts


def says(text, value):
    """Whether a text contains every word of a value; numbers may be written differently."""
    words, wanted = (re.split(r"[\s,;{}()\[\]'\"|]+", part) for part in (text, value))
    numbers = {float(word) for word in words if NUMBER.fullmatch(word)}
    return all(word in words or (NUMBER.fullmatch(word) and float(word) in numbers) for word in wanted if word)


def refused(message):
    """The words that an error message refuses together with the unknown option."""
    line = next((line for line in message.splitlines() if UNKNOWN in line), None)
    assert line is not None, f"the unknown option is not what was wrong:\n{message}"
    return [word for word in re.split(r"[\s,│\[\]']+", line.split(": ")[-1]) if word]


def options(listed):
    """Pairs of an option and the value that it is given, or the option alone."""
    return [option.split(" ", 1) for option in re.split(r"\s+(?=--)", listed["options"])]


def commands(listed):
    """Command lines that the listed options make, each without the program."""
    needed, given = listed["needed"].split(), options(listed)
    yield [*needed, *" ".join(map(" ".join, given)).split()]
    yield [*needed, *("=".join(option) for option in given if len(option) == 2 and " " not in option[1])]
    if listed["underscores"]:
        spelt = [["--" + name.removeprefix("--").replace("-", "_"), *value] for name, *value in given]
        yield [*needed, *" ".join(map(" ".join, spelt)).split()]
    yield from (form.split() for form in listed["further"])


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_takes_every_option_that_it_took(run, program):
    listed = PROGRAMS[program]
    status, out, _ = run([*program.split(), "--help"], columns=90)
    assert status == 0
    texts = described(out)
    assert not sorted({option[0] for option in options(listed)} - set(texts)), "options that --help does not name"
    for name, choices in listed["choices"].items():
        assert says(texts[name], choices), f"choices of {name} are no longer {choices}:{texts[name]}"
    for name, default in listed["defaults"].items():
        assert says(texts[name], default), f"the default of {name} is no longer {default}:{texts[name]}"
    for words in commands(listed):
        status, _, err = run([*program.split(), *words, UNKNOWN], columns=10_000)
        assert (status, refused(err)) == (2, [UNKNOWN]), f"{program} {' '.join(words)}\n{err}"


@pytest.mark.parametrize("program", ["pi05_progress.models.parity", "training.compute_norm_stats"])
def test_an_option_that_is_not_there_is_noticed(run, program):
    _, _, err = run([program, "a", "--gone", "1", UNKNOWN], columns=10_000)
    assert "--gone" in refused(err)


@pytest.mark.parametrize("launch", NAMES["launches"])
def test_a_launch_takes_every_argument_that_it_took(run, launch):
    status, out, _ = run(["pi05_progress_ros.run", launch, "--show-args"], columns=90)
    assert status == 0
    found = dict(re.findall(r"^  (\w+)\n((?:      .*\n?)+)", out, re.MULTILINE))
    for name, listed in NAMES["launches"][launch].items():
        assert re.search(r"default: (.*)", found[name])[1] == (listed["default"] or "empty"), name
        assert says(found[name], listed.get("choices", "")), name
    assert (ROOT / f"launch/{launch}.launch.py").is_file()


def test_a_launch_refuses_what_is_no_argument_of_it(run):
    status, _, err = run(["pi05_progress_ros.run", "bringup", "no_such:=1"], columns=90)
    assert status == 1
    assert "no_such" in err


def test_every_entry_point_leads_to_a_function():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(NAMES["entry_points"]) <= set(scripts)
    for target in scripts.values():
        module, _, function = target.partition(":")
        assert callable(getattr(import_module(module), function)), target


@pytest.mark.parametrize("target", NAMES["make"])
def test_make_knows_the_target_and_its_variables(target):
    values = {name: f"given_{name}" for name in NAMES["make"][target]}
    words = ["make", "--dry-run", target, *(f"{name}={value}" for name, value in values.items())]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not [value for value in values.values() if value not in done.stdout]


@pytest.mark.parametrize("name", NAMES["demo_variables"])
def test_the_demo_reads_its_variables(name, capsys):
    with mock.patch.dict(os.environ, {name: "/no/such"}):
        assert demo.main() == 1
    assert "/no/such" in capsys.readouterr().err


def test_every_file_in_config_is_there():
    assert not [name for name in NAMES["config"] if not (ROOT / "config" / name).is_file()]
    for name in NAMES["robots"]:
        assert RobotProfile.load(name).name == name
