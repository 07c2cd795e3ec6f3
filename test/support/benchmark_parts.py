"""Parts for benchmarks/gpu.py that do what parts of a rented machine may do; run in processes of their own."""

import os
import signal
import time


def good(context):
    context.row("a figure", median_ms=1.5, progress=True)


def fails_after_a_row(context):
    context.row("before", median_ms=2.0)
    raise ValueError("the card has caught fire")


def crashes(context):
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs(context):
    context.row("before it hangs", median_ms=3.0)
    time.sleep(600)


def lacks_memory(context):
    def measure():
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 7 bytes")

    context.attempt("batch 32", measure)
    context.attempt("batch 1", lambda: context.row("batch 1", median_ms=4.0))


def finds_nan(context):
    context.row("no number", median_ms=float("nan"))
    context.row("made better", median_ms=1.0, provisional=True)
    context.row("made better", median_ms=2.0)


def has_no_time(context):
    context.until = time.time()
    context.attempt("too late", lambda: context.row("too late", median_ms=5.0))
