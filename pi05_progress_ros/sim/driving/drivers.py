"""Policies that drive, in this process or in several: an episode goes the same way wherever and whenever driven.

Every process loads the policy once. Before each episode the policy's noise begins anew, from the episode's seed; a
policy of other code that remembers anything from one episode to the next is not made to forget it.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pi05_progress.checkpoints.description import read_info
from pi05_progress.errors import UserError
from pi05_progress.files.worker_process import in_worker, worker_pool
from pi05_progress.make_policy import make_policy
from pi05_progress.observation import UNTRAINED
from pi05_progress.policy import Policy, PolicyOptions
from pi05_progress.robots.profile import RobotProfile

from ..expert.planner import PLANNER, PlannerPolicy
from .closed_loop import ClosedLoop, DrivenEpisode, LoopSettings

Which = tuple[str, int, str]  # task, seed and shift of the laboratory of an episode


@dataclass(frozen=True)
class Driving:
    """Who drives, and how; what each process needs to know."""

    policy: PolicyOptions
    profile: str
    loop: LoopSettings


@dataclass(frozen=True)
class Who:
    """What drives what: names of the model and of the robot profile."""

    model_id: str
    robot: str


def load_policy(profile: RobotProfile, options: PolicyOptions) -> Policy:
    """A policy that is ready to drive; a ValueError if it is untrained, cannot be loaded, or does not fit."""
    policy = PlannerPolicy(profile) if options.policy == PLANNER else make_policy(profile, options)
    if policy.model_id == UNTRAINED:
        raise UserError("the model is untrained by its own account, its actions mean nothing: give another")
    policy.warm_up()
    return policy


class Driver:
    """A policy, and the robot of the task it was asked for last; raises as ``load_policy``."""

    def __init__(self, driving: Driving) -> None:
        checkpoint = driving.policy.checkpoint
        info = read_info(Path(checkpoint)) if checkpoint else None
        self._profile = RobotProfile.load(driving.profile or (info.robot if info else "teleavatar"))
        self._policy = load_policy(self._profile, driving.policy)
        self._settings, self._what, self._loop = driving.loop, ("", ""), None

    def who(self) -> Who:
        """What drives what."""
        return Who(self._policy.model_id, self._profile.name)

    def run(self, task: str, seed: int, shift: str) -> DrivenEpisode:
        """Drive an episode; raises as ``ClosedLoop``."""
        if self._loop is None or (task, shift) != self._what:
            self.close()
            self._what, laboratory = (task, shift), replace(self._settings.laboratory, shift=shift)
            settings = replace(self._settings, laboratory=laboratory)
            self._loop = ClosedLoop(self._policy, self._profile, task, settings)
        self._policy.restart(seed)
        return self._loop.run(seed)

    def close(self) -> None:
        """Free the renderers."""
        if self._loop is not None:
            self._loop.close()
            self._loop = None


Run = Callable[[Sequence[Which]], Iterator[DrivenEpisode]]  # drives episodes, in any order


@contextmanager
def drivers(driving: Driving, workers: int) -> Iterator[tuple[Who, Run]]:
    """Load the policy, in this process if ``workers`` is 1, else in as many others as needed; all end with the context.

    Raises:
        UserError, ValueError: see ``Driver``; or a process has died.
    """
    if workers == 1:
        with closing(Driver(driving)) as driver:
            yield driver.who(), lambda episodes: (driver.run(*which) for which in episodes)
        return
    before = set(multiprocessing.active_children())
    pool = worker_pool(workers, partial(Driver, driving))

    def run(episodes: Sequence[Which]) -> Iterator[DrivenEpisode]:
        return (f.result() for f in as_completed([pool.submit(in_worker, "run", *which) for which in episodes]))

    try:
        yield pool.submit(in_worker, "who").result(), run
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()  # an episode takes a minute; it is driven again
        if isinstance(error, BrokenProcessPool):
            raise UserError("a worker process died, for want of memory perhaps: try fewer --workers") from error
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
