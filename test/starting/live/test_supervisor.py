"""Starting and ending, with small programs in the place of nodes; and that nothing is left running."""

import os
import signal
import sys

import pytest
from conftest import PATIENCE_S, wait_for
from marked_runs import left_running, marked_runs

from pi05_progress_ros.run import supervise
from pi05_progress_ros.starting.processes import Process
from pi05_progress_ros.starting.supervisor import Supervisor


@pytest.fixture
def run(tmp_path):
    with marked_runs(tmp_path) as start:
        yield start


STUBBORN = (
    "import signal, subprocess, sys, time\n"
    "for s in (signal.SIGINT, signal.SIGTERM): signal.signal(s, signal.SIG_IGN)\n"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])\n"
    "print('up', flush=True)\n"
    "time.sleep(300)"
)
SUPERVISED = """
import sys
from pi05_progress_ros.starting.processes import Process
from pi05_progress_ros.run import supervise
codes = enumerate(sys.argv[1:])
sys.exit(supervise([Process(f"p{i}", command=(sys.executable, "-c", code)) for i, code in codes]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_asked_to_end_it_ends_everything(run, number):
    started = run(
        "-c", SUPERVISED, "import time; print('up', flush=True); time.sleep(300)", "import time; time.sleep(300)"
    )
    started.until("up")
    started.popen.send_signal(number)
    assert started.popen.wait(PATIENCE_S) == 0
    assert left_running(started.mark) == []


def test_killed_it_leaves_nothing_running_even_if_that_does_not_listen(run):
    started = run("-c", SUPERVISED, STUBBORN, "import time; print('second', flush=True); time.sleep(300)")
    started.until("up")
    started.until("second")  # by then the watchdog knows both
    assert len(left_running(started.mark)) == 5, "itself, its watchdog, two programs and the child of one"
    started.popen.kill()
    started.popen.wait()
    wait_for(lambda: left_running(started.mark) == [], what="the end of everything")


def test_killed_by_the_very_program_that_it_starts_it_leaves_nothing_running(run):
    code = "import os, signal, time; print('up', flush=True); os.kill(os.getppid(), signal.SIGKILL); time.sleep(300)"
    slow = "import pi05_progress_ros.starting.supervisor as s, subprocess, time; real = subprocess.Popen\n"
    slow += "def late(*a, **k):\n    made = real(*a, **k)\n    time.sleep(1.0)\n    return made\n"
    slow += "s.subprocess.Popen = late\n"  # long enough for the program to kill it before it goes on
    started = run("-c", slow + SUPERVISED, code)
    wait_for(lambda: "up" in started.text(), what="the program")
    started.popen.wait(PATIENCE_S)
    wait_for(lambda: left_running(started.mark) == [], what="the end of everything")


def test_a_program_that_does_not_listen_is_killed_with_its_children(run):
    hurried = "import pi05_progress_ros.starting.supervisor as s; s.PATIENCE = ((2, 1), (15, 1), (9, 1))" + SUPERVISED
    started = run("-c", hurried, STUBBORN)
    started.until("up")
    started.popen.send_signal(signal.SIGINT)
    assert started.popen.wait(PATIENCE_S) == 0
    assert left_running(started.mark) == []


def test_the_end_of_a_required_program_ends_the_others_and_is_said(run):
    started = run("-c", SUPERVISED, "import time; time.sleep(300)", "import sys; sys.exit(3)")
    assert started.popen.wait(PATIENCE_S) == 1
    assert "p1 has ended with exit status 3" in started.text()
    assert left_running(started.mark) == []


def test_others_go_on_without_a_program_that_is_not_required(run, tmp_path):
    code = SUPERVISED.replace("code)) for", "code), required=i == 0) for")
    working = f"import pathlib, time\nwhile not pathlib.Path({str(tmp_path / 'go on')!r}).exists(): time.sleep(0.02)"
    started = run("-c", code, f"{working}\nprint('worked on')", "import sys; sys.exit(3)")
    started.until("p1 has ended with exit status 3")
    (tmp_path / "go on").touch()
    assert started.popen.wait(PATIENCE_S) == 1
    assert "worked on" in started.text()


def test_a_program_that_is_to_respawn_is_started_again_with_nothing_left_of_it(run, tmp_path):
    once = tmp_path / "once"
    code = f"import pathlib, subprocess, sys, time\nonce = pathlib.Path({str(once)!r})\nif not once.exists():\n"
    code += "    once.touch(); subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)']); sys.exit(3)\n"
    code += "print('up again', flush=True); time.sleep(300)"
    hurried = "import pi05_progress_ros.run as r; r.RESPAWN_S = 0.1" + SUPERVISED
    started = run("-c", hurried.replace("code)) for", "code), respawn=True) for"), code)
    started.until("up again")
    assert "p0 has ended with exit status 3, and is started again" in started.text()
    assert len(left_running(started.mark)) == 3, "itself, its watchdog, the program"
    started.popen.send_signal(signal.SIGINT)
    assert started.popen.wait(PATIENCE_S) == 0
    assert left_running(started.mark) == []


def test_a_program_that_is_not_there_is_named_and_the_others_end(capfd):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    sleeping = Process("sleeper", command=(sys.executable, "-c", "import time; time.sleep(300)"))
    try:
        assert supervise([sleeping, Process("recorder", command=("no_such_program",))]) == 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert "recorder cannot be started" in capfd.readouterr().err


def test_the_last_words_of_a_program_are_kept(tmp_path):
    code = "import sys; print('\\n'.join(map(str, range(100)))); sys.exit('no table')"
    with Supervisor(os.environ, tmp_path) as supervisor:
        child = supervisor.start(Process("robot", command=(sys.executable, "-c", code)))
        wait_for(supervisor.ended, what="its end")
        assert child.how_it_ended() == "exit status 1"
        assert "98\n    99\n    no table\n" in child.last_words()
        assert "    80\n" not in child.last_words()
        assert str(tmp_path / "robot.log") in child.last_words()
