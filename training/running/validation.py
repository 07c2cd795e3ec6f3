"""How good a model is on held-out episodes. Draws depend on the seed and the frame alone, so that results compare."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int32, Key, UInt8

from pi05_progress.models.config import Pi05Config
from pi05_progress.models.pi05 import Pi05

from ..engine.loss import LossConfig, combined, counted_steps, position_errors
from ..engine.sharding import put_batch, replicated
from ..engine.state import with_parameters
from ..evaluation.metrics import spearman
from ..loading.batch import Batch

MOST = 9  # episodes in a picture
COLUMNS = 3
SIZE_IN, DPI = (3.2, 2.0), 100
VALIDATION_SEED = 1  # folded into the run's, so that validation sees other noise than training


class PerSample(NamedTuple):
    """What validation computes of every row; ``progress`` is None without a head, the next two also without labels.

    ``label`` is NaN where there is none, ``counts`` says where the actions do. The last two are of named positions, m
    the error, NaN where there is no label, and None without any.
    """

    origin: Int32[Array, "b 3"]
    action_loss: Float[Array, " b"]
    counts: Bool[Array, " b"]
    progress: Float[Array, " b"] | None = None
    progress_loss: Float[Array, " b"] | None = None
    label: Float[Array, " b"] | None = None
    position_loss: Float[Array, "b n"] | None = None
    position_error: Float[Array, "b n"] | None = None
    action_error: Float[Array, " b"] | None = None  # of chunks that the policy would give, rad; where it is asked for


@dataclass(frozen=True)
class Trace:
    """Progress over an episode, at the frames that were looked at."""

    dataset: int  # which
    episode: int
    frames: Int32[np.ndarray, " n"]  # their numbers, rising
    predicted: Float[np.ndarray, " n"]  # by the model
    label: Float[np.ndarray, " n"]  # NaN where there is none


@dataclass(frozen=True)
class Validation:
    """Numbers for the logs, and what pictures are made of."""

    numbers: dict[str, float]
    traces: list[Trace]

    @property
    def loss(self) -> float:
        """What decides which checkpoint is the best."""
        return self.numbers["loss"]


Step = Callable[[Mapping[str, Array], Batch], PerSample]


def draws(
    key: Key[Array, ""], origin: Int32[Array, "b 3"], shape: tuple[int, int]
) -> tuple[Float[Array, "b a d"], Float[Array, " b"]]:
    """Noise and time of every row, distributed as in training, from the frame's data set, episode and number."""

    def one(of: Int32[Array, " 3"]) -> tuple[Array, Array]:
        own = key
        for part in of:
            own = jax.random.fold_in(own, part)
        noise, time = jax.random.split(own)
        return jax.random.normal(noise, shape), jax.random.beta(time, 1.5, 1) * 0.999 + 0.001

    return jax.vmap(one)(origin)


def per_sample(
    model: Pi05,
    key: Key[Array, ""],
    batch: Batch,
    loss: LossConfig,
    action_size: int,
    scale: Float[np.ndarray, "a d"] | None = None,
) -> PerSample:
    """The losses and the model's belief, from one pass; with ``scale`` actions are sampled, too."""
    noise, time = draws(key, batch.origin, batch.actions.shape[1:])
    counted = action_size if loss.ignore_padded_dims else None
    losses = model.losses(batch.observation, batch.actions, noise, time, counted)
    steps = counted_steps(loss, batch.action_is_pad)
    action = jnp.where(steps, losses.action, 0.0).sum(axis=-1) / steps.sum(axis=-1)
    found = PerSample(batch.origin, action, batch.action_weight > 0)
    if scale is not None:
        wrong = jnp.abs(model.sample(batch.observation, noise=noise).actions - batch.actions)[..., : scale.shape[1]]
        weights = jnp.where(batch.action_is_pad, 0.0, 1.0)[..., None] * (scale > 0)
        found = found._replace(action_error=(wrong * scale * weights).sum((1, 2)) / weights.sum((1, 2)))
    if losses.position is not None:
        located = batch.observation.positions_mask
        error = jnp.where(located, position_errors(losses, batch.observation), jnp.nan)
        found = found._replace(position_loss=jnp.where(located, losses.position, jnp.nan), position_error=error)
    if losses.belief is None:
        return found
    found = found._replace(progress=losses.belief.mean)
    if losses.progress is None:
        return found
    label = jnp.where(losses.progress_mask, batch.observation.progress, jnp.nan)
    return found._replace(progress_loss=losses.progress, label=label)


def make_validation_step(
    config: Pi05Config,
    mesh: Mesh,
    loss: LossConfig,
    action_size: int,
    seed: int,
    scale: Float[np.ndarray, "a d"] | None = None,
) -> Step:
    """A compiled function of parameters by path and a batch on the mesh's devices; every process gets all rows.

    Args:
        scale: how much of a joint's angle is 1 in normalised actions, by row of a chunk, 0 for what is no angle; if it
            is given, actions are sampled, and the error of these is found, too.
    """
    key = jax.random.fold_in(jax.random.key(seed), VALIDATION_SEED)

    def validation_step(parameters: Mapping[str, Array], batch: Batch) -> PerSample:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return per_sample(with_parameters(config, parameters), key, batch, loss, action_size, scale)

    return jax.jit(validation_step, out_shardings=replicated(mesh))


def validate(
    step: Step,
    parameters: Mapping[str, Array],
    batches: Iterable[Batch],
    mesh: Mesh,
    *,
    loss: LossConfig,
    successful: Callable[[int, int], bool],
) -> Validation:
    """Run through this process's rows of held-out episodes; rows whose origin is -1 do not count.

    ``successful`` is whether an episode of a data set did not fail; only these count for rank correlation.
    """
    all_rows = _run(step, parameters, batches, mesh)
    rows = PerSample(*(None if part is None else part[all_rows.origin[:, 0] >= 0] for part in all_rows))
    action = _mean(rows.action_loss[rows.counts])
    numbers, progress, position = {"loss": 0.0, "action_loss": action}, None, None
    if rows.position_loss is not None:
        located = ~np.isnan(rows.position_loss)
        numbers["position_loss"] = _mean(rows.position_loss[located])
        numbers["position_error_mm"] = 1e3 * _mean(rows.position_error[located])
        position = numbers["position_loss"] if located.any() else None
    if rows.action_error is not None:
        numbers["action_error"] = _mean(rows.action_error[rows.counts])
    traces = [] if rows.progress is None else _traces(rows)
    if rows.label is not None:
        labelled = ~np.isnan(rows.label)
        errors = np.abs(rows.progress - rows.label)[labelled]
        numbers["progress_loss"] = _mean(rows.progress_loss[labelled])
        numbers["progress_mae"] = _mean(errors)
        progress = numbers["progress_loss"] if len(errors) else None
    if rows.progress is not None:
        numbers["spearman"] = mean_spearman(traces, successful)
    # Where all held-out episodes are failures, whose actions do not count, the others alone decide.
    numbers["loss"] = combined(loss, action if rows.counts.any() else 0.0, progress, position)
    return Validation(numbers, traces)


def _run(step: Step, parameters: Mapping[str, Array], batches: Iterable[Batch], mesh: Mesh) -> PerSample:
    """All rows of all processes, on the host; the next batch is loaded while one is computed."""
    done, under_way = [], None
    for batch in batches:
        sent = step(parameters, put_batch(mesh, batch))
        if under_way is not None:
            done.append(jax.device_get(under_way))
        under_way = sent
    done.append(jax.device_get(under_way))
    return PerSample(*(None if parts[0] is None else np.concatenate(parts) for parts in zip(*done, strict=True)))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _traces(rows: PerSample) -> list[Trace]:
    """Rows by episode; they come in order."""
    label = np.full(len(rows.origin), np.nan) if rows.label is None else rows.label
    starts = np.flatnonzero(np.any(np.diff(rows.origin[:, :2], axis=0, prepend=-2), axis=1))
    return [
        Trace(*map(int, rows.origin[a, :2]), rows.origin[a:b, 2], rows.progress[a:b], label[a:b])
        for a, b in zip(starts, [*starts[1:], len(label)], strict=True)
    ]


def mean_spearman(traces: Iterable[Trace], successful: Callable[[int, int], bool]) -> float:
    """Mean rank correlation of predicted progress with time over episodes that did not fail; NaN without any."""
    values = [
        spearman(trace.predicted, trace.frames)
        for trace in traces
        if len(trace.frames) > 1 and successful(trace.dataset, trace.episode)
    ]
    return float(np.mean(values)) if values else float("nan")


def chosen(traces: Sequence[Trace]) -> list[Trace]:
    """At most ``MOST`` episodes, evenly spread; the same ones every time."""
    indices = np.linspace(0, len(traces) - 1, min(MOST, len(traces))).round().astype(int)
    return [traces[i] for i in indices]


def draw(
    path: Path, traces: Sequence[Trace], title: str, name: Callable[[Trace], str], frame_s: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Write a PNG file with a panel per episode; returns its pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = math.ceil(len(traces) / COLUMNS)
    columns = min(COLUMNS, len(traces))
    figure = Figure(figsize=(SIZE_IN[0] * max(columns, 2), SIZE_IN[1] * rows + 0.5), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    for number, trace in enumerate(traces):
        axes = figure.add_subplot(rows, columns, number + 1)
        time_s = trace.frames * frame_s
        axes.plot(time_s, trace.label, "--", color="0.5", label="label")
        axes.plot(time_s, trace.predicted, color="C0", label="predicted")
        axes.set_title(name(trace), fontsize=8)
        axes.set_ylim(-0.05, 1.05)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        if number == 0:
            axes.legend(fontsize=7, loc="upper left")
        if number + columns >= len(traces):
            axes.set_xlabel("s", fontsize=8)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path)
    return np.asarray(canvas.buffer_rgba())[..., :3]
