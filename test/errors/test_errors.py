"""What a user can mend is told in one line by every program, and everything else with a traceback."""

import pytest

from pi05_progress.errors import UsageError, UserError, run_program


def raising(error):
    def program():
        raise error

    return program


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("a.yaml: line 3: no such robot; known: x"), 1, "error: a.yaml: line 3: no such robot; known: x\n"),
        (UsageError("--config=RECIPE is missing"), 2, "error: --config=RECIPE is missing\n"),
        (OSError(28, "No space left on device", "/out"), 1, "error: /out: No space left on device; all else is kept\n"),
        (OSError("no number"), 1, "error: no number; all else is kept\n"),
        (KeyboardInterrupt(), 130, "stopped; the same command goes on\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_it_is_told_in_one_line(capsys, error, status, said):
    stopped = "stopped; the same command goes on"
    assert run_program(raising(error), kept="all else is kept", stopped=stopped) == status
    assert capsys.readouterr().err == said


def test_the_program_says_its_name_and_its_status(capsys):
    assert run_program(raising(UserError("nothing there")), name="recorder") == 1
    assert capsys.readouterr().err == "recorder: nothing there\n"
    assert run_program(lambda: 75) == 75
    assert run_program(lambda: None) == 0


@pytest.mark.parametrize("error", [ValueError("a bug"), RuntimeError("a bug")])
def test_a_mistake_of_ours_is_not_hidden(error):
    with pytest.raises(type(error), match="a bug"):
        run_program(raising(error))
