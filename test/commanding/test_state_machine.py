"""Who may move the robot: the state machine by its rules, and by random sequences of everything that can happen."""

import random

import pytest

from pi05_progress.robots.states import FsmState, Mode
from pi05_progress_ros.commanding.state_machine import (
    FIRST_S,
    HOLD_S,
    IDLE_S,
    NEWS_S,
    PAUSE_S,
    READY_S,
    Ending,
    Facts,
    Reason,
    Send,
    State,
    StateMachine,
)

TICK_S = 0.01
LOST = Ending(Reason.ROBOT_LOST, "/fsm_state: nothing for more than 1 s")
GOOD = Facts()
HANDS_ON = Facts(mode=Mode.TELEOPERATION)


class Bench:
    """A machine and its clock."""

    def __init__(self):
        self.machine, self.now = StateMachine(), 100.0

    def tick(self, facts=GOOD, step_s=TICK_S):
        self.now += step_s
        return self.machine.tick(facts, self.now)

    def ticks(self, facts, seconds):
        """What may be sent over so long a time."""
        return [self.tick(facts) for _ in range(round(seconds / TICK_S))]

    def into(self, state):
        """By the shortest way."""
        if state > State.LOOKING:
            assert self.machine.arm((), False, self.now)
        if state > State.ARMED:
            assert self.machine.accept(self.now) and self.machine.begin(self.now)
            assert self.tick() == Send.CHUNK
        if state == State.HOLDING:
            self.tick(Facts(chunk=False))
        if state == State.TAKEN_OVER:
            self.tick(HANDS_ON)
        assert self.machine.state == state
        return self


@pytest.fixture(params=[s for s in State if s != State.LOOKING], ids=lambda s: s.name)
def bench(request):
    """A machine in every state but LOOKING."""
    return Bench().into(request.param)


def test_nothing_is_armed_or_begun_by_itself_and_a_refused_arming_changes_nothing():
    bench = Bench()
    assert not bench.machine.begin(bench.now)
    assert set(bench.ticks(Facts(), 2.0)) == {Send.NOTHING}
    assert not bench.machine.arm(("head_camera: no message yet",), False, bench.now)
    assert bench.machine.state == State.LOOKING
    bench.into(State.ARMED)
    assert set(bench.ticks(Facts(), 2.0)) == {Send.NOTHING}, "arming moves nothing"


@pytest.mark.parametrize(
    "event",
    [
        lambda b: b.tick(Facts(lost=LOST)),
        lambda b: b.machine.disarm(LOST.reason, LOST.text, b.now),
        lambda b: b.tick(Facts(lost=LOST, mode=Mode.TELEOPERATION, missing="head_camera", chunk=False)),
    ],
    ids=["a tick", "an event", "with all else"],
)
def test_what_ends_a_goal_disarms_from_every_state_and_stays(bench, event):
    goal = bench.machine.state > State.ARMED
    event(bench)
    assert bench.machine.state == State.LOOKING
    assert bench.machine.text == f"{LOST.text}: call ~/arm to go on"
    assert bench.machine.ended == (LOST if goal else None)
    assert set(bench.ticks(Facts(), 20.0)) == {Send.NOTHING}, "it comes back, and nothing moves"
    assert bench.machine.arm((), False, bench.now)


@pytest.mark.parametrize(
    ("facts", "held_by", "reason"),
    [
        (Facts(missing="head_camera: nothing for more than 0.5 s"), Send.PAUSE, Reason.INPUTS_LOST),
        (Facts(chunk=False), Send.POSE, Reason.POLICY_LOST),
        (Facts(chunk=False, failing="the policy failed"), Send.POSE, Reason.POLICY_LOST),
        (Facts(fsm=FsmState.PAUSE, mode_s=0.0), Send.PAUSE, Reason.PAUSED),
    ],
    ids=["input", "late", "policy", "paused"],
)
def test_a_goal_is_held_for_a_second_at_most_and_then_ends(facts, held_by, reason):
    bench = Bench().into(State.RUNNING)
    sent = bench.ticks(facts, HOLD_S)
    assert set(sent) == {held_by}
    bench.ticks(facts, 2 * TICK_S)
    assert (bench.machine.state, bench.machine.ended.reason) == (State.LOOKING, reason)


def test_a_late_chunk_is_gone_on_from_at_once_a_missed_input_when_the_robots_word_is_news_again():
    bench = Bench().into(State.RUNNING)
    bench.ticks(Facts(chunk=False), 0.3)
    assert bench.tick() == Send.CHUNK
    bench.ticks(Facts(missing="head_camera"), 0.2)
    paused = bench.ticks(Facts(fsm=FsmState.PAUSE), PAUSE_S - 0.2 - TICK_S)
    assert set(paused) == {Send.PAUSE}
    assert bench.ticks(Facts(fsm=FsmState.PAUSE), 3 * TICK_S)[-1] == Send.CHUNK, "its own pause is none by another"


def test_a_pause_by_another_while_the_node_itself_holds_ends_the_goal():
    for held in (Facts(missing="head_camera"), Facts(chunk=False)):
        bench = Bench().into(State.RUNNING)
        bench.ticks(held, 0.2)
        bench.machine.disarm(Reason.PAUSED, "enable 0", bench.now)
        assert set(bench.ticks(Facts(), 5.0)) == {Send.NOTHING}
    bench = Bench().into(State.HOLDING)
    bench.tick(Facts(chunk=False, fsm=FsmState.SLOW_START, mode_s=0.0))
    assert bench.ticks(Facts(fsm=FsmState.READY, mode_s=0.0), 2 * HOLD_S)[-1] == Send.NOTHING
    assert bench.machine.ended.reason == Reason.PAUSED


def test_a_robot_that_goes_back_was_paused_unless_its_mode_says_that_the_operator_took_over():
    back = {"fsm": FsmState.PAUSE}
    bench = Bench().into(State.RUNNING)
    assert bench.tick(Facts(**back, mode_s=bench.now)) == Send.PAUSE
    fell_s = bench.now
    bench.ticks(Facts(**back, mode_s=fell_s), 0.5)
    bench.tick(Facts(**back, mode_s=fell_s + 2 * NEWS_S))
    assert (bench.machine.state, bench.machine.ended.reason) == (State.LOOKING, Reason.PAUSED)
    bench = Bench().into(State.RUNNING)
    bench.ticks(Facts(**back, mode_s=bench.now), 0.5)
    assert bench.tick(Facts(**back, mode=Mode.TELEOPERATION, mode_s=bench.now)) == Send.NOTHING
    assert bench.machine.state == State.TAKEN_OVER and bench.machine.ended is None


def test_no_call_arms_anew_while_there_is_a_goal_or_takes_the_arms_from_the_operator(bench):
    goal = bench.machine.state > State.ARMED
    state, full_speed = bench.machine.state, bench.machine.full_speed
    assert bench.machine.arm((), True, bench.now) == (not goal) == (not bench.machine.refuses(False))
    assert (bench.machine.state, bench.machine.full_speed) == (state, full_speed or not goal)
    taken_over = state == State.TAKEN_OVER
    assert bench.machine.arm((), False, bench.now, hand_back=True) == taken_over
    bench = Bench().into(State.ARMED)
    assert bench.machine.accept(bench.now) and not bench.machine.arm((), True, bench.now), (
        "a goal that waits is one, too"
    )


def test_a_goal_that_ends_while_the_operator_has_the_arms_disarms():
    bench = Bench().into(State.TAKEN_OVER)
    bench.machine.finish(Reason.CANCELED, "the goal was canceled", bench.now)
    assert (bench.machine.state, bench.machine.ended.reason) == (State.LOOKING, Reason.CANCELED)


def test_after_a_takeover_only_the_operator_hands_back():
    bench = Bench().into(State.TAKEN_OVER)
    gone = bench.ticks(Facts(missing="head_camera", failing="no answer", fsm=FsmState.PAUSE), 5.0)
    assert set(gone + bench.ticks(Facts(), 5.0)) == {Send.NOTHING}
    assert bench.machine.state == State.TAKEN_OVER
    assert bench.machine.arm((), False, bench.now, hand_back=True)
    assert bench.tick(Facts(fsm=FsmState.PAUSE)) == Send.CHUNK, "the goal goes on"
    bench.tick(HANDS_ON)
    bench.tick(Facts(), IDLE_S + 1)
    assert (bench.machine.state, bench.machine.ended.reason) == (State.LOOKING, Reason.TIMED_OUT)


def test_armed_it_waits_ten_minutes_for_a_goal_and_not_for_an_operator_or_a_failing_policy():
    for facts, seconds in ((Facts(), IDLE_S + 1), (HANDS_ON, TICK_S), (Facts(failing="no answer"), HOLD_S + TICK_S)):
        bench = Bench().into(State.ARMED)
        bench.tick(facts, seconds)
        assert bench.machine.state == State.LOOKING
        assert not bench.machine.accept(bench.now) and not bench.machine.begin(bench.now)


def test_a_goals_first_actions_are_waited_for_not_for_ever():
    for facts, reason in ((Facts(chunk=False), Reason.POLICY_LOST), (Facts(missing="left_arm"), Reason.INPUTS_LOST)):
        bench = Bench().into(State.ARMED)
        assert not bench.machine.begin(bench.now), "there is no goal"
        assert bench.machine.accept(bench.now) and not bench.machine.accept(bench.now), "one at a time"
        bench.tick(facts, FIRST_S)
        assert bench.machine.state == State.ARMED
        bench.tick(facts)
        assert (bench.machine.state, bench.machine.ended.reason) == (State.LOOKING, reason)


def test_a_goal_that_ends_leaves_it_armed_and_the_next_waits_until_the_robot_has_paused():
    bench = Bench().into(State.RUNNING)
    bench.machine.finish(Reason.SUCCEEDED, "done", bench.now)
    assert (bench.machine.state, bench.machine.ended) == (State.ARMED, Ending(Reason.SUCCEEDED, "done"))
    assert bench.tick() == Send.NOTHING
    assert bench.machine.accept(bench.now) and not bench.machine.begin(bench.now)
    bench.ticks(Facts(), PAUSE_S)
    assert bench.machine.begin(bench.now) and bench.tick(Facts(fsm=FsmState.PAUSE)) == Send.CHUNK


def test_a_robot_that_does_not_become_ready_is_not_enabled_for_ever():
    bench = Bench().into(State.ARMED)
    assert bench.machine.accept(bench.now) and bench.machine.begin(bench.now)
    sent = bench.ticks(Facts(fsm=FsmState.SLOW_START), READY_S + 3 * TICK_S)
    assert sent[-1] == Send.NOTHING and bench.machine.ended.reason == Reason.PAUSED
    bench = Bench().into(State.ARMED)
    assert bench.machine.accept(bench.now) and bench.machine.begin(bench.now)
    for _ in range(round(READY_S / 0.5) + 1):  # chunks flicker
        bench.ticks(Facts(fsm=FsmState.SLOW_START, chunk=False), 0.2)
        bench.ticks(Facts(fsm=FsmState.SLOW_START), 0.3)
    assert bench.machine.state == State.LOOKING and "not become READY" in bench.machine.ended.text
    bench = Bench().into(State.RUNNING)
    bench.ticks(Facts(), READY_S + 1)
    bench.tick(Facts(chunk=False))
    assert bench.tick() == Send.CHUNK, "READY was seen"


def random_facts(rng):
    """Mostly good."""
    return Facts(
        fsm=rng.choice([0, 1, 2, 2, 2, 2]),
        mode=rng.choice([Mode.TELEOPERATION] + [Mode.API] * 9),
        mode_s=rng.choice([0.0, 1e9]),
        lost=LOST if rng.random() < 0.02 else None,
        missing="head_camera" if rng.random() < 0.1 else "",
        failing="no answer" if rng.random() < 0.05 else "",
        chunk=rng.random() < 0.9,
    )


@pytest.mark.parametrize("sequences", [10_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_random_sequences_of_events_never_move_what_was_not_armed(sequences):
    rng, seen = random.Random(21), set()
    for _ in range(sequences):
        machine, now, armed, held_s = StateMachine(), 0.0, False, None
        for _ in range(rng.randrange(5, 25)):
            now += rng.choice([0.01, 0.05, 0.2, 0.6])
            match rng.randrange(12):
                case 0 | 1:
                    accepted = machine.arm((), rng.random() < 0.5, now, hand_back=rng.random() < 0.5)
                    armed = armed or accepted
                case 2:
                    before = machine.state
                    assert not machine.arm(("no",), False, now) and machine.state == before
                case 3 | 4:
                    before = machine.state
                    accepted = machine.accept(now)
                    assert not accepted or before == State.ARMED
                    assert machine.begin(now) <= (machine.state == State.RUNNING)
                case 5:
                    machine.finish(Reason.CANCELED, "told to", now)
                case 6:
                    machine.disarm(rng.choice([Reason.PAUSED, Reason.DEACTIVATED, Reason.LIMIT]), "told to", now)
                    armed = False
                    assert machine.state == State.LOOKING
                case _:
                    facts = random_facts(rng)
                    send = machine.tick(facts, now)
                    seen.add((machine.state, send))
                    assert send == Send.CHUNK if machine.state == State.RUNNING else send != Send.CHUNK
                    assert send == Send.NOTHING or machine.state in (State.RUNNING, State.HOLDING)
                    if facts.lost or facts.missing or facts.mode == Mode.TELEOPERATION:
                        assert send in (Send.NOTHING, Send.PAUSE), "enabled by what is not known to be good"
                    if facts.lost:
                        assert machine.state == State.LOOKING
                    if machine.state == State.HOLDING:
                        held_s = now if held_s is None else held_s
                        assert now - held_s < HOLD_S
            if machine.state != State.HOLDING:
                held_s = None
            armed = armed and machine.state != State.LOOKING
            assert armed or machine.state == State.LOOKING
    assert {state for state, _ in seen} == set(State) and {send for _, send in seen} == set(Send)
