"""What the monitor draws, from messages to lines of text; without ROS running."""

import math
import random
from xml.etree import ElementTree

import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticStatus
from monitor_messages import BAD, GOOD, NAN, STALE, UNKNOWN, diagnostic, progress, words
from rich.cells import cell_len
from rich.console import Console

from pi05_progress_msgs.msg import ActionChunk, TaskProgress
from pi05_progress_ros.monitor import message_yaml
from pi05_progress_ros.monitoring.charts import ASCII, UNICODE, bar, columns, duration, plot
from pi05_progress_ros.monitoring.screen import STATUSES, line, view
from pi05_progress_ros.monitoring.seen import HISTORY_S, Seen
from pi05_progress_ros.monitoring.terminal import pick_charset, save_svg


def seen(message=None, statuses=GOOD, now_s=10.0, **fields):
    state = Seen(publishers=("policy_node",), **fields)
    state.take_diagnostics(statuses, now_s)
    if message is not None:
        state.take_progress(message, now_s)
    return state


def drawn(state, now_s=10.1, width=80, height=40, charset=UNICODE):
    return "\n".join(text.plain for text in view(state, now_s, width, height, charset))


def styles(state, now_s=10.1):
    """Style by piece of text, as it is drawn."""
    console = Console(color_system="truecolor", force_terminal=True)
    pieces = [segment for text in view(state, now_s, 80, 40, UNICODE) for segment in text.render(console)]
    return {segment.text.strip(): segment.style for segment in pieces if segment.text.strip()}


def test_everything_a_person_asks_for_is_on_the_screen():
    text = drawn(seen(progress(remaining_s=(48, 40, 60), stage="place", stage_index=1, stage_count=3)))
    for expected in (
        "/task_progress", "from policy_node", "domain 0", "stack the cubes", "ADVANCING  progress is rising", "42.0 %",
        "90 % interval 35.1 .. 48.9 %", "raw 43.1 %", "filtered 42.0 %", "rate +1.20 %/s",
        "remaining 48 s (40 s .. 1 min 00 s)", "success probability 3.0 %", "stage 2 of 3: place", "run-7",
        "inference 61 ms", "observation 0.19 s old", "when published 85 ms", "off (publish_commands is false)",
        "120 inferences, 0 failures", "3 frames skipped", "✓ head_camera    29.9 Hz  0.01 s",
        "! right_gripper   0.0 Hz     - s", "warning: absent; its values are taken as 0", "last 60 s",
    ):  # fmt: skip
        assert expected in text or expected in words(text), f"{expected}\n{text}"


@pytest.mark.parametrize(("status", "reason"), [(5, "no progress for 12 s"), (0, "unlike the data")])
def test_why_it_failed_or_cannot_know_is_said(status, reason):
    state = seen(progress(status=status, reason=reason))
    assert f"{STATUSES[status][0]} {reason}" in words(drawn(state))
    assert f"({reason})" in line(state, 10.1, UNICODE)


@pytest.mark.parametrize("charset", [UNICODE, ASCII], ids=["unicode", "ascii"])
@pytest.mark.parametrize("status", [*STATUSES, 77])
@pytest.mark.parametrize("width", [1, 20, 40, 57, 80, 120, 200])
def test_every_status_fits_every_width(width, status, charset):
    long = "pick up the 红色 cube\x1b[2J and put it, très doucement,\ninto the basket " * 4
    for state in (
        seen(progress(status=status, task=long, stage=long, stage_index=3, model_id=long), BAD),
        seen(progress(status=status, **{**UNKNOWN, "task": ""})),
        seen(statuses=[]),
    ):
        for now_s in (10.1, 500.0):
            lines = [text.plain for text in view(state, now_s, width, 24, charset)]
            assert len(lines) <= 24
            assert max(map(cell_len, lines)) <= width
            assert all(c.isprintable() for text in lines for c in text)
            assert charset is UNICODE or all(text.isascii() for text in lines)
    if width >= 40 and status in STATUSES:
        text = drawn(seen(progress(status=status)), width=width, charset=charset)
        assert STATUSES[status][0] in text


def test_any_numbers_in_a_message_can_be_drawn():
    numbers = random.Random(0)
    for _ in range(200):
        values = {name: numbers.choice([NAN, 0.0, 1.0, -3.0, 1e9, math.inf, numbers.random()]) for name in UNKNOWN}
        state = seen(progress(status=numbers.randrange(7), **values), numbers.choice([GOOD, BAD, []]))
        width, height = numbers.randrange(1, 201), numbers.randrange(1, 60)
        lines = view(state, 10.0 + 200 * numbers.random(), width, height, numbers.choice([UNICODE, ASCII]))
        assert 0 < len(lines) <= height
        assert max(cell_len(text.plain) for text in lines) <= width
        line(state, 10.1, ASCII)


def test_the_statuses_are_those_of_the_message():
    constants = {getattr(TaskProgress, name): name for name, _, _ in STATUSES.values()}
    assert constants == {number: name for number, (name, _, _) in STATUSES.items()}


def test_unknown_numbers_are_dashes_and_never_nan():
    state = seen(progress(status=0, **UNKNOWN))
    assert "nan" not in drawn(state).lower()
    assert "nan" not in line(state, 10.1, UNICODE).lower().replace("unknown", "")
    assert "raw -" in drawn(state)
    assert "interval" not in drawn(state)


def test_colours_tell_labels_numbers_and_states_apart():
    drawn_with = styles(seen(progress(), BAD))
    assert drawn_with["progress"].color.name == "cyan"
    assert drawn_with["rate"].dim
    for plain in ("+1.20 %/s", "43.1 %", "progress is rising", "run-7", "61 ms"):
        assert drawn_with[plain].color is None and not drawn_with[plain].dim, plain
    assert drawn_with["ADVANCING"].color.name == "green" and drawn_with["ADVANCING"].bold
    assert drawn_with["✗"].color.name == "red"
    assert drawn_with["!"].color.name == "yellow"
    assert styles(seen(progress(status=5)))["FAILED"].color.name == "red"
    assert drawn_with["ERROR: nothing for more than 0.5 s"].color.name == "red"


def test_an_untrained_model_is_said_to_mean_nothing_and_its_raw_belief_is_drawn():
    fields = {**UNKNOWN, "progress_raw": 0.5, "inference_ms": 60.0, "observation_age_ms": 70.0}
    text = drawn(seen(progress(status=0, model_id="untrained", **fields)))
    assert "status    UNKNOWN  no estimate: the model is untrained" in text
    assert "model     untrained: progress_raw means nothing" in text
    assert "raw only" in text


def test_a_heartbeat_says_why_there_is_no_estimate():
    state = seen(progress(status=0, **UNKNOWN), BAD)
    assert f"UNKNOWN heartbeat, no estimate: {STALE}" in words(drawn(state))
    assert "✗ head_camera    29.9 Hz  2.11 s  ERROR: nothing for more than 0.5 s" in drawn(state)
    assert "waiting" not in drawn(state), "once is enough"
    assert "raw only" not in drawn(state)
    assert f"UNKNOWN (heartbeat, no estimate: {STALE})" in line(state, 10.1, UNICODE)


def test_nothing_received_names_the_domain_and_whether_a_publisher_is_there():
    state = Seen(domain=42, discovery="LOCALHOST")
    assert "waiting for /task_progress" in drawn(state, 0.5)
    text = words(drawn(state, 7.0, width=60))
    assert "nothing received for 7 s on /task_progress: is the node running, with the same ROS_DOMAIN_ID=42" in text
    assert "ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST" in text
    state.take_publishers(["/robot/policy_node"])
    assert "its publisher is there (robot/policy_node): is that node active, stuck, or killed?" in words(
        drawn(state, 7.0)
    )


def test_a_node_that_falls_silent_is_lost_and_its_last_status_is_not_shown_as_present():
    state = seen(progress())
    assert "LOST" not in drawn(state, 12.4)
    text = words(drawn(state, 16.0))
    assert "LOST (was ADVANCING): nothing received for 6 s" in text
    assert "the diagnostics below are 6 s old" in text
    assert "progress is rising" not in text
    assert line(state, 16.0, UNICODE).startswith("LOST: nothing received for 6 s")


def test_the_age_of_the_observation_grows_through_heartbeats_about_it():
    state = seen(progress(stamp_s=100))
    assert state.observation_age_s(10.5) == pytest.approx(0.585)
    state.take_progress(progress(stamp_s=100, status=0, **UNKNOWN), 11.0)
    assert state.observation_age_s(12.0) == pytest.approx(2.085)
    state.take_progress(progress(stamp_s=103, status=0, **UNKNOWN), 13.0)
    assert state.observation_age_s(13.0) is None
    assert "observation age unknown" in drawn(state, 13.0)


def test_the_rate_is_that_of_the_last_seconds():
    state = Seen()
    for tick in range(300):
        state.take_progress(progress(), tick / 30)
    assert state.rate_hz(10.0) == pytest.approx(30, rel=0.01)
    assert state.rate_hz(20.0) == 0.0


def test_diagnostics_of_other_nodes_are_left_out():
    other = [
        diagnostic("input head_camera", b"\2", "head_camera of another robot", node="other/policy_node"),
        DiagnosticStatus(name="battery: cell 1", level=b"\2", message="flat"),
    ]
    state = seen(progress(), [*GOOD, *other])
    state.take_diagnostics(other, 10.05)
    assert "another robot" not in drawn(state)
    assert "flat" not in drawn(state)
    assert not [report for _, report in state.problems() if report.level > 1]


def test_two_nodes_that_publish_the_same_are_warned_about():
    state = seen(progress())
    state.take_publishers(["/policy_node", "/old/policy_node"])
    assert "2 nodes publish this: old/policy_node, policy_node" in words(drawn(state))


@pytest.mark.parametrize(
    ("level", "message"), [(b"\1", "holding still: the robot is in teleoperation mode"), (b"\0", "commanding")]
)
def test_the_state_of_commands_is_shown(level, message):
    state = seen(progress(), [diagnostic("commands", level, message)])
    assert f"commands  {message}" in drawn(state)
    assert f"commands {message}" in line(state, 10.1, UNICODE)


def test_a_window_too_small_says_what_is_missing_and_a_large_one_has_air():
    full = drawn(seen(progress()), height=100).splitlines()
    small = drawn(seen(progress()), height=8).splitlines()
    assert len(small) == 8
    assert "more lines: enlarge the window" in small[-1]
    assert "" in full
    assert "status" in small[2]


def test_what_is_wrong_is_not_what_a_small_window_cuts_off():
    inputs = [diagnostic(f"input camera_{i}", rate_hz="30", age_s="0.01") for i in range(5)]
    inputs.append(diagnostic("input left_arm", b"\2", "left_arm is gone", rate_hz="0", age_s="9"))
    text = drawn(seen(progress(), inputs), width=80, height=12)
    assert "ERROR: is gone" in text
    assert "more lines" in text
    assert "last 60 s" not in text


def test_a_line_for_logs_holds_what_matters():
    state = seen(progress(remaining_s=(48, 40, 60)), BAD)
    text = line(state, 10.1, UNICODE)
    for part in ("ADVANCING 42.0 %", "90 % interval 35.1 .. 48.9 %", "raw 43.1 %", "rate +1.20 %/s", "remaining 48 s"):
        assert part in text
    assert text.endswith(f"ERROR {STALE}")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("value", "lower", "upper", "expected"),
    [
        (0.5, 0.3, 0.7, "###==--..."),
        (0.0, 0.0, 0.2, "--........"),
        (1.0, 0.8, 1.0, "########=="),
        (0.5, NAN, NAN, "#####....."),
        (0.5, 0.6, 0.4, "#####....."),
        (7.0, -1.0, 9.0, "=========="),
        (NAN, 0.2, 0.4, ".........."),
    ],
)
def test_the_bar_marks_the_interval(value, lower, upper, expected):
    assert bar(value, lower, upper, 10, ASCII, "").plain == expected


def test_the_plot_shows_zero_and_leaves_the_unknown_empty():
    assert plot([0.0, 0.5, 1.0, NAN], 1, UNICODE) == ["▁▄█ "]
    assert plot([0.0, 0.5, 1.0, NAN], 2, UNICODE) == ["  █ ", "▁██ "]
    assert plot([0.0, 0.5, 1.0, 2.0, NAN], 1, ASCII) == [".:|| "]


def test_history_keeps_a_minute_and_its_known_values():
    state = Seen()
    for tick in range(3000):
        state.take_progress(progress(progress=NAN if tick % 3 else tick / 3000), tick / 30)
    assert len(state.history) <= 242
    assert state.history[0].time_s >= 100 - HISTORY_S - 1
    times, values = zip(*((m.time_s, m.progress) for m in state.history), strict=True)
    found = columns(times, values, 100.0, HISTORY_S, 10)
    assert found == sorted(found)
    assert all(map(math.isfinite, found))
    assert not any(map(math.isnan, columns(times, values, times[-1], HISTORY_S, 120))), "no holes"
    assert columns([5.0], [0.5], 100.0, 60.0, 3)[0] != 0.5


def test_history_is_held_between_messages_but_not_through_a_heartbeat_or_a_silence():
    times, values = [10.5, 13.5, 15.5, 16.5], [0.1, 0.2, NAN, 0.3]
    found = columns(times, values, 19.5, 10.0, 10, hold_s=2.0)
    assert found == pytest.approx([0.1, 0.1, 0.1, 0.2, 0.2, NAN, 0.3, 0.3, 0.3, NAN], nan_ok=True)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3900, "1 h 05 min"), (NAN, "-")],
)
def test_durations_read_naturally(seconds, text):
    assert duration(seconds) == text


class Out:
    def __init__(self, encoding):
        self.encoding = encoding


@pytest.mark.parametrize(
    ("encoding", "environ", "expected"),
    [
        ("utf-8", {"TERM": "xterm", "LANG": "de_DE.UTF-8"}, UNICODE),
        ("UTF8", {}, UNICODE),
        ("iso8859-1", {"TERM": "xterm"}, ASCII),
        ("ascii", {}, ASCII),
        (None, {}, ASCII),
        ("utf-8", {"TERM": "dumb"}, ASCII),
        ("utf-8", {"LC_ALL": "C"}, ASCII),
        ("utf-8", {"LC_CTYPE": "C.UTF-8", "LANG": "C"}, UNICODE),
    ],
)
def test_ascii_is_drawn_where_the_terminal_needs_it(encoding, environ, expected):
    assert pick_charset(Out(encoding), environ) is expected
    assert pick_charset(Out(encoding), environ, force_ascii=True) is ASCII


def test_a_message_as_yaml_has_its_fields_in_order_and_exactly():
    message = progress(rate=NAN, task="wörter: [und] #zeichen", stage="")
    message.header.stamp.nanosec = 5
    text = message_yaml(message)
    found = yaml.safe_load(text)
    assert list(found) == list(TaskProgress.get_fields_and_field_types())
    assert found["header"] == {"stamp": {"sec": 100, "nanosec": 5}, "frame_id": ""}
    assert (found["task"], found["progress"], found["stage"]) == (message.task, message.progress, "")
    assert math.isnan(found["rate"])
    assert "rate: .nan\n" in text
    assert text.startswith(
        "header:\n  stamp:\n    sec: 100\n    nanosec: 5\n  frame_id: ''\ntask: 'wörter: [und] #zeichen'\n"
    )


def test_arrays_become_lists_in_yaml():
    chunk = ActionChunk(names=["a", "b"], values=[0.5, -1.0], horizon=1)
    found = yaml.safe_load(message_yaml(chunk))
    assert (found["names"], found["values"], found["horizon"]) == (["a", "b"], [0.5, -1.0], 1)


def test_a_picture_needs_nothing_from_the_network(tmp_path):
    path = tmp_path / "monitor.svg"
    save_svg(view(seen(progress()), 10.1, 100, 40, UNICODE), path, "a title")
    text = path.read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert "ADVANCING" in text
    assert "url(http" not in text.replace('"', "")
    assert text.count("http") == text.count("http://www.w3.org/2000/svg")
    assert [p.name for p in tmp_path.iterdir()] == ["monitor.svg"]
