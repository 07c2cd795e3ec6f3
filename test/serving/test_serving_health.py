"""What /healthz and /metrics say when the policy fails, and what those who wait are told when nothing can go on."""

import threading

import pytest
import websockets
from conftest import PATIENCE_S, wait_for
from serving_helpers import (
    ask,
    asking,
    function,
    health,
    metric,
    open_connection,
    queue_length,
    request,
    serving,
    stub,
    works,
)

from pi05_progress.observation import ObservationError


def test_a_mistake_of_the_servers_is_logged_counted_and_told(caplog):
    @function()
    def no_dictionary(_):
        return ["not", "a", "dictionary"]

    with serving(no_dictionary) as server:
        with open_connection(server) as connection:
            connection.recv(PATIENCE_S)
            assert ask(connection, {"x": 1}) == "the server failed; its log says why"
            with pytest.raises(websockets.ConnectionClosedError):
                connection.recv(PATIENCE_S)
            assert connection.close_code == 1011
        assert metric(server, 'pi05_progress_requests_total{outcome="failed"}') == "1.0"
    assert "the server failed" in caplog.text
    assert "TypeError" in caplog.text


def test_a_policy_that_always_fails_is_told_by_healthz_until_it_works_again():
    def answer(prompt):
        with open_connection(server) as connection:
            connection.recv(PATIENCE_S)
            return ask(connection, request(prompt))

    with serving(stub()) as server:
        for _ in range(4):
            answer("raise")
        assert health(server) == (200, "OK\n")
        for _ in range(3):
            answer("")  # the request's fault
        assert health(server) == (200, "OK\n")
        answer("nan actions")
        assert health(server) == (503, "the last 5 batches failed; the log says why\n")
        assert works(server)
        assert health(server) == (200, "OK\n")


def test_a_request_that_the_policy_cannot_use_is_the_requests_fault():
    responder = stub()

    def infer(*_):
        raise ObservationError("the prompt is too long")

    responder._policy.infer = infer
    with serving(responder) as server:
        for _ in range(6):
            with open_connection(server) as connection:
                connection.recv(PATIENCE_S)
                assert ask(connection, request()) == "the prompt is too long"
        assert health(server)[0] == 200
        assert metric(server, 'pi05_progress_requests_total{outcome="bad_request"}') == "6.0"


@pytest.mark.parametrize("batch", [1, 4])
def test_a_policy_that_gives_too_few_replies_fails_these_requests_and_no_others(batch):
    responder = stub()
    responder.batch_sizes = (1, batch)
    answer = responder.answer
    responder.answer = lambda prepared: answer(prepared)[: -1 if prepared[0][1] == "less" else None]
    with serving(responder) as server:
        with open_connection(server) as connection:
            connection.recv(PATIENCE_S)
            assert ask(connection, request("less")) == "the policy failed: RuntimeError: 0 replies to 1 requests"
        assert works(server)


def test_when_the_inference_thread_ends_all_who_wait_are_told_and_healthz_too():
    responder, gate = stub(), threading.Event()

    def leave(*_):
        gate.wait(PATIENCE_S)
        raise SystemExit("the driver gave up")

    responder._policy.infer = leave
    with serving(responder) as server:
        connections = [asking(server) for _ in range(3)]
        wait_for(lambda: queue_length(server) == 2, what="two that wait")
        gate.set()
        why = "the inference thread has ended: SystemExit: the driver gave up"
        assert [connection.recv(PATIENCE_S) for connection in connections] == [why] * 3
        wait_for(lambda: health(server) == (503, "the inference thread has ended\n"), what="bad health")
        assert server.broken.is_set()
