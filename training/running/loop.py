"""The loop: batches in, steps sent off, metrics out; validation, checkpoints and the end, whatever brings it about."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from pi05_progress.checkpoints.checkpoint import Checkpoint

from ..engine.sharding import put_batch, replicated
from ..engine.state import parameters_in_use, with_parameters
from ..engine.step import make_resident_steps, make_train_step
from ..loading.batch import Batch
from ..loading.split import HELD_OUT, SPLITS
from . import bad_batch
from .checkpoints import HIGHER_IS_BETTER, POSITION, Best, RunCheckpoints, RunState, beside_parameters
from .console import Console
from .logs import Logs
from .metrics import Arrived, InFlight, Window
from .setup import Run
from .signals import Agreement, StopRequest
from .simulation import FOLDER, SIMULATED, drive, driven
from .validation import Trace, Validation, chosen, draw, make_validation_step, validate

TOLD_AS = {"train": "step", "validation": "held out, step", "simulation": "in simulation, step"}
STOP = "stop"  # among the metrics: whether any process was asked to stop
TRACED, TRACED_COUNT = 5, 5  # first of the device's calls that are profiled, and how many; programs are compiled before


class Ended(NamedTuple):
    """How a run ended."""

    step: int
    stopped_by: str  # name of the signal, or "another process"; empty if nothing is left to do


def profiled(folder: Path | None, wait: Callable[[], None]) -> Iterator[None]:
    """Advance it before each call of the device, and close it: what JAX's profiler sees of a few goes into a folder.

    Args:
        folder: nothing is written without one.
        wait: returns when the device is done with all that was sent off.
    """
    yield from repeat(None, TRACED - 1)
    if folder is not None:
        wait()
        with jax.profiler.trace(str(folder.expanduser())):
            yield from repeat(None, TRACED_COUNT)
            wait()
    yield from repeat(None)


def owes_validation(begin: RunState, validation_interval: int) -> bool:
    """Whether a run that goes on there has to validate before its first step; an interval of 0 validates never."""
    return begin.validation_owed and validation_interval > 0


class Loop:
    """One process's part in a run. All processes take the same steps, and do all else after the same steps."""

    def __init__(
        self, run: Run, logs: Logs | None, console: Console, checkpoints: RunCheckpoints, stop: StopRequest
    ) -> None:
        config = run.config
        self._run, self._config, self._logs, self._console = run, config, logs, console
        self._checkpoints, self._stop = checkpoints, stop
        self._train_step = make_train_step(
            run.model,
            run.mesh,
            config.optimizer,
            config.loss,
            trained=config.trained,
            freeze=config.freeze,
            action_size=run.loader.action_size,
            augmentation=config.augmentation,
        )
        self._samples: Batch | None = None
        if config.data.resident:
            self._samples = jax.device_put(run.loader.all_samples(), replicated(run.mesh))
            self._resident_steps = make_resident_steps(self._train_step, run.mesh)
        self._validates = config.validation_interval > 0 and any(run.loader.held_out)
        self._validation_step = make_validation_step(
            run.model,
            run.mesh,
            config.loss,
            run.loader.action_size,
            config.seed,
            run.loader.angle_scale() if config.best == "action_error" else None,
        )
        self._agreement = Agreement(run.mesh)
        self._state, self._step = run.state, run.begin.step
        self._in_flight = InFlight()
        self._trace = profiled(config.trace, self._flush)
        self._window = Window(list(run.begin.window))
        self._best = run.begin.best
        self._stop_agreed = False

    def run(self) -> Ended:
        """Do the validation and the driving that a signal kept from being done, then train until the end or a signal.

        Raises:
            UserError: a loss or gradient is not finite; the batch was kept.
        """
        total = self._config.num_train_steps
        if owes_validation(self._run.begin, self._config.validation_interval):
            self._validate(saving=True)
            self._checkpoints.validated(self._run_state(owed=False))
        if self._drives(self._step) and not driven(self._run.folder.root / FOLDER, self._step):
            self._drive()
        first, stopped_by = True, ""
        while self._step < total:
            next(self._trace)
            self._next_steps()
            self._checkpoints.raise_if_failed()
            if first:  # compiling is not training
                first = False
                self._flush()
                self._window.restart()
            stopping = self._stopping()
            logging, validation, saving = self._due(total)
            if not (logging or validation or saving or stopping):
                continue
            self._flush()
            if logging:
                self._write_row()
            self._window.stop()
            if validation and not stopping:
                self._validate(saving)
            owed = validation and stopping  # there may be little time left
            if saving or stopping:
                self._save(owed)
            if saving and not stopping and self._drives(self._step):
                self._drive()
            if stopping and (owed or self._step < total):
                stopped_by = self._stop.name or "another process"
                break
            self._window.go_on()
        self._trace.close()
        self._checkpoints.wait()
        return Ended(self._step, stopped_by)

    def _next_steps(self) -> None:
        """Load a batch, or choose several, and send a step off with each; take in what has arrived."""
        run, samples = self._run, self._samples
        started = time.perf_counter()
        count = self._config.steps_per_dispatch  # all intervals are multiples; a run may have been stopped in between
        batch = next(run.loader) if samples is None else run.loader.choose(count - self._step % count)
        self._window.waited += time.perf_counter() - started
        if samples is None:
            self._state, metrics = self._train_step(self._state, run.key, put_batch(run.mesh, batch))
            batches = [lambda: batch]
        else:
            self._state, metrics = self._resident_steps(self._state, run.key, samples, batch)
            batches = [lambda rows=rows: jax.tree.map(lambda all: np.asarray(all[rows]), samples) for rows in batch]
        self._step += len(batches)
        metrics = {**metrics, STOP: self._agreement.ask(bool(self._stop.name))}
        for arrived in self._in_flight.sent(self._step, batches, metrics):
            self._take(arrived)

    def _stopping(self) -> bool:
        """Whether to stop after this step; the same in all processes."""
        return self._stop_agreed if jax.process_count() > 1 else bool(self._stop.name)

    def _due(self, total: int) -> tuple[bool, bool, bool]:
        """Whether to write a row, to validate and to save after this step; after the last all of it."""
        last, config = self._step == total, self._config
        validation = self._validates and (last or self._step % config.validation_interval == 0)
        return last or self._step % config.log_interval == 0, validation, last or self._step % config.save_interval == 0

    def _flush(self) -> None:
        """Wait until the device is done with all that was sent off."""
        for arrived in self._in_flight.all():
            self._take(arrived)

    def _take(self, arrived: Arrived) -> None:
        """A step's metrics are here."""
        metrics = dict(arrived.metrics)
        self._stop_agreed |= bool(metrics.pop(STOP))
        if not arrived.finite:
            kept = dataclasses.replace(arrived, metrics=metrics)
            raise bad_batch.keep(self._run.folder.root, kept, [d.root for d in self._run.loader.datasets])
        self._window.add(metrics)
        self._console.steps_done(arrived.step)

    def _write_row(self) -> None:
        """Means over the steps since the row before; the device is done with all of them, so the time is right."""
        self._log("train", self._step, self._window.row(self._config.batch_size))

    def _log(self, group: str, step: int, row: Mapping[str, float]) -> None:
        if self._logs is not None:
            self._logs.write(group, step, row)
        self._console.row(TOLD_AS[group], step, row)

    def _validate(self, saving: bool) -> None:
        """On held-out episodes; a checkpoint that is saved now may become the best."""
        run = self._run
        started = time.perf_counter()
        found = validate(
            self._validation_step,
            parameters_in_use(self._state),
            run.loader.validation_batches(self._config.batch_size, stride=self._config.validation_stride),
            run.mesh,
            loss=self._config.loss,
            successful=self._successful,
        )
        self._log("validation", self._step, {**found.numbers, "seconds": time.perf_counter() - started})
        if not np.isfinite(found.loss):
            self._console.say(f"validation after step {self._step}: loss is {found.loss}, so it is not the best")
        if saving and self._config.best not in SIMULATED:
            self._consider(found.numbers)
        self._draw(found)

    def _consider(self, numbers: Mapping[str, float]) -> None:
        """Whether the parameters of this step are the best."""
        name = self._config.best
        value = -numbers[name] if name in HIGHER_IS_BETTER else numbers[name]
        self._best = Best.of(self._best, self._step, value)

    def _drives(self, step: int) -> bool:
        """Whether the checkpoint of a step drives."""
        every = self._config.sim_validation_every
        return every > 0 and step > 0 and step % every == 0

    def _drive(self) -> None:
        """Let the checkpoint that was just saved drive the simulated robot; it may become the best."""
        self._checkpoints.wait()
        if jax.process_index() != 0:
            return
        config, folder = self._config, self._run.folder
        numbers = drive(folder.step(self._step), folder.root / FOLDER, config.sim_episodes, config.sim_arguments)
        self._log("simulation", self._step, numbers)
        if config.best in SIMULATED:
            self._consider(numbers)
            self._checkpoints.validated(self._run_state(owed=False))

    def _successful(self, dataset: int, episode: int) -> bool:
        return not self._run.loader.progress_meta[dataset].episode(episode).unsuccessful

    def _draw(self, found: Validation) -> None:
        if self._logs is None or not found.traces:
            return
        several = len(self._run.loader.datasets) > 1

        def name(trace: Trace) -> str:
            where = f"{self._run.loader.datasets[trace.dataset].root.name} " if several else ""
            failed = "" if self._successful(trace.dataset, trace.episode) else " (failed)"
            return f"{where}episode {trace.episode}{failed}"

        title = f"{self._config.name}/{self._config.exp_name}, step {self._step}"
        path = self._run.folder.root / f"pictures/progress_{self._step}.png"
        pixels = draw(path, chosen(found.traces), title, name, self._run.loader.action_dt_s)
        self._logs.picture("validation/progress", self._step, pixels)

    def _run_state(self, owed: bool) -> RunState:
        best, window = self._best, list(self._window.values)
        return dataclasses.replace(self._run.begin, step=self._step, best=best, window=window, validation_owed=owed)

    def _save(self, owed: bool) -> None:
        """Start writing a checkpoint; all metrics up to it have arrived, so nothing in it is spoilt."""
        run, config = self._run, self._config
        info = dataclasses.replace(run.info, model_id=f"{config.name}/{config.exp_name}/{self._step}")
        self._checkpoints.save(
            Checkpoint(info, with_parameters(run.model, parameters_in_use(self._state)), run.loader.stats),
            beside_parameters(self._state),
            self._run_state(owed),
            {POSITION: run.loader.state(), HELD_OUT: SPLITS.dump_json(run.loader.splits, indent=1), **run.starts},
        )
