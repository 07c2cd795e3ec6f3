"""In which order, when and how a policy is shown the frames of an episode: as recorded, or perturbed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pi05_progress.errors import UserError
from pi05_progress.observation import RobotFrame

from ..datasets.instructions import Instructions, same_words, words

PLAIN, HELD = "plain", "held"
PAUSE, REVERSED, HALF, DOUBLE, WRONG, BLACK = "pause", "reversed", "half_speed", "double_speed", "wrong", "black"
PERTURBATIONS = (PAUSE, REVERSED, HALF, DOUBLE, WRONG, BLACK)
PARAPHRASE, REFUSED = "paraphrase", "refused"
PAUSE_S = 5.0
LATE_S = 3.0  # declared so long after it was done is late
HELD_S = LATE_S + 3.0  # how long the end of a recording is held (a robot that is done stays): late is not never
PICTURE_NOISE = 3.0  # standard deviation of a paused picture's noise, of 255
FOREIGN = "water the plants"  # the wrong instruction where no other task is known
STATE_NOISE = 5e-4  # of a paused robot's state, rad and so on


@dataclass(frozen=True)
class View:
    """One thing a policy is shown."""

    frame: int  # of the episode, from 0
    prompt: str  # the instruction
    black: str | None = None  # a camera whose picture is black
    noise: int | None = None  # seed of sensor noise that is added; None adds none

    def of(self, frame: RobotFrame) -> RobotFrame:
        """The frame as it is shown."""
        images, state = dict(frame.images), frame.state
        if self.black is not None:
            images[self.black] = np.zeros_like(images[self.black])
        if self.noise is not None:
            rng = np.random.default_rng(self.noise)
            for key in sorted(images):
                noisy = images[key] + PICTURE_NOISE * rng.standard_normal(images[key].shape, np.float32)
                images[key] = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
            state = (state + STATE_NOISE * rng.standard_normal(state.shape)).astype(np.float32)
        return replace(frame, images=images, state=state)


@dataclass(frozen=True)
class Playback:
    """Views in the order in which they are shown."""

    name: str  # one of the constants above
    time_s: np.ndarray  # when each is shown, rising, in seconds from the start
    views: tuple[View, ...]  # what is shown

    @property
    def frames(self) -> np.ndarray:
        """Frame of each view, int (n,)."""
        return np.array([view.frame for view in self.views])


def plain(length: int, fps: float, stride: int, prompt: str) -> Playback:
    """Every ``stride``-th frame and the last one, at their times."""
    frames = sorted({*range(0, length, stride), length - 1})
    return Playback(PLAIN, np.array(frames) / fps, tuple(View(frame, prompt) for frame in frames))


def paused(original: Playback, fps: float, stride: int, seed: int) -> Playback:
    """Everything stops for five seconds half-way, but the sensors' noise goes on; then the rest is shown."""
    middle = len(original.views) // 2
    during = _standstill(original.views[middle], PAUSE_S, fps, stride, 1000 * seed)
    length = len(during) * stride / fps
    times = original.time_s[middle] + (1 + np.arange(len(during))) * stride / fps
    time_s = np.concatenate([original.time_s[: middle + 1], times, original.time_s[middle + 1 :] + length])
    return Playback(PAUSE, time_s, (*original.views[: middle + 1], *during, *original.views[middle + 1 :]))


def held(original: Playback, fps: float, stride: int, seed: int) -> Playback:
    """After the last frame nothing happens for ``HELD_S`` but the sensors' noise."""
    after = _standstill(original.views[-1], HELD_S, fps, stride, 1000 * seed + 500)
    times = original.time_s[-1] + (1 + np.arange(len(after))) * stride / fps
    return Playback(HELD, np.concatenate([original.time_s, times]), (*original.views, *after))


def _standstill(view: View, seconds: float, fps: float, stride: int, seed: int) -> list[View]:
    steps = max(1, int(seconds * fps / stride + 1e-9))
    return [replace(view, noise=seed + step) for step in range(steps)]


def backwards(original: Playback) -> Playback:
    """The last frame first."""
    return Playback(REVERSED, original.time_s[-1] - original.time_s[::-1], original.views[::-1])


def at_speed(name: str, speed: float, length: int, fps: float, stride: int, prompt: str) -> Playback:
    """The same course in ``1 / speed`` of the time, looked at as often per second."""
    steps = int((length - 1) / (speed * stride) + 1e-9)
    frames = [int(step * stride * speed + 1e-9) for step in range(steps + 1)]
    times = [step * stride / fps for step in range(steps + 1)]
    if frames[-1] != length - 1:
        frames, times = [*frames, length - 1], [*times, (length - 1) / (speed * fps)]
    return Playback(name, np.array(times), tuple(View(frame, prompt) for frame in frames))


def changed(name: str, original: Playback, *, prompt: str | None = None, black: str | None = None) -> Playback:
    """The same frames at the same times with another instruction, or with a camera that sees nothing."""
    views = [replace(v, prompt=v.prompt if prompt is None else prompt, black=black) for v in original.views]
    return Playback(name, original.time_s, tuple(views))


def said_otherwise(original: Playback, instructions: Instructions, judging: bool, seed: int) -> list[Playback]:
    """The same with another wording of its instruction, and with one that is to be refused, where there are such."""
    variants = instructions.variants(original.views[0].prompt, judging)
    return [
        changed(name, original, prompt=of[seed % len(of)])
        for name, of in ((PARAPHRASE, variants.paraphrases), (REFUSED, variants.refused))
        if of
    ]


def all_playbacks(
    length: int,
    fps: float,
    stride: int,
    prompt: str,
    *,
    wrong_prompt: str,
    black: str,
    seed: int,
    names: Sequence[str] = PERTURBATIONS,
) -> list[Playback]:
    """An episode as it was, with its end held, and perturbed in each of the ways that are named.

    There are ``stride`` frames from one inference to the next; the seed is that of the noise.
    """
    original = plain(length, fps, stride, prompt)
    makers = {
        PAUSE: lambda: paused(original, fps, stride, seed),
        REVERSED: lambda: backwards(original),
        HALF: lambda: at_speed(HALF, 0.5, length, fps, stride, prompt),
        DOUBLE: lambda: at_speed(DOUBLE, 2.0, length, fps, stride, prompt),
        WRONG: lambda: changed(WRONG, original, prompt=wrong_prompt),
        BLACK: lambda: changed(BLACK, original, black=black),
    }
    return [original, held(original, fps, stride, seed), *(makers[name]() for name in names)]


def wrong_instruction(task: str, known: Iterable[str], wanted: str = "") -> str:
    """An instruction for something else.

    Another order of the same words is not taken for another task (see ``same_words``).

    Args:
        known: instructions the model was trained on, and those of the data set.
        wanted: take this one; empty takes the next task of other words in alphabetical order, or a foreign one if
            there is none.

    Raises:
        UserError: the wanted one is the right one.
    """
    if wanted:
        if words(wanted) == words(task):
            raise UserError(f"--wrong {wanted!r}: is the right instruction of a task; give one for something else")
        return wanted
    others = sorted({other for other in known if not same_words(other, task)})
    later = [other for other in others if other > task]
    return (later or others or [FOREIGN])[0]
