"""A policy server in this process, stub policies behind it, requests for it."""

import asyncio
import dataclasses
import functools
import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import numpy as np
from conftest import PATIENCE_S
from small_models import SMALL, random_model
from websockets.sync.client import connect

from pi05_progress.checkpoints.checkpoint import Checkpoint
from pi05_progress.checkpoints.description import CheckpointInfo
from pi05_progress.observation import PolicyOutput, RobotFrame
from pi05_progress.policies.model_policy import Pi05Policy
from pi05_progress.policy import Policy, PolicyOptions
from pi05_progress.robots.profile import RobotProfile
from pi05_progress.serving.client import WebsocketPolicy
from pi05_progress.serving.policy_responder import PolicyResponder
from pi05_progress.serving.server import PolicyServer, ServerSettings
from pi05_progress.serving.wire import pack, unpack

PROFILE = RobotProfile.load("teleavatar")
CONFIG = dataclasses.replace(SMALL, action_dim=32, action_horizon=5, max_token_len=48, discrete_state=False)
CONFIG = CONFIG.with_progress("categorical")
FACTS = {"model_id": "m", "robot": "teleavatar", "action_horizon": 5, "action_dt_s": 0.1}  # of a server


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def can_connect(port):
    with socket.socket() as end:
        return end.connect_ex(("127.0.0.1", port)) == 0


class StubPolicy(Policy):
    """Answers at once: actions count rows, progress is what the first number of the state says."""

    model_id, horizon, action_dt_s = "stub", 5, 1 / 30

    def __init__(self, wait_s=0.0):
        self.wait_s, self.calls = wait_s, 0

    def warm_up(self):
        pass

    def infer(self, frame, prompt):
        self.calls += 1
        time.sleep(self.wait_s)
        match prompt:
            case "raise":
                raise RuntimeError("the device is gone")
            case "stop":
                raise StopIteration  # as code of one's own with a generator does
            case "nan actions":
                return PolicyOutput(np.full((5, 16), np.nan, np.float32), 0.5)
            case "no progress":
                return PolicyOutput(np.zeros((5, 16), np.float32), None)
            case "nan progress":
                return PolicyOutput(np.zeros((5, 16), np.float32), float("nan"), (0.1, 0.2))
        actions = np.repeat(np.arange(5, dtype=np.float32)[:, None], 16, axis=1)
        progress = float(frame.state[0])
        return PolicyOutput(actions, progress, (progress / 2, progress), timing={"transforms": 0.5, "model": 1.0})


def stub(wait_s=0.0, **options):
    return PolicyResponder(StubPolicy(wait_s), PROFILE, **options)


@functools.cache
def checkpoint():
    """Of a small model with a categorical head, all of whose parameters are random."""
    return Checkpoint(CheckpointInfo(CONFIG, model_id="small"), random_model(CONFIG), {})


def small_policy(**options):
    return Pi05Policy(checkpoint(), PROFILE, PolicyOptions(num_steps=2, **options))


def frame(seed=0, size=(28, 28), progress=0.25):
    rng = np.random.default_rng(seed)
    state = rng.uniform(-0.5, 0.5, 48).astype(np.float32)
    state[0] = progress
    return RobotFrame({key: rng.integers(0, 256, (*size, 3), np.uint8) for key in PROFILE.cameras}, state)


def request(prompt="stack the cubes", seed=0, **changes):
    """A good request; changes name keys by their last part, None leaves one out."""
    given = frame(seed)
    pictures = {f"observation/images/{key}": image for key, image in given.images.items()}
    good = {"observation/state": given.state, **pictures, "prompt": prompt}
    for name, value in changes.items():
        key = next((k for k in good if k.endswith(name)), name)
        good[key] = value
    return {key: value for key, value in good.items() if value is not None}


class FunctionResponder:
    """Any function from a dictionary to a dictionary as a responder, one request at a time."""

    batch_sizes = (1,)

    def __init__(self, function, metadata):
        self._function, self.metadata = function, metadata

    def prepare(self, request):
        return request

    def answer(self, prepared):
        return [self._function(request) for request in prepared]

    def warm_up(self):
        pass


def function(metadata=None):
    """As a decorator: a function of dictionaries as a responder."""
    return lambda f: FunctionResponder(f, metadata or {})


@contextmanager
def serving(responder, recorder=None, **settings):
    """A server in a thread of its own, ended as SIGTERM ends one; yields it with its ``uri``."""
    ready, done, found = threading.Event(), None, {}

    async def main():
        nonlocal done
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with PolicyServer(responder, ServerSettings(**{"port": 0, **settings}), recorder) as server:
                found["server"], found["end"] = server, lambda: loop.call_soon_threadsafe(done.set)
                server.uri = f"ws://127.0.0.1:{server.port}"
                ready.set()
                await done.wait()
        finally:
            ready.set()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert ready.wait(PATIENCE_S)
    server = found["server"]
    server.end, server.thread = found["end"], thread
    try:
        yield server
    finally:
        if thread.is_alive():
            server.end()
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the server did not end"


def remote(server, **options):
    """The node's policy that asks a server."""
    return WebsocketPolicy(server.uri, PROFILE, **options)


def open_connection(server, **options):
    """As openpi's client connects."""
    return connect(server.uri, compression=None, max_size=None, **options)


def ask(connection, value):
    """The reply: a dictionary, or text that is an error."""
    connection.send(value if isinstance(value, bytes | str) else pack(value))
    answer = connection.recv(PATIENCE_S)
    return answer if isinstance(answer, str) else unpack(answer)


def works(server):
    """Whether a new client gets a good answer."""
    with open_connection(server) as connection:
        connection.recv(PATIENCE_S)
        reply = ask(connection, request())
        return isinstance(reply, dict) and reply["actions"].shape == (5, 16)


def gated():
    """A responder whose policy answers only once the gate is open."""
    gate, responder = threading.Event(), stub()
    infer = responder._policy.infer
    responder._policy.infer = lambda *given: (gate.wait(PATIENCE_S), infer(*given))[1]
    return gate, responder


def asking(server, value=None):
    """A connection whose request has arrived."""
    connection = open_connection(server).__enter__()
    connection.recv(PATIENCE_S)
    connection.send(pack(request()) if value is None else value)
    return connection


def health(server):
    """Status and text of /healthz."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/healthz", timeout=PATIENCE_S) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def metric(server, name):
    """A value of /metrics, as its text."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=PATIENCE_S) as reply:
        [line] = [line for line in reply.read().decode().splitlines() if line.startswith(name + " ")]
    return line.removeprefix(name + " ")


def queue_length(server):
    return int(float(metric(server, "pi05_progress_waiting_requests")))
