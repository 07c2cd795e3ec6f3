"""What the monitor shows: from what was seen to lines of text, for a screen or for a log."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text

from pi05_progress.observation import UNTRAINED

from .charts import Charset, bar, columns, cut, duration, flow, known, percent, plot, wrapped
from .seen import ERROR, HISTORY_S, OK, Report, Seen

LABEL = 10  # cells
UNTRAINED_TEXT = "untrained: progress_raw means nothing"
STATUSES = {  # of TaskProgress: name, words, style
    0: ("UNKNOWN", "no estimate", "bold yellow"),
    1: ("ADVANCING", "progress is rising", "bold green"),
    2: ("STALLED", "progress stands still", "bold yellow"),
    3: ("REGRESSING", "progress is falling: work is being undone", "bold magenta"),
    4: ("SUCCEEDED", "the task is complete", "bold bright_green"),
    5: ("FAILED", "the task has failed", "bold red"),
}
LEVELS = (("ok", "green"), ("warning", "yellow"), ("ERROR", "bold red"), ("STALE", "bold red"))
HOLD_S = 1.5  # between messages: slower than one a second no node sends them
OLD_REPORTS_S = 3.0  # diagnostics come every second


def status_of(number: int) -> tuple[str, str, str]:
    """Name, words and style of a status number of ``TaskProgress``."""
    return STATUSES.get(number, (f"status {number}", "not known to this monitor", "bold red"))


def no_messages(seen: Seen, now_s: float) -> str:
    """That nothing comes, for how long, and what to look at."""
    silent = f"nothing received for {seen.silent_s(now_s):.0f} s on {seen.topic}"
    if seen.published:
        names = ", ".join(seen.publishers)
        return f"{silent}, though its publisher is there ({names}): is that node active, stuck, or killed?"
    reach = f", ROS_AUTOMATIC_DISCOVERY_RANGE={seen.discovery}" if seen.discovery else ""
    return f"{silent}: is the node running, with the same ROS_DOMAIN_ID={seen.domain}{reach}?"


def why_unknown(seen: Seen) -> str:
    """Why the newest message of status UNKNOWN holds no estimate, in words."""
    if known(seen.message.progress_raw):
        return "no estimate: the model is untrained" if seen.message.model_id == UNTRAINED else "no estimate"
    for entry, report in seen.problems():
        if entry != "commands":
            return f"heartbeat, no estimate: {report.message}"
    return "heartbeat, no estimate: inputs or policy do not deliver"


def remaining(message: object) -> str:
    """Time remaining with its interval; ``-`` if it is not known."""
    if not message.time_remaining_valid:
        return "-"
    durations = (message.time_remaining, message.time_remaining_lower, message.time_remaining_upper)
    expected, lower, upper = (duration(d.sec + 1e-9 * d.nanosec) for d in durations)
    return f"{expected} ({lower} .. {upper})"


def interval(message: object) -> str:
    """The interval around progress with its nominal probability; empty if it is not known."""
    if not (known(message.lower) and known(message.upper)):
        return ""
    level = f"{100 * message.confidence_level:.0f} % " if known(message.confidence_level) else ""
    return f"{level}interval {100 * message.lower:.1f} .. {percent(message.upper)}"


def _rate(value: float) -> str:
    return f"{100 * value:+.2f} %/s" if known(value) else "-"


def _milliseconds(value: float) -> str:
    return f"{value:.{0 if value >= 10 else 1}f} ms" if known(value) else "-"


def _stage(message: object) -> str:
    if message.stage_index < 0 and not message.stage:
        return ""
    number = f"{message.stage_index + 1}" if message.stage_index >= 0 else "?"
    count = f" of {message.stage_count}" if message.stage_count else ""
    return f"{number}{count}" + (f": {message.stage}" if message.stage else "")


class _Page:
    """Lines with a label in front, in groups."""

    def __init__(self, width: int, charset: Charset) -> None:
        self.width, self.charset = width, charset
        self.room = max(width - LABEL, 1)
        self.groups: list[list[Text]] = []

    def group(self) -> None:
        self.groups.append([])

    def add(self, label: str, lines: Iterable[Text]) -> None:
        for line in lines:
            self.groups[-1].append(self.labelled(label, line))
            label = ""

    def labelled(self, label: str, line: Text) -> Text:
        return cut(Text().append(f"{label:<{LABEL}}", "cyan").append_text(line), self.width, self.charset)

    def values(self, label: str, *parts: tuple[str, str] | str) -> None:
        """``(name, value)`` pairs and plain texts, in a flow; empty ones are left out."""
        items = []
        for part in parts:
            name, value = part if isinstance(part, tuple) else ("", part)
            if value:
                item = Text().append(f"{name} " if name else "", "dim")
                items.append(item.append(self.charset.clean(value)))
        if items:
            self.add(label, flow(items, self.room))

    def words(self, label: str, text: str, style: str = "") -> None:
        """A sentence, wrapped."""
        self.add(label, wrapped(Text(self.charset.clean(text), style=style), self.room))

    def lines(self, height: int) -> list[Text]:
        """All of it with empty lines between the groups where there is room, cut at ``height``."""
        groups = [group for group in self.groups if group]
        total = sum(map(len, groups))
        gaps = total + len(groups) - 1 <= height
        lines: list[Text] = []
        for group in groups:
            if lines and gaps:
                lines.append(Text())
            lines += group
        if len(lines) > height:
            text = f"{self.charset.more} {len(lines) - height + 1} more lines: enlarge the window"
            lines[height - 1 :] = [cut(Text(text, style="dim"), self.width, self.charset)]
        return lines


def view(seen: Seen, now_s: float, width: int, height: int, charset: Charset) -> list[Text]:
    """The screen: at most ``height`` lines, none wider than ``width`` cells."""
    page = _Page(width, charset)
    page.group()
    _header(page, seen, now_s)
    if seen.message is None:
        page.group()
        waiting = seen.silent_s(now_s) < 2.0
        page.words("status", f"waiting for {seen.topic}" if waiting else no_messages(seen, now_s), "bold yellow")
    else:
        page.group()
        _progress(page, seen, now_s)
        page.group()
        _model(page, seen, now_s)
        page.group()
        history = page.groups[-1]
    page.group()
    _diagnostics(page, seen, now_s)
    if seen.message is not None:
        history += _history(page, seen, now_s, height)
    return page.lines(height)


def _header(page: _Page, seen: Seen, now_s: float) -> None:
    items = [seen.topic, *(f"from {name}" for name in seen.publishers[:1]), f"domain {seen.domain}"]
    if seen.message is not None:
        items.append(f"{seen.rate_hz(now_s):.1f} messages/s")
    texts = [Text(page.charset.clean(item), style="bold") for item in items]
    page.groups[-1] += flow([*texts, Text("q: quit", style="dim")], page.width)
    if len(seen.publishers) > 1:
        page.words("warning", f"{len(seen.publishers)} nodes publish this: {', '.join(seen.publishers)}", "bold red")


def _progress(page: _Page, seen: Seen, now_s: float) -> None:
    message, lost = seen.message, seen.lost(now_s)
    page.words("task", message.task or "none is set", "bold" if message.task else "yellow")
    name, words, style = status_of(message.status)
    if message.status == 0:
        words = why_unknown(seen)
    words = message.reason or words
    if lost:
        page.words("status", f"LOST (was {name}): {no_messages(seen, now_s)}", "bold red")
        style = "dim"
    else:
        text = Text().append(name, style).append(f"  {page.charset.clean(words)}")
        page.add("status", wrapped(text, page.room))
    number = percent(message.progress)
    cells = max(page.room - 9, 1)
    drawn = bar(message.progress, message.lower, message.upper, cells, page.charset, style)
    page.add("progress", [drawn.append(f" {number:>8}", style=style)])
    page.values("", interval(message), ("raw", percent(message.progress_raw)), ("filtered", number))
    if known(message.progress):
        page.values("", ("rate", _rate(message.rate)), ("remaining", remaining(message)))
        page.values("", ("success probability", percent(message.success_probability)), ("stage", _stage(message)))


def _model(page: _Page, seen: Seen, now_s: float) -> None:
    message = seen.message
    untrained = message.model_id == UNTRAINED
    page.words("model", UNTRAINED_TEXT if untrained else message.model_id, "bold yellow" if untrained else "")
    age = seen.observation_age_s(now_s)
    now = "age unknown" if age is None else f"{age:.2f} s old"
    then = "" if age is None else _milliseconds(message.observation_age_ms)
    inference = ("inference", _milliseconds(message.inference_ms))
    page.values("timing", inference, ("observation", now), ("when published", then))


def _history(page: _Page, seen: Seen, now_s: float, height: int) -> list[Text]:
    """A plot as high as there is room for beside all that is on the page."""
    taken = sum(map(len, page.groups))
    spare = height - taken - len(page.groups) + 1  # with empty lines between the groups
    rows = next((rows for rows in (8, 4, 2) if rows <= spare), max(0, min(2, height - taken)))
    times = [moment.time_s for moment in seen.history]
    values = [moment.progress for moment in seen.history]
    what = "progress"
    beliefs = [moment.raw for moment in seen.history]
    if not any(map(known, values)) and any(map(known, beliefs)):
        values, what = beliefs, "raw only"
    count = min(page.room - 1, 120)
    lines = plot(columns(times, values, now_s, HISTORY_S, count, HOLD_S), rows, page.charset)
    labels = [f"last {HISTORY_S:.0f} s", what] + [""] * len(lines)
    return [page.labelled(label, Text(line, style="cyan")) for label, line in zip(labels, lines, strict=False)]


def _diagnostics(page: _Page, seen: Seen, now_s: float) -> None:
    reports = seen.reports()
    if not reports:
        page.words("inputs", "no diagnostics from the node on /diagnostics yet", "dim")
        return
    age = seen.reports_age_s(now_s) or 0.0
    if age > OLD_REPORTS_S:
        page.words("warning", f"the diagnostics below are {age:.0f} s old, none came since", "bold red")
    if report := reports.get("commands"):
        style = "yellow" if report.level else "bold green" if report.message.startswith("RUNNING") else ""
        page.words("commands", report.message, style)
    if report := reports.get("inference"):
        counts = ", ".join(f"{report.values.get(key, '-')} {key}" for key in ("inferences", "failures"))
        skipped = f"{report.values.get('frames_skipped', '-')} frames skipped"
        page.values("inference", "" if report.level else report.message, counts, skipped)
        said = any(r.level and r.message in report.message for e, r in reports.items() if e.startswith("input "))
        if report.level and not said:  # else the input says it
            page.words("", f"{_level(report)[0]}: {report.message}", _level(report)[1])
    label = "inputs"
    entries = {e.removeprefix("input "): r for e, r in reports.items() if e.startswith("input ")}
    names = min(max(map(len, entries), default=0), 20)
    # What is wrong comes first: it must not be what a small window cuts off.
    for name, report in sorted(entries.items(), key=lambda pair: pair[1].level < ERROR):
        page.add(label, _input(page, name, names, report))
        label = ""


def _level(report: Report) -> tuple[str, str]:
    return LEVELS[min(report.level, len(LEVELS) - 1)]


def _measured(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # "-": nothing has come yet
        return None


def _input(page: _Page, name: str, names: int, report: Report) -> list[Text]:
    word, style = _level(report)
    mark = page.charset.marks[min(report.level, len(LEVELS) - 1)]
    text = Text().append(f"{mark} ", style).append(f"{page.charset.clean(name):<{names}}")
    rate, age = (_measured(report.values.get(key, "")) for key in ("rate_hz", "age_s"))
    wide = page.room >= 36
    text.append(f" {'-' if rate is None else f'{rate:.1f}' if wide else f'{rate:.0f}':>{5 if wide else 3}} Hz")
    text.append(f" {'-' if age is None else f'{age:.2f}':>5} s")
    if report.level == OK:
        return [text]
    message = report.message.removeprefix(f"{name} ").removeprefix(f"({report.values.get('topic', '')}): ")
    words = Text(f"{word}: {page.charset.clean(message)}", style=style)
    beside = page.room - len(text) - 2
    if beside >= min(len(words), 30):
        first, *rest = wrapped(words, beside)
        return [text.append("  ").append_text(first), *(Text(" " * (page.room - beside)).append_text(r) for r in rest)]
    return [text, *(Text("  ").append_text(line) for line in wrapped(words, page.room - 2))]


def line(seen: Seen, now_s: float, charset: Charset) -> str:
    """Everything that matters on one line, for logs."""
    if seen.message is None or seen.lost(now_s):
        return charset.clean(("LOST: " if seen.message is not None else "") + no_messages(seen, now_s))
    message, age, commands = seen.message, seen.observation_age_s(now_s), seen.reports().get("commands")
    name, _, _ = status_of(message.status)
    why = message.reason or (why_unknown(seen) if message.status == 0 else "")
    first = name if message.status == 0 else f"{name} {percent(message.progress)}"
    first += f" ({why})" if why else ""
    worst = [report.message for entry, report in seen.problems() if report.level >= ERROR and entry != "commands"]
    parts = [
        first,
        interval(message),
        f"raw {percent(message.progress_raw)}",
        f"rate {_rate(message.rate)}" if known(message.rate) else "",
        f"remaining {remaining(message)}" if message.time_remaining_valid else "",
        f"stage {stage}" if (stage := _stage(message)) else "",
        f"inference {_milliseconds(message.inference_ms)}",
        f"observation {'-' if age is None else f'{age:.2f} s'} old, {seen.rate_hz(now_s):.1f} messages/s",
        f"model {message.model_id}",
        f"task {message.task}" if message.task else "",
        f"commands {commands.message}" if commands else "",
        *(f"ERROR {text}" for text in worst if message.status != 0 or text not in first),
    ]
    return charset.clean(" | ".join(filter(None, parts)))
