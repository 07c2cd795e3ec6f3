"""What the server counts and measures, in Prometheus' text format."""

from __future__ import annotations

from functools import partial
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

Outcome = Literal["ok", "bad_request", "refused", "failed", "vanished"]
Refused = Literal["key", "limit", "unfinished", "slow", "memory"]
SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
SIZES = (1, 2, 4, 8, 16, 32)
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


class Metrics:
    """Counters of one server; docs/serving.md says what each one and its labels mean."""

    def __init__(self, model_id: str, robot: str, version: str) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        own = {"namespace": "pi05_progress", "registry": self._registry}
        counter, gauge, histogram = (partial(kind, **own) for kind in (Counter, Gauge, Histogram))
        self.requests = counter("requests", "Requests by outcome", ["outcome"])
        text = "From a request's arrival to its reply's departure"
        self.seconds = histogram("request_seconds", text, buckets=SECONDS)
        self.without_progress = counter("replies_without_progress", "Replies without progress")
        self.batch_seconds = histogram("batch_seconds", "Time of one batch in the inference thread", buckets=SECONDS)
        self.batch_size = histogram("batch_size", "Requests answered together", buckets=SIZES)
        self.waiting = gauge("waiting_requests", "Requests in the queue")
        self.connections = gauge("connections", "Open connections")
        self.refused_connections = counter("refused_connections", "Connections refused or ended, by reason", ["reason"])
        self.unrecorded = counter("unrecorded_exchanges", "Exchanges that could not be recorded")
        # All of them now, so that a rate is seen from the first one on.
        self._outcomes = {outcome: self.requests.labels(outcome) for outcome in get_args(Outcome)}
        for reason in get_args(Refused):
            self.refused_connections.labels(reason)
        gauge("info", "What is served", ["model_id", "robot", "version"]).labels(model_id, robot, version).set(1)

    def count(self, outcome: Outcome) -> None:
        """One more request."""
        self._outcomes[outcome].inc()

    def computed(self, size: int, seconds: float) -> None:
        """One more batch."""
        self.batch_size.observe(size)
        self.batch_seconds.observe(seconds)

    def text(self) -> str:
        """All of it."""
        return generate_latest(self._registry).decode()
