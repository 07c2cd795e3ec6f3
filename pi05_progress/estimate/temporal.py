"""The temporal head: what a small recurrent network makes of all beliefs of a run so far, in NumPy.

The model looks at one moment, and one moment is ambiguous. Per inference the head reads the pooled prefix (projected),
the belief's bins, the time since the last inference, how well the new chunk agrees with the last one, and whether its
direction reversed; a GRU remembers. ``training.train_temporal`` makes it; a checkpoint keeps it in ``temporal/``.

One file of safetensors has everything, so that a policy server can send it: the arrays, and as JSON ``about``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import safetensors.numpy
from jaxtyping import Float
from pydantic import TypeAdapter
from safetensors import SafetensorError

from ..errors import UserError
from ..observation import PolicyOutput

POINTS, RATIOS, LONGEST_RATIO = 101, 41, 2.0  # points of progress on [0, 1], and of time remaining / usual duration
GRID = np.linspace(0, 1, POINTS)
LEVELS = np.linspace(0, 1, 41)  # nominal levels at which intervals are calibrated
GROUPS = 10  # of moments by the progress that is believed: each is calibrated apart
OTHERS = 9  # inputs beside features and bins, see `inputs`
UNLIKE_S, RECENT_S = 1.0, 3.0  # over so long features must be unlike the data; chunks are looked at
RECENT_FEWEST = 5  # chunks in that time: two a second, some late
STEP = 0.03  # progress that has risen by this has moved


@dataclass(frozen=True)
class About:
    """What belongs to the arrays."""

    action_dt_s: float  # between two actions of a chunk
    stages: Mapping[str, tuple[str, ...]]  # names by instruction
    durations_s: Mapping[str, float]  # usual ones by instruction
    unlike: float  # features farther from the data than this are unlike it
    alarms: Mapping[str, float]  # threshold of each detector of failure, by its name in `DETECTORS`; none: never FAILED
    # probability above which an instruction asks for something else; None: the head was taught no such instructions
    misfit: float | None = None
    # how it was made and what came of it: data sets, episodes, share of false alarms, figures
    made: Mapping[str, Any] = field(default_factory=dict)


_ABOUT = TypeAdapter(About)
DETECTORS = {  # of failure, and what is said of each
    "still": "no progress for {:.0f} s",
    "disagreement": "one chunk of actions contradicts the next",
    "reversals": "the direction of motion keeps reversing",
    "hopeless": "episodes that went like this did not succeed",
}


@dataclass(frozen=True)
class Recollection:
    """What the head believes after an inference."""

    points: Float[np.ndarray, " p"]  # probabilities of progress 0, 0.01 ... 1
    ratios: Float[np.ndarray, " r"]  # probabilities of time remaining / usual duration, 0 to LONGEST_RATIO
    stage: int  # index
    done: float  # probability that the task is complete now
    succeeds: float  # probability that the episode will succeed
    distance: float  # of the newest features from the training data; the smallest of the last UNLIKE_S
    misfit: float = 0.0  # probability that something else is asked for than what is seen; as `distance`

    @property
    def progress(self) -> float:
        """The mean of the belief."""
        return float(self.points @ GRID)


class TemporalHead:
    """Parameters that do not change; ``Memory`` holds what does. A ``UserError``: the bytes are no temporal head, or
    their arrays do not fit together."""

    def __init__(self, data: bytes) -> None:
        try:
            arrays = safetensors.numpy.load(data)
            self.about = _ABOUT.validate_json(bytes(arrays.pop("about")))
            self.arrays = {name: np.asarray(value, np.float32) for name, value in arrays.items()}
            self._check()
        except (SafetensorError, KeyError, ValueError) as error:
            raise UserError(
                f"the temporal head cannot be read, make it anew: {type(error).__name__}: {error}"
            ) from None

    @property
    def judges_instructions(self) -> bool:
        """Whether it says that an instruction asks for something else than what is seen."""
        return self.about.misfit is not None

    def _check(self) -> None:
        a = self.arrays
        width, reads = a["projection"].shape
        hidden, inputs = a["hidden/kernel"].shape[0], a["input/kernel"].shape[0]
        bins = inputs - (reads + 1) - OTHERS
        wanted = {
            "projection": (width, reads), "centre": (width,), "residual": (),
            "centroids": (len(a["centroids"]), reads + 1), "input_mean": (inputs,), "input_std": (inputs,),
            "action_scale": a["action_scale"].shape,
            "input/kernel": (inputs, 3 * hidden), "input/bias": (3 * hidden,), "hidden/kernel": (hidden, 3 * hidden),
            "middle/kernel": (hidden, hidden), "middle/bias": (hidden,),
            "output/kernel": (hidden, outputs := a["output/kernel"].shape[1]), "output/bias": (outputs,),
            "progress_levels": (GROUPS, len(LEVELS)), "ratio_levels": (GROUPS, len(LEVELS)), "platt": (2, 2),
        }  # fmt: skip
        found = {name: value.shape for name, value in a.items()}
        few = outputs < POINTS + RATIOS + 3 + self.judges_instructions
        if found != wanted or bins < 0 or few or a["action_scale"].ndim != 1:
            wrong = ", ".join(sorted(n for n in found.keys() | wanted.keys() if found.get(n) != wanted.get(n)))
            raise ValueError(f"its arrays do not fit together: {wrong or 'sizes'}")
        if not all(np.isfinite(value).all() for value in a.values()):
            raise ValueError("an array holds numbers that are not finite")
        of = self.about
        numbers = [of.unlike, of.misfit or 0, *of.durations_s.values(), *of.alarms.values()]
        if not (0 < of.action_dt_s < np.inf and np.isfinite(numbers).all()):
            raise ValueError("about holds a number that is not finite, or an action_dt_s that is not above 0")
        self.hidden, self.bins = hidden, bins

    def reads(self, output: PolicyOutput) -> bool:
        """Whether an output has what is read, of the right sizes and finite: a single NaN would never be forgotten."""
        found = output.progress_features, output.progress_belief
        if any(of is None or not np.isfinite(of).all() for of in found):
            return False
        shapes = (*map(np.shape, found), output.actions.shape[-1:])
        return shapes == (self.arrays["centroids"].shape[1:], (self.bins,), self.arrays["action_scale"].shape)

    def project(self, pooled: Float[np.ndarray, "*b w"]) -> Float[np.ndarray, "*b f"]:
        """Features of a pooled prefix: projected and whitened, and last how far it is from the projection's plane."""
        return project(self.arrays, pooled)

    def step(
        self, hidden: Float[np.ndarray, " h"], inputs: Float[np.ndarray, " i"]
    ) -> tuple[Float[np.ndarray, " h"], Float[np.ndarray, " o"]]:
        """One step of the GRU, and the outputs' logits."""
        a = self.arrays
        x = standardised(a, inputs) @ a["input/kernel"] + a["input/bias"]
        h = hidden @ a["hidden/kernel"]
        n = self.hidden
        reset, update = _sigmoid(x[: 2 * n] + h[: 2 * n]).reshape(2, n)
        new = (1 - update) * np.tanh(x[2 * n :] + reset * h[2 * n :]) + update * hidden
        middle = new @ a["middle/kernel"] + a["middle/bias"]
        return new, (middle * _sigmoid(middle)) @ a["output/kernel"] + a["output/bias"]

    def interval(self, of: Recollection, level: float) -> tuple[float, float]:
        """The calibrated interval of progress."""
        return _interval(of.points, self._level("progress_levels", of, level), 1.0)

    def remaining(self, of: Recollection, level: float, usual_s: float) -> tuple[float, float, float]:
        """Time remaining and its calibrated interval, s."""
        low, high = _interval(of.ratios, self._level("ratio_levels", of, level), LONGEST_RATIO)
        seen = np.mean(_interval(of.ratios, 0.0, LONGEST_RATIO))
        middle = np.clip((seen + 1 - of.progress) / 2, low, high)  # what is left of the usual time, corrected by it
        return float(middle) * usual_s, low * usual_s, high * usual_s

    def _level(self, name: str, of: Recollection, level: float) -> float:
        return float(np.interp(level, LEVELS, self.arrays[name][group(of.progress)]))


class Memory:
    """What a head remembers of a run; ``update`` is called once per inference, in order."""

    def __init__(self, head: TemporalHead) -> None:
        self._head = head
        self._hidden = np.zeros(head.hidden, np.float32)
        self._last: tuple[float, np.ndarray] | None = None  # time and chunk of the last inference
        self._recent: list[tuple[float, ...]] = []  # time, distance, misfit, disagreement, reversal
        self._anchor, self._moved_s, self._began_s = np.inf, 0.0, 0.0

    def update(self, time_s: float, output: PolicyOutput) -> Recollection:
        """Take in an output that the head ``reads``."""
        a, head = self._head.arrays, self._head
        chunk, features = np.asarray(output.actions, np.float32) / a["action_scale"], output.progress_features
        before_s, before = self._last or (time_s, chunk)
        since_s = np.float32(time_s - before_s)
        differs, turns = agreement(before, chunk, since_s / head.about.action_dt_s)
        first = self._last is None
        values = inputs(features, output.progress_belief, since_s, differs, turns, np.float32(first))
        self._hidden, logits = head.step(self._hidden, values)
        if first:
            self._began_s = self._moved_s = time_s
        self._last = time_s, chunk
        distance = float(np.sqrt(np.square(a["centroids"] - features).sum(axis=1).min()))
        self._recent = [of for of in self._recent if of[0] > time_s - RECENT_S]
        misfit = 0.0
        if head.judges_instructions:
            logits, misfit = logits[:-1], float(_sigmoid(logits[-1]))
        self._recent.append((time_s, distance, misfit, float(differs), float(turns)))
        smallest = np.min([of[1:3] for of in self._recent if of[0] > time_s - UNLIKE_S], axis=0)
        return recollection(a, logits, *map(float, smallest))

    def rest(self) -> None:
        """Time until now is none in which progress should have been made: it was done, begun anew, or not known."""
        self._anchor = np.inf

    def detected(self, time_s: float, progress: float, of: Recollection) -> dict[str, float]:
        """What each detector of failure says now; progress is the published one."""
        if progress >= self._anchor + STEP or not np.isfinite(self._anchor):
            self._anchor, self._moved_s = progress, time_s
        self._anchor = min(self._anchor, progress)
        differs, turns = np.mean([of[3:] for of in self._recent], axis=0)
        # a mean over less says nothing, nor do chunks that come more slowly than any that were trained on
        whole = time_s - self._began_s >= RECENT_S and len(self._recent) >= RECENT_FEWEST
        return {"still": time_s - self._moved_s, "disagreement": differs * whole, "reversals": turns * whole,
                "hopeless": 1 - of.succeeds}  # fmt: skip


# --- what training does alike, for many at once ---


def project(arrays: Mapping[str, np.ndarray], pooled: Float[np.ndarray, "*b w"]) -> Float[np.ndarray, "*b f"]:
    """See ``TemporalHead.project``."""
    plane = (pooled - arrays["centre"]) @ arrays["projection"]
    whole = np.square(pooled - arrays["centre"]).sum(axis=-1)
    back = np.square(plane / np.linalg.norm(arrays["projection"], axis=0)).sum(axis=-1)  # its columns are orthogonal
    beside = np.sqrt(np.maximum(whole - back, 0)) / arrays["residual"]
    return np.concatenate([plane, beside[..., None]], axis=-1).astype(np.float32)


def agreement(
    before: Float[np.ndarray, "*b r n"], now: Float[np.ndarray, "*b r n"], rows: Float[np.ndarray, "*b"]
) -> tuple[Float[np.ndarray, "*b"], Float[np.ndarray, "*b"]]:
    """How far a chunk that began ``rows`` rows later is from the one before, and how far its direction is reversed.

    The mean square over what both are about, 0 where that is nothing; and 0 for the same direction, 1 for the opposite.
    """
    count = now.shape[-2]
    at = np.arange(count) + np.asarray(rows)[..., None]  # rows of `before`
    low = np.clip(np.floor(at), 0, count - 2).astype(int)
    share = (at - low)[..., None]
    first = np.take_along_axis(before, low[..., None], axis=-2)
    second = np.take_along_axis(before, low[..., None] + 1, axis=-2)
    both = (at <= count - 1).astype(np.float32)
    square = np.square(now - (1 - share) * first - share * second).mean(axis=-1)
    differs = np.where(both > 0, square, 0).sum(axis=-1) / np.maximum(both.sum(axis=-1), 1)
    old, new = before[..., -1, :] - before[..., 0, :], now[..., -1, :] - now[..., 0, :]
    norm = np.linalg.norm(old, axis=-1) * np.linalg.norm(new, axis=-1)
    turns = np.where(norm > 1e-6, (1 - (old * new).sum(axis=-1) / np.maximum(norm, 1e-6)) / 2, 0.0)
    return differs, turns


def inputs(
    features: Float[np.ndarray, "*b f"],
    bins: Float[np.ndarray, "*b n"],
    since_s: Float[np.ndarray, "*b"],
    differs: Float[np.ndarray, "*b"],
    turns: Float[np.ndarray, "*b"],
    first: Float[np.ndarray, "*b"],
) -> Float[np.ndarray, "*b i"]:
    """What the network reads, before it is standardised; ``first`` is 1 where nothing was before."""
    centres = (np.arange(bins.shape[-1]) + 0.5) / bins.shape[-1]
    mean = bins @ centres
    spread = np.sqrt(np.maximum(bins @ np.square(centres) - mean**2, 0))
    others = np.stack(
        [mean, spread, since_s, np.log(0.05 + since_s), np.log(1e-3 + differs), turns, first, mean > 0.9, mean < 0.1],
        axis=-1,
    )
    return np.concatenate([features, bins, others], axis=-1).astype(np.float32)


def standardised(arrays: Mapping[str, np.ndarray], values: Float[np.ndarray, "*b i"]) -> Float[np.ndarray, "*b i"]:
    """Inputs as the network takes them; what is far off is cut."""
    return np.clip((values - arrays["input_mean"]) / arrays["input_std"], -6, 6)


def recollection(
    arrays: Mapping[str, np.ndarray], logits: Float[np.ndarray, " o"], distance: float, misfit: float
) -> Recollection:
    """What logits stand for."""
    points, ratios, stages = np.split(logits[:-2], [POINTS, POINTS + RATIOS])
    (done_by, done_from), (success_by, success_from) = arrays["platt"]
    done, succeeds = logits[-2:]
    return Recollection(
        _softmax(points), _softmax(ratios), int(np.argmax(stages)), float(_sigmoid(done_by * done + done_from)),
        float(_sigmoid(success_by * succeeds + success_from)), distance, misfit,
    )  # fmt: skip


def group(progress: float) -> int:
    """By which its interval is calibrated."""
    return min(int(GROUPS * progress), GROUPS - 1)


def needed_level(points: Float[np.ndarray, "n p"], cell: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The smallest level whose central interval holds the cell of the truth: what intervals are calibrated by."""
    upto = np.take_along_axis(np.cumsum(points, axis=-1), cell[:, None], axis=-1)[:, 0]
    below = upto - np.take_along_axis(points, cell[:, None], axis=-1)[:, 0]
    return np.clip(np.maximum(1 - 2 * upto, 2 * below - 1), 0, 1)


def _interval(points: Float[np.ndarray, " p"], level: float, most: float) -> tuple[float, float]:
    """Ends of the cells that a central interval touches; cells are around points from 0 to ``most``."""
    upto = np.cumsum(points)
    low = int(np.argmax(upto >= (1 - level) / 2 - 1e-6))
    high = len(points) - 1 - int(np.argmax((upto - points <= (1 + level) / 2 + 1e-6)[::-1]))
    cell = most / (len(points) - 1)
    return max(0.0, (low - 0.5) * cell), min(most, (high + 0.5) * cell)


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max())
    return shifted / shifted.sum()


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(0.5 * x)


def to_bytes(arrays: Mapping[str, np.ndarray], about: About) -> bytes:
    """A head as the file and the wire have it."""
    text = np.frombuffer(json.dumps(asdict(about)).encode(), np.uint8)
    return safetensors.numpy.save({**{n: np.asarray(v, np.float32) for n, v in arrays.items()}, "about": text})
