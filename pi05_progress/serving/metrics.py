"""What the server counts and measures, in Prometheus' text format."""

from __future__ import annotations

from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

Outcome = Literal["ok", "bad_request", "refused", "failed", "vanished"]
Refused = Literal["key", "limit", "unfinished", "slow", "memory"]
SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


class Metrics:
    """Counters of one server.

    Attributes:
        requests: by outcome: ok, bad_request (the request's fault), refused (queue full), failed (the policy's fault),
            vanished (the client was gone before its answer).
        seconds: from a request's arrival to its reply's departure.
        without_progress: replies whose progress is nil.
        batch_seconds: in the inference thread.
        batch_size: requests answered together.
        waiting: requests in the queue.
        connections: open ones.
        refused_connections: by reason: key, limit (of clients), unfinished (handshake), slow (message), memory (of all
            messages).
    """

    def __init__(self, model_id: str, robot: str, version: str) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        name = "pi05_progress_"
        self.requests = Counter(f"{name}requests", "Requests by outcome", ["outcome"], registry=registry)
        text = "From a request's arrival to its reply's departure"
        self.seconds = Histogram(f"{name}request_seconds", text, buckets=SECONDS, registry=registry)
        text = "Replies without progress"
        self.without_progress = Counter(f"{name}replies_without_progress", text, registry=registry)
        text = "Time of one batch in the inference thread"
        self.batch_seconds = Histogram(f"{name}batch_seconds", text, buckets=SECONDS, registry=registry)
        text, sizes = "Requests answered together", (1, 2, 4, 8, 16, 32)
        self.batch_size = Histogram(f"{name}batch_size", text, buckets=sizes, registry=registry)
        self.waiting = Gauge(f"{name}waiting_requests", "Requests in the queue", registry=registry)
        self.connections = Gauge(f"{name}connections", "Open connections", registry=registry)
        text = "Connections refused, by reason"
        self.refused_connections = Counter(f"{name}refused_connections", text, ["reason"], registry=registry)
        text = "Exchanges that could not be recorded"
        self.unrecorded = Counter(f"{name}unrecorded_exchanges", text, registry=registry)
        for outcome in get_args(Outcome):  # so that a rate is seen from the first one on
            self.requests.labels(outcome)
        for reason in get_args(Refused):
            self.refused_connections.labels(reason)
        about = Gauge(f"{name}info", "What is served", ["model_id", "robot", "version"], registry=registry)
        about.labels(model_id, robot, version).set(1)

    def count(self, outcome: Outcome) -> None:
        """One more request."""
        self.requests.labels(outcome).inc()

    def computed(self, size: int, seconds: float) -> None:
        """One more batch."""
        self.batch_size.observe(size)
        self.batch_seconds.observe(seconds)

    def text(self) -> str:
        """All of it."""
        return generate_latest(self._registry).decode()
