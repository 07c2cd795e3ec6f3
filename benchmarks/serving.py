"""What the policy server costs beside the policy: round trips on loopback, for 1, 8 and 64 clients.

    python benchmarks/serving.py --seconds 10 --json serving.json

Server and clients are processes of their own; every client asks with three 224x224 pictures, again as soon as its reply
is there. The policy stands in for a model on a device: it takes a fixed time (10 ms) in which the processor is free,
for a batch as for a single request. Rows:

* server: what `python -m pi05_progress.serving` runs, its log included;
* server, batches: the same with a policy that answers up to eight requests together;
* tiny: the model configuration `tiny`, random parameters, on the same processor as server and clients;
* plain: a server that calls the policy in its event loop, as openpi's does, written here.

Overhead is the round trip as the client sees it minus the policy's own time, as the reply tells it; waiting for other
clients' requests is in it, so only the rows of one client show the server's own cost. Health is the time of GET
/healthz, asked 20 times a second meanwhile. All four servers run all the time and are asked in turn, round after round,
so that the machine's moods meet them alike. The exit status is 1 if what is required is not met.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
from websockets.asyncio.server import Request, Response, ServerConnection, serve
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from pi05_progress.make_policy import make_policy
from pi05_progress.observation import PolicyOutput, RobotFrame
from pi05_progress.policies.compilation_cache import use_compilation_cache
from pi05_progress.policy import Policy
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.serving.policy_responder import PolicyResponder
from pi05_progress.serving.server import ServerSettings, run
from pi05_progress.serving.teleavatar import make_reply, read_request
from pi05_progress.serving.wire import pack, unpack

PROFILE = RobotProfile.load("teleavatar")
HEALTH_HZ = 20.0
WARM_REQUESTS = 5  # of each client, not counted
ROWS = ("server", "batches", "tiny", "plain")


def main() -> int:
    """Run and print the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each row (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="that make up each row (default: %(default)s)")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64], help="(default: 1 8 64)")
    parser.add_argument("--policy-ms", type=float, default=10.0, help="of the stand-in (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--serve", choices=ROWS, help=argparse.SUPPRESS)
    parser.add_argument("--ask", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        # All that the server logs is written, as it writes it, to where it does not disturb the table.
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", filename=os.devnull)
        for noisy in ("websockets", "jax", "absl", "asyncio"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        asyncio.run(plain(args.policy_ms / 1e3) if args.serve == "plain" else ours(args.serve, args.policy_ms / 1e3))
        return 0
    if args.ask:
        print(json.dumps(ask(*args.ask, args.seconds)))
        return 0
    rows = measure(args)
    columns = ("overhead_median_ms", "overhead_p99_ms", "round_trip_median_ms", "health_median_ms", "health_p95_ms")
    head = "".join(f"{name.removesuffix('_ms').replace('_', ' '):>20}" for name in columns)
    print(f"{'':<10}{'clients':>8}{'replies/s':>11}{'lost':>6}{head}  (ms)")
    for row in rows:
        print(f"{row['row']:<10}{row['clients']:>8}{row['replies_per_s']:>11.1f}{row['lost']:>6}", end="")
        print("".join(f"{row[name]:>20.2f}" for name in columns))
    mine = [row for row in rows if row["row"] != "plain"]
    of_one = {row["row"]: row["overhead_median_ms"] for row in rows if row["clients"] == 1}
    if of_one:
        print("overhead of one client / plain's: ", end="")
        print(", ".join(f"{name} {of_one[name] / of_one['plain']:.2f}" for name in ROWS))
    required = {
        "overhead of one client, median below 2 ms": all(
            row["overhead_median_ms"] < 2 for row in mine if row["clients"] == 1
        ),
        "overhead of one client, median at most 1.1 times plain's": not of_one
        or of_one["server"] <= 1.1 * of_one["plain"],
        "/healthz while computing, 95th percentile below 20 ms": all(row["health_p95_ms"] < 20 for row in mine),
    }
    for text, met in required.items():
        print(f"required: {text}: {'met' if met else 'NOT MET'}")
    if args.json:
        result = {"policy_ms": args.policy_ms, "rows": rows, "required": required}
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if all(required.values()) else 1


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of all servers, which are asked in turn."""
    seconds = args.seconds / args.rounds
    command = [sys.executable, __file__, "--policy-ms", str(args.policy_ms), "--seconds", str(seconds)]
    servers: dict[str, subprocess.Popen[str]] = {}
    try:
        for name in ROWS:
            servers[name] = subprocess.Popen([*command, "--serve", name], stdout=subprocess.PIPE, text=True)
        ports = {name: int(server.stdout.readline()) for name, server in servers.items() if server.stdout}
        found: dict[tuple[str, int], list[Sample]] = {(name, clients): [] for name in ROWS for clients in args.clients}
        turns = [(clients, name) for clients in args.clients for _ in range(args.rounds) for name in ROWS]
        for number, (clients, name) in enumerate(turns, 1):
            print(f"\r{number}/{len(turns)}: {name}, clients: {clients}   ", end="", file=sys.stderr, flush=True)
            found[name, clients].append(sample([*command, "--ask", str(ports[name]), str(clients)], ports[name]))
        print(file=sys.stderr)
    finally:
        for server in servers.values():
            server.terminate()
        for server in servers.values():
            server.wait(20)
    return [row_of(name, clients, samples, args.seconds) for (name, clients), samples in found.items()]


@dataclass(frozen=True)
class Sample:
    """What one round found, ms each; how many replies came before its end, and how many clients were lost."""

    round_trips: list[float]
    overheads: list[float]
    health: list[float]
    in_time: int
    lost: int


def sample(command: list[str], port: int) -> Sample:
    """Have the clients ask a server, and ask for its health meanwhile."""
    asking = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    health: list[float] = []
    assert asking.stdout is not None
    with ThreadPoolExecutor(1) as pool:
        began = asking.stdout.readline()
        try:
            until = float(began)  # by the monotonic clock, which all processes share
        except ValueError:
            raise SystemExit(f"not all clients could connect, see above; {began.strip()}") from None
        output = pool.submit(asking.communicate)  # all the time: it is more than a pipe holds
        while time.monotonic() < until:
            health.append(health_ms(port))
            time.sleep(1 / HEALTH_HZ)
        found = json.loads(output.result()[0])
    return Sample(found["round_trips_ms"], found["overheads_ms"], health, found["in_time"], found["lost"])


def row_of(name: str, clients: int, samples: Sequence[Sample], seconds: float) -> dict[str, Any]:
    """The figures of all rounds together."""
    trips, overheads, health = (
        np.concatenate([getattr(one, key) for one in samples]) for key in ("round_trips", "overheads", "health")
    )
    return {
        "row": name,
        "clients": clients,
        "replies_per_s": sum(one.in_time for one in samples) / seconds,
        "lost": sum(one.lost for one in samples),
        "round_trip_median_ms": float(np.median(trips)),
        "overhead_median_ms": float(np.median(overheads)),
        "overhead_p99_ms": float(np.percentile(overheads, 99)),
        "health_median_ms": float(np.median(health)),
        "health_p95_ms": float(np.percentile(health, 95)),
    }


def health_ms(port: int) -> float:
    """Milliseconds of one GET /healthz."""
    began = time.perf_counter()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=60) as reply:
        assert reply.read() == b"OK\n"
    return 1e3 * (time.perf_counter() - began)


def ask(port: int, clients: int, seconds: float) -> dict[str, Any]:
    """Have so many clients ask for a while; every round trip, and what of it was not the policy."""
    rng = np.random.default_rng(0)
    pictures = {f"observation/images/{k}": rng.integers(0, 256, (224, 224, 3), np.uint8) for k in PROFILE.cameras}
    request = {"observation/state": np.zeros(PROFILE.vector_size, np.float32), **pictures, "prompt": "stack the cubes"}
    until = 0.0

    def begin() -> None:
        nonlocal until
        until = time.monotonic() + seconds
        print(until, flush=True)

    began = threading.Barrier(clients, begin)
    trips: list[float] = []
    overheads: list[float] = []
    in_time: list[bool] = []
    lost: list[str] = []

    def client() -> None:
        with connect(f"ws://127.0.0.1:{port}", compression=None, max_size=None, open_timeout=60) as connection:
            connection.recv()
            for _ in range(WARM_REQUESTS):
                connection.send(pack(request))
                connection.recv()
            began.wait()
            while time.monotonic() < until:
                start = time.perf_counter()
                connection.send(pack(request))
                reply = unpack(connection.recv())
                ms = 1e3 * (time.perf_counter() - start)
                trips.append(ms)
                in_time.append(time.monotonic() < until)
                overheads.append(ms - reply["policy_timing"]["infer_ms"])

    def guarded() -> None:
        try:
            client()
        except (WebSocketException, OSError) as error:
            lost.append(repr(error))
            began.abort()

    threads = [threading.Thread(target=guarded) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"round_trips_ms": trips, "overheads_ms": overheads, "in_time": sum(in_time), "lost": len(lost)}


class StandIn(Policy):
    """A policy that takes a fixed time; see ``Policy``."""

    model_id, horizon, action_dt_s = "stand-in", 50, 1 / 30

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def warm_up(self) -> None:
        """Nothing to do."""

    def infer(self, frame: RobotFrame, prompt: str) -> PolicyOutput:
        """Actions of zero."""
        began = time.perf_counter()
        time.sleep(self._seconds)
        ms = 1e3 * (time.perf_counter() - began)
        return PolicyOutput(np.zeros((50, 16), np.float32), 0.5, (0.4, 0.6), timing={"model": ms})


class BatchedStandIn(StandIn):
    """The stand-in with up to eight frames in the time of one."""

    batch_sizes = (1, 2, 4, 8)

    def infer_prepared(self, prepared: Sequence[Any]) -> list[PolicyOutput]:
        """Actions of zero."""
        return [self.infer(*prepared[0])] * len(prepared)


async def ours(name: str, seconds: float) -> None:
    """This package's server."""
    if name == "tiny":
        use_compilation_cache()
        responder = PolicyResponder(make_policy(PROFILE), PROFILE)
        responder.warm_up()
    else:
        responder = PolicyResponder((BatchedStandIn if name == "batches" else StandIn)(seconds), PROFILE)
    await run(responder, ServerSettings(port=0, max_waiting=128), listening=lambda port: print(port, flush=True))


async def plain(seconds: float) -> None:
    """A server as simple as can be: the policy is called in the event loop."""
    policy = StandIn(seconds)

    async def handler(connection: ServerConnection) -> None:
        await connection.send(pack({}))
        previous_s, began = None, time.monotonic()
        async for message in connection:
            request = unpack(message)
            computing = time.monotonic()
            reply = make_reply(policy.infer(*read_request(request, PROFILE)))
            reply["server_timing"] = {"infer_ms": 1e3 * (time.monotonic() - computing)}
            if previous_s is not None:
                reply["server_timing"]["prev_total_ms"] = 1e3 * previous_s
            await connection.send(pack(reply))
            previous_s, began = time.monotonic() - began, time.monotonic()

    def health(connection: ServerConnection, request: Request) -> Response | None:
        return connection.respond(HTTPStatus.OK, "OK\n") if request.path == "/healthz" else None

    async with serve(handler, "127.0.0.1", 0, compression=None, max_size=None, process_request=health) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(main())
