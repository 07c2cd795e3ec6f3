"""The monitor over DDS, in front of a made-up policy node; as a program, in a real pseudo-terminal, too."""

import codecs
import fcntl
import io
import math
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time

import numpy as np
import pytest
import yaml
from conftest import PATIENCE_S, wait_for
from diagnostic_msgs.msg import DiagnosticArray
from monitor_messages import BAD, GOOD, UNKNOWN, progress, words

from pi05_progress_msgs.msg import TaskProgress
from pi05_progress_ros.monitor import Monitor, main, show

MODULE = "pi05_progress_ros.monitor"
ENTER, LEAVE, SHOW_CURSOR, HIDE_CURSOR = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h", "\x1b[?25l"


class FakeNode:
    """Publishes ``message`` and ``statuses`` at 20 Hz, in a thread of its own, until it is closed."""

    def __init__(self, ros, namespace="", message=None, statuses=GOOD):
        self.message, self.statuses = progress() if message is None else message, statuses
        self.node = ros.create_node("policy_node", namespace=namespace)
        self.publisher = self.node.create_publisher(TaskProgress, "task_progress", 10)
        self.diagnostics = self.node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.silent, self.ended = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.ended.wait(0.05):
            if not self.silent.is_set():
                self.publisher.publish(self.message)
                self.diagnostics.publish(DiagnosticArray(status=self.statuses))

    def close(self):
        self.ended.set()
        self.thread.join()
        self.node.destroy_node()


@pytest.fixture
def node(ros):
    made = []

    def make(*args, **kwargs):
        made.append(FakeNode(ros, *args, **kwargs))
        return made[-1]

    yield make
    for each in made:
        each.close()


def without_size(environ):
    """Without the size of another terminal, which goes before that of its own; pytest's workers are given one."""
    return {name: value for name, value in environ.items() if name not in ("COLUMNS", "LINES")}


class Terminal:
    """The program in a pseudo-terminal of its own session, where Ctrl-C is a key."""

    def __init__(self, *arguments, size=(80, 24), **environ):
        self.master, self.slave = pty.openpty()
        self.resize(*size)
        self.before = termios.tcgetattr(self.slave)
        self.output, self.lock = "", threading.Lock()
        command = [sys.executable, "-m", MODULE, *arguments]
        self.process = subprocess.Popen(
            command, stdin=self.slave, stdout=self.slave, stderr=self.slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={**without_size(os.environ), "TERM": "xterm-256color", "LANG": "C.UTF-8", **environ},
        )  # fmt: skip
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        decoder = codecs.getincrementaldecoder("utf-8")()  # what is read may end within a character
        while True:
            try:
                data = os.read(self.master, 65536)
            except OSError:
                return
            with self.lock:
                self.output += decoder.decode(data)

    def resize(self, columns, rows):
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def screen(self):
        """The last complete picture, without colours: pictures start by moving the cursor home."""
        pictures = self.output.split("\x1b[H")
        picture = pictures[-2] if len(pictures) > 2 else ""
        return [row.rstrip() for row in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", picture).splitlines()]

    def until(self, text):
        """The first picture with the text."""
        return self.until_it(lambda screen: text in words("\n".join(screen)), text)

    def until_it(self, fits, what):
        """The first picture that fits."""
        screen = []

        def found():
            assert self.process.poll() is None, self.output
            screen[:] = self.screen()
            return fits(screen)

        try:
            wait_for(found, what=what)
        except AssertionError as error:
            raise AssertionError(f"{error}; the screen was:\n" + "\n".join(screen)) from None
        return screen

    def key(self, key):
        os.write(self.master, key.encode())

    def end(self):
        """Wait for the program; how the terminal was left must be how it was found."""
        status = self.process.wait(PATIENCE_S)
        assert termios.tcgetattr(self.slave) == self.before
        wait_for(lambda: self.output.count(ENTER) == self.output.count(LEAVE), what="the screen that was there before")
        wait_for(lambda: self.output.rfind(SHOW_CURSOR) >= self.output.rfind(HIDE_CURSOR), what="the cursor")
        return status


@pytest.fixture
def terminal():
    made = []

    def make(*arguments, **more):
        made.append(Terminal(*arguments, **more))
        return made[-1]

    yield make
    for each in made:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()
        os.close(each.master)
        os.close(each.slave)


def test_once_prints_the_message_as_yaml(node, capsys):
    sent = progress(remaining_s=(48, 40, 60), task="stapel die Würfel", stage="place", rate=math.nan)
    sent.header.stamp.nanosec = 123456789
    node(message=sent)
    assert main(["--once"]) == 0
    text = capsys.readouterr().out
    assert text.endswith("observation_age_ms: 85.0\nreason: ''\n---\n")
    found = yaml.safe_load(text.removesuffix("---\n"))
    for name in TaskProgress.get_fields_and_field_types():
        value = getattr(sent, name)
        if name == "header":
            assert found[name] == {"stamp": {"sec": 100, "nanosec": 123456789}, "frame_id": ""}
        elif name.startswith("time_remaining") and name != "time_remaining_valid":
            assert found[name] == {"sec": value.sec, "nanosec": value.nanosec}
        elif isinstance(value, float) and math.isnan(value):
            assert math.isnan(found[name])
        elif isinstance(value, float):
            assert found[name] == float(np.float32(value)), "the number that was sent, not a rounded one"
        else:
            assert found[name] == value, name


def test_once_says_what_to_look_at_when_nothing_comes(ros, capsys):
    assert main(["--once", "--timeout", "0.6"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search("nothing received for [1-9] s on /task_progress: is the node running, with the same", err)
    assert f"ROS_DOMAIN_ID={os.environ['ROS_DOMAIN_ID']}" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--namespace", "/robot1"],
        ["--topic", "/robot1/task_progress"],
        ["--ros-args", "-r", "__ns:=/robot1"],
        ["--ros-args", "-r", "task_progress:=robot1/task_progress"],
    ],
    ids=str,
)
def test_the_topic_can_be_in_a_namespace(node, capsys, arguments):
    node("", message=progress(task="not this one"))
    node("/robot1")
    assert main(["--once", *arguments]) == 0
    assert yaml.safe_load(capsys.readouterr().out.removesuffix("---\n"))["task"] == "stack the cubes"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--rate", "0"], "0 is not a positive number"),
        (["--topic", "no spaces please"], "Invalid topic name"),
        (["--namespace", "1st"], "1st"),
        (["--ros-args", "-r", "nonsense"], "nonsense"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named(ros, capsys, arguments, text):
    try:
        status = main(arguments)
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert text in capsys.readouterr().err


def test_the_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for option in (
        "--once",
        "--timeout",
        "--topic",
        "--namespace",
        "--rate",
        "--seconds",
        "--plain",
        "--ascii",
        "--svg",
    ):
        assert option in text


def test_it_can_be_shown_by_another_program(ros, node):
    node(statuses=BAD)
    spun, out = ros.create_node("demo"), io.StringIO()
    monitor = Monitor(spun)

    def stopped():
        return out.getvalue().count("ERROR") >= 3

    show(monitor, lambda s: ros.spin_once(spun, timeout_sec=s), stopped, seconds=PATIENCE_S, rate_hz=5, out=out)
    lines = out.getvalue().splitlines()
    assert "ADVANCING 42.0 %" in lines[-1]
    assert "ERROR head_camera (/head/image_raw): nothing for more than 0.5 s" in lines[-1]
    assert monitor.seen.publishers == ("policy_node",)
    assert monitor.seen.message.task == "stack the cubes"
    spun.destroy_node()


def test_piped_it_prints_a_line_a_second_and_ends_with_ctrl_c(node, start):
    node()
    process = start(MODULE)
    wait_for(lambda: process.log().count("ADVANCING 42.0 %") >= 3, what="three lines")
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 0
    assert "Traceback" not in process.log()
    assert "\x1b" not in process.log()


def test_a_closed_pipe_is_no_error(node):
    node()
    command = [sys.executable, "-m", MODULE, "--rate", "20"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(PATIENCE_S) == 0
    assert process.stderr.read() == b""


def test_the_screen_follows_the_node_and_is_put_back_by_q(node, terminal):
    fake = node()
    window = terminal()
    screen = window.until("status ADVANCING progress is rising")
    assert len(screen) == 24
    assert any("█" in row and "42.0 %" in row for row in screen)
    fake.message, fake.statuses = progress(status=0, **UNKNOWN), BAD
    window.until("status UNKNOWN heartbeat, no estimate: head_camera (/head/image_raw): nothing for more than 0.5 s")
    window.resize(40, 12)
    window.until_it(lambda screen: len(screen) == 12, "a smaller picture")
    assert max(map(len, window.screen())) <= 40
    fake.silent.set()
    window.until("LOST (was UNKNOWN)")
    window.key("q")
    assert window.end() == 0


def test_ctrl_c_in_a_terminal_puts_it_back(node, terminal):
    node(message=progress(task="stapel 红色"))
    window = terminal(LC_ALL="C", size=(120, 40))
    assert all(row.isascii() for row in window.until("ADVANCING"))
    window.key("\x03")
    assert window.end() == 0
    assert "Traceback" not in window.output


def test_a_dumb_terminal_gets_lines(node, terminal):
    node()
    window = terminal("--rate", "5", TERM="dumb")
    wait_for(lambda: "ADVANCING 42.0 % | 90 % interval" in window.output, what="a line")
    window.key("q")
    assert window.end() == 0
    assert "\x1b" not in window.output


def test_termination_puts_the_terminal_back(node, terminal):
    node()
    window = terminal("--ascii")
    window.until("ADVANCING")
    window.process.terminate()
    assert window.end() == 0


def test_the_last_picture_can_be_saved(node, tmp_path, capsys):
    node()
    path = tmp_path / "monitor.svg"

    def saved():
        started = time.monotonic()
        assert main(["--seconds", "2", "--plain", "--svg", str(path)]) == 0
        assert time.monotonic() - started >= 2
        return "ADVANCING" in path.read_text()

    wait_for(saved, what="a picture with what the node says")
