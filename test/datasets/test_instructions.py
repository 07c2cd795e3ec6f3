"""The file of other wordings and of instructions that are to be refused."""

import pytest

from pi05_progress.errors import UserError
from pi05_progress.files.config_files import config_file
from pi05_progress_ros.sim.physics.tasks import TASKS
from training.datasets.instructions import Instructions

STACK = """
tasks:
  - says: ["put {a} on {b}", "{b} below, {a} above"]
    paraphrases: ["set {a} on {b}", "{a} goes on {b}", "on {b} comes {a}"]
    refused: ["put {b} on {a}", "take {a} off {b}", "fold a towel"]
rules:
  says: ["{instruction}"]
  paraphrases: ["please {instruction}"]
  refused: ["never {instruction}", x, "undo: {instruction}"]
"""


@pytest.fixture
def load(tmp_path):
    def load(text):
        (tmp_path / "i.yaml").write_text(text, encoding="utf-8")
        return Instructions.load(tmp_path / "i.yaml")

    return load


def test_words_of_the_instruction_are_filled_in_and_every_third_wording_only_judges(load):
    teaching, judging = (load(STACK).variants("put red on green", judging) for judging in (False, True))
    assert teaching.paraphrases == ("set red on green", "red goes on green", "please put red on green",
                                    "green below, red above")  # fmt: skip
    assert judging.paraphrases == ("on green comes red",)
    assert teaching.refused == ("put green on red", "take red off green", "never put red on green", "x")
    assert judging.refused == ("fold a towel", "undo: put red on green")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (STACK, "'lift red': no task of the file"),
        (STACK.replace("set {a}", "set {c}"), "braces around 'c' mean nothing"),
        (STACK.replace("refused", "refuse"), "refuse: unknown key"),
        ("tasks: [", "cannot be read"),
    ],
)
def test_what_is_wrong_is_said(load, text, said):
    with pytest.raises(UserError, match=said):
        load(text).variants("lift red" if text == STACK else "put red on green", False)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_file_that_is_shipped_knows_all_that_the_simulation_says(task):
    instructions = Instructions.load(config_file("instructions.yaml"))
    for said in task.wordings:
        given = said.format(first="purple block", second="yellow block")
        for judging in (False, True):
            paraphrases, refused = instructions.variants(given, judging)
            assert len(paraphrases) >= 3 and len(refused) >= 5
            assert given not in {*paraphrases, *refused} and not set(paraphrases) & set(refused)
