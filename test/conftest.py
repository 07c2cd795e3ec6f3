"""A ROS domain of each test process's own, on this machine only, with the transport that images need."""

import functools
import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

import pi05_progress_ros.sim  # noqa: F401  before any test imports MuJoCo: it chooses what renders

pytest_plugins = ["training_fixtures", "goals", "moving_robot"]


def own_domain():
    """A ROS domain that no other test process of this machine has, and what must be kept for it to stay so."""
    for number in random.SystemRandom().sample(range(100, 230), 130):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0pi05_progress_test_domain_{number}")
        except OSError:  # another process has it
            claim.close()
        else:
            return str(number), claim
    raise RuntimeError("every ROS domain from 100 to 229 is taken by other tests on this machine: end them")


# A shell's background jobs ignore Ctrl-C, and so would every program that tests start from there.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["ROS_DOMAIN_ID"], _CLAIM = own_domain()
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"


# How long something that must happen may take, s: a machine with other work is slow, and only a test that fails waits
# so long. What is promised to users within a time is measured between stamps of messages and of log lines instead.
PATIENCE_S = 240.0
TRIES = 4  # of a promise in time


def pytest_ignore_collect(collection_path, config):
    """Files of whose tests ``-m`` chooses none are not imported, which takes seconds in every process of pytest."""
    chosen, live = config.option.markexpr.split(" and "), collection_path.parent.name == "live"
    passed_over = "not live" in chosen if live else "live" in chosen
    return True if passed_over and collection_path.match("test_*.py") else None


def pytest_collection_modifyitems(items):
    """Mark what lies in a folder ``live``: processes of a robot or a server at work."""
    for item in items:
        if item.path.parent.name == "live":
            item.add_marker(pytest.mark.live)


@contextmanager
def processes(folder):
    """Start a program with ``run(module, *arguments)``; all are stopped at the end. ``before`` runs in the child."""
    running = []

    def run(module: str, *arguments: str, before=None, **env: str) -> subprocess.Popen:
        log = folder / f"{len(running)}_{module}.log"
        command = [sys.executable, "-m", module, *arguments]
        env = {**os.environ, **env}
        with log.open("w") as file:
            process = subprocess.Popen(
                command, env=env, stdout=file, stderr=subprocess.STDOUT, text=True, preexec_fn=before
            )
        # Read through a file of its own: the position in the one that is written to is the process's, too.
        process.log = lambda: log.read_text(errors="replace")
        running.append(process)
        return process

    try:
        yield run
    finally:
        for process in running:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in running:
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def start(tmp_path):
    """See ``processes``, for one test."""
    with processes(tmp_path) as run:
        yield run


@contextmanager
def initialised_ros():
    """rclpy, initialised for the test's own nodes."""
    from pi05_progress_ros.starting.processes import use_image_transport

    use_image_transport()
    import rclpy
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks

    rclpy.init()
    nodes, create_node = [], rclpy.create_node

    def create(*arguments, **options):
        node = create_node(*arguments, **{"start_parameter_services": False, **options})
        # Else every spin waits for two events of each publisher and subscription, which is most of what it costs.
        for kind, events in (("publisher", PublisherEventCallbacks), ("subscription", SubscriptionEventCallbacks)):
            make, quiet = getattr(node, f"create_{kind}"), events(use_default_callbacks=False)
            setattr(node, f"create_{kind}", functools.partial(make, event_callbacks=quiet))
        nodes.append(node)
        return node

    rclpy.create_node = create
    try:
        yield rclpy
    finally:
        rclpy.create_node = create_node
        for node in nodes:  # else they would be seen in this domain for as long as something refers to them
            node.destroy_node()
        rclpy.try_shutdown()


@pytest.fixture
def ros():
    """See ``initialised_ros``, for one test."""
    with initialised_ros() as rclpy:
        yield rclpy


def keeps_promise(limit_s, attempt, undo):
    """Whether ``attempt()``, a time between stamps in s, is below the promised limit; ``undo`` precedes each new try.

    Where other work starves a process no promise can be kept, hence a few tries; what is late again and again fails.
    """
    took = [attempt()]
    while took[-1] >= limit_s:
        assert len(took) < TRIES, f"promised within {limit_s:g} s, took {', '.join(f'{s:.2f}' for s in took)} s"
        undo()
        took.append(attempt())


def answer_of(client, request, spin, again_s=10.0):
    """A service's answer to what may be asked twice: where the two know each other only half, an answer gets lost."""
    name = client.srv_name
    wait_for(client.service_is_ready, spin, name)
    asked = []

    def answered():
        if not asked or time.monotonic() > asked[-1][1] + again_s:
            asked.append((client.call_async(request), time.monotonic()))
        return any(future.done() for future, _ in asked)

    wait_for(answered, spin, f"an answer of {name}")
    return next(future.result() for future, _ in asked if future.done())


def wait_for(condition, spin=lambda: time.sleep(0.02), what="the condition", timeout_s=PATIENCE_S):
    """Call ``spin`` until ``condition()`` is true; fail with ``what`` after the time-out."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout_s:g} s"
        spin()
