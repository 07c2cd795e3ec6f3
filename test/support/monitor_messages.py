"""Messages that a monitor receives, good and bad, and the words of what it shows."""

import math

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from pi05_progress_msgs.msg import TaskProgress

NAN = math.nan
NUMBERS = ("progress", "progress_raw", "lower", "upper", "confidence_level", "rate", "success_probability")
UNKNOWN = {name: NAN for name in (*NUMBERS, "inference_ms", "observation_age_ms")}


def progress(stamp_s=100, remaining_s=None, **fields):
    known = {
        "progress": 0.42, "progress_raw": 0.431, "lower": 0.351, "upper": 0.489, "confidence_level": 0.9,
        "rate": 0.012, "success_probability": 0.03, "inference_ms": 61.0, "observation_age_ms": 85.0,
        "status": 1, "task": "stack the cubes", "model_id": "run-7", "stage_index": -1,
    }  # fmt: skip
    message = TaskProgress(**{**known, **fields})
    message.header.stamp.sec = stamp_s
    if remaining_s:
        message.time_remaining_valid = True
        fields = ("time_remaining", "time_remaining_lower", "time_remaining_upper")
        for name, seconds in zip(fields, remaining_s, strict=True):
            getattr(message, name).sec = seconds
    return message


def diagnostic(entry, level=b"\0", message="fresh", node="policy_node", **values):
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(name=f"{node}: {entry}", level=level, message=message, values=pairs)


GOOD = [
    diagnostic("input head_camera", rate_hz="29.9", age_s="0.012"),
    diagnostic("input right_gripper", b"\1", "absent; its values are taken as 0", rate_hz="0.0", age_s="-"),
    diagnostic("inference", message="running", inferences=120, failures=0, frames_skipped=3),
    diagnostic("commands", message="off (publish_commands is false)"),
]
STALE = "head_camera (/head/image_raw): nothing for more than 0.5 s"
BAD = [
    diagnostic("input head_camera", b"\2", STALE, rate_hz="29.9", age_s="2.110", topic="/head/image_raw"),
    GOOD[1],
    diagnostic("inference", b"\1", f"waiting: {STALE}", inferences=120, failures=0, frames_skipped=3),
    GOOD[3],
]


def words(text):
    """Without line breaks and indents, so that a sentence is found wherever it was wrapped."""
    return " ".join(text.split())
