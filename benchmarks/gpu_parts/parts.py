"""All parts in order of worth, and running them within a budget of time."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .processes import CutOffError, ProcessError, Task, messages
from .record import Record

GRACE = 0.08  # of all the time: what a part has to come to an end after its share, before it is killed
LEAST_S = 5.0  # left to begin a part at all
CACHE = "JAX_COMPILATION_CACHE_DIR"


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        name: on the command line and in the file.
        function: see ``Task``.
        share: of all the time that it may take at most, if the parts before it leave as much.
        settings: for the function.
        flags: for XLA, in this part alone and on GPUs alone.
        only_gpu: whether it means nothing on a CPU.
    """

    name: str
    function: str
    share: float
    settings: Mapping[str, Any] | None = None
    flags: str = ""
    only_gpu: bool = False


# Command buffers launch many kernels at once, and under a profiler XLA takes them apart unless it is told not to.
WHOLE_BUFFERS = "--xla_enable_command_buffers_during_profiling=true"
PARTS = (
    Part("correctness", "gpu_parts.correctness:small_models", 0.15),
    Part("inference", "gpu_parts.inference:main", 0.30),
    Part("kernels", "gpu_parts.kernels:main", 0.15, flags=WHOLE_BUFFERS),
    Part("start", "gpu_parts.start:main", 0.20),
    Part("training_lora", "gpu_parts.training:main", 0.30, {"recipe": "pi05_teleavatar_lora"}),
    Part("inference_rest", "gpu_parts.inference:rest", 0.30),
    Part("training_head", "gpu_parts.training:main", 0.25, {"recipe": "pi05_teleavatar_progress_only"}),
    Part("golden", "gpu_parts.correctness:golden", 0.20),
    Part("training_full", "gpu_parts.training:main", 0.30, {"recipe": "pi05_teleavatar"}),
    Part("small_model", "gpu_parts.small:main", 0.20),
    # Without command buffers every single kernel is seen as it is launched.
    Part("kernels_single", "gpu_parts.kernels:main", 0.20, flags="--xla_gpu_enable_command_buffer=", only_gpu=True),
)


class Ended(BaseException):
    """The program was told to end."""


def run_parts(
    parts: Sequence[Part], record: Record, *, variant: str, minutes: float, begun: float, environment: Mapping[str, str]
) -> None:
    """Run them one after the other; what they find is in the file as soon as it is there.

    Args:
        parts: in order.
        record: of the results.
        variant: of the model.
        minutes: for all of it.
        begun: when that time began (``time.time()``).
        environment: of the processes.
    """
    end, cpu = begun + 60 * minutes, record.data["platform"] == "cpu"
    with tempfile.TemporaryDirectory(prefix="gpu_benchmark_") as cache:
        for part in parts:
            record.begin(part.name)
            left = end - time.time()
            if part.only_gpu and cpu:
                record.end("left out", "it means nothing on a CPU")
            elif left < LEAST_S:
                record.end("left out", "time")
            else:
                until = min(time.time() + part.share * 60 * minutes, end - GRACE * left)
                killed_at = min(until + GRACE * 60 * minutes, end)
                flags = " ".join(filter(None, (environment.get("XLA_FLAGS", ""), "" if cpu else part.flags)))
                own = {**environment, CACHE: cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
                run_part(part, record, variant, until, killed_at, own | ({"XLA_FLAGS": flags} if flags else {}))


def run_part(
    part: Part, record: Record, variant: str, until: float, killed_at: float, environment: Mapping[str, str]
) -> None:
    """One part, to its end or to that of its time."""
    print(f"\n=== {part.name}", flush=True)
    task = Task(part.function, variant, until, settings=part.settings or {}, keep=record.keep(part.name))
    problem, status = "", "failed"
    try:
        for message in messages(task, killed_at, environment):
            problem = message.get("error", problem)
            record.add(message)
    except CutOffError as error:
        status, problem = ("failed", problem) if problem else ("cut off", str(error))
    except ProcessError as error:
        problem = problem or str(error)
    except Ended:
        record.end("failed", "the program was told to end")
        raise
    record.end(status if problem else "done", problem)


def end_when_told() -> None:
    """Have SIGTERM, SIGINT and SIGHUP raise ``Ended``: the running part is killed, and the file says so."""

    def told(number: int, _: Any) -> None:
        raise Ended(signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, told)


def child_environment() -> dict[str, str]:
    """The environment for processes that measure; the CPU is there beside a GPU, since numbers are compared with it."""
    changed = {
        "PYTHONUNBUFFERED": "1",
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),
    }
    if os.environ.get("JAX_PLATFORMS") == "cuda":
        changed["JAX_PLATFORMS"] = "cuda,cpu"
    return {**os.environ, **changed}
