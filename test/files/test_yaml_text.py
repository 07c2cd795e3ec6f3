"""YAML of strangers: everything that can be wrong is one line, and bombs of aliases end at once."""

import time

import pytest

from pi05_progress.files.yaml_text import YamlError, compose_yaml, load_yaml
from pi05_progress.robots.profile import RobotProfile
from pi05_progress_ros.starting.processes import file_parameters

LETTERS = list(zip("abcdefghi", "bcdefghij", strict=True))
BOMB = "a: &a [x, x, x]\n" + "".join(f"{c}: &{c} [{', '.join(['*' + p] * 9)}]\n" for p, c in LETTERS)
MERGING = "a: &a {x: 1}\n" + "".join(f"{c}: &{c} {{<<: [{', '.join(['*' + p] * 9)}]}}\n" for p, c in LETTERS)
WRONG = {
    "bomb of aliases": (BOMB, "aliases stand for far too many values"),
    "bomb of merges": (MERGING, "aliases stand for far too many values"),
    "alias of itself": ("name: &a [*a]", "an alias means the value that it is in"),
    "nested": ("name: " + "[" * 600, "too deeply nested"),
    "no date": ("name: 2026-13-45", "month must be in 1..12"),
    "no integer": ("name: !!int x", "invalid literal"),
    "Python": ("name: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
    "key of a list": ("? [a]\n: b", "found unhashable key"),
    "tab": ("\tname: b", "cannot start any token"),
    "control character": ("name: \x1b", "special characters are not allowed"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_read_is_one_line_within_a_second_wherever_it_is_read(tmp_path, name):
    text, message = WRONG[name]
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    started = time.process_time()
    for read in (
        lambda: load_yaml(text),
        lambda: RobotProfile.load(file),
        lambda: file_parameters(str(file), "/policy_node", ("checkpoint",)),
    ):
        with pytest.raises(ValueError, match=message) as error:
            read()
        assert str(error.value).isprintable()
    assert time.process_time() - started < 3, "a second each"


def test_aliases_and_merges_as_people_use_them_are_read():
    text = "a: &a {x: 1, y: [1, 2]}\nb: {<<: *a, y: 3}\nc: [*a, *a]"
    assert load_yaml(text)["b"] == {"x": 1, "y": 3}
    assert compose_yaml(text).start_mark.line == 0
    assert load_yaml("") is None
    assert len(load_yaml("[" + "x, " * 20_000 + "]")) == 20_000


def test_an_error_knows_its_line():
    with pytest.raises(YamlError) as error:
        load_yaml("a: 1\nb: [")
    assert error.value.line == 2
