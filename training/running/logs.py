"""Where metrics go: CSV and TensorBoard always, Weights & Biases if asked for. Only process 0 writes them."""

from __future__ import annotations

import csv
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from pi05_progress.errors import UserError
from pi05_progress.files.output_file import output_file

from ..recipes.config import LogConfig

METRICS, VALIDATION, SIMULATION = "metrics.csv", "validation.csv", "simulation.csv"
INIT_S = 60  # to wait for Weights & Biases


class CsvLog:
    """A table that grows by a row at a time, each on disk when ``write`` returns.

    Args:
        upto: rows of later steps, which an earlier process wrote before it died, are taken out; so is a row that was
            not written to its end.
    """

    def __init__(self, path: Path, upto: int) -> None:
        self._path = path
        self._columns, rows = _read(path)
        kept = [row for row in rows if len(row) == len(self._columns) and int(row[0]) <= upto]
        if rows or path.exists():
            with output_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([self._columns, *kept] if kept else [])
        if not kept:
            self._columns = []

    def write(self, row: Mapping[str, float]) -> None:
        """Add a row; the first decides the columns, ``step`` comes first. Rows with other columns are refused."""
        first = not self._columns
        if first:
            self._columns = list(row)
        if set(row) != set(self._columns):
            raise UserError(
                f"{self._path} has columns {', '.join(self._columns)}; now there are {', '.join(row)}: it was written "
                "by another version; remove it or give another --exp_name"
            )
        try:
            with self._path.open("a", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                if first:
                    writer.writerow(self._columns)
                writer.writerow([f"{row[name]:.9g}" for name in self._columns])  # all digits of a float32
        except OSError as error:
            raise UserError(f"{self._path}: cannot be written: {error.strerror}") from error


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    if not path.exists():
        return [], []
    text = path.read_text(encoding="utf-8")
    complete = text[: text.rfind("\n") + 1]  # the rest is what a killed process had begun
    rows = list(csv.reader(complete.splitlines()))
    return (rows[0], rows[1:]) if rows else ([], [])


class Logs:
    """All logs of a run; use it as a context.

    Args:
        step: where it starts or goes on; what is logged there of later steps is replaced.
        validates: whether it starts with a validation, so that one of this step is replaced, too.
    """

    def __init__(
        self,
        folder: Path,
        config: LogConfig,
        *,
        name: str,
        resolved: Mapping[str, Any],
        step: int,
        validates: bool = False,
    ) -> None:
        from tensorboardX import SummaryWriter

        self._tables = {
            "train": CsvLog(folder / METRICS, step),
            "validation": CsvLog(folder / VALIDATION, step - validates),
            "simulation": CsvLog(folder / SIMULATION, step),
        }
        # purge_step makes TensorBoard forget what it has of this and later steps.
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1, flush_secs=3600)
        self._wandb = None if config.wandb == "off" else _start_wandb(folder, config, name, resolved)

    def write(
        self, group: Literal["train", "validation", "simulation"], step: int, values: Mapping[str, float]
    ) -> None:
        """Log numbers of a step."""
        self._tables[group].write({"step": step, **values})
        try:
            for name, value in values.items():
                self._board.add_scalar(f"{group}/{name}", value, step)
            self._board.flush()
        except OSError as error:
            raise UserError(f"tensorboard/: cannot be written: {error.strerror}") from error
        if self._wandb is not None:
            self._wandb.log({"step": step, **{f"{group}/{name}": value for name, value in values.items()}})

    def picture(self, name: str, step: int, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """Log a picture, in TensorBoard and in Weights & Biases."""
        self._board.add_image(name, image, step, dataformats="HWC")
        if self._wandb is not None:
            import wandb

            self._wandb.log({"step": step, name: wandb.Image(image)})

    def __enter__(self) -> Logs:
        return self

    def __exit__(self, *_: object) -> None:
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def _start_wandb(folder: Path, config: LogConfig, name: str, resolved: Mapping[str, Any]) -> Any:
    """A run of Weights & Biases under the run's own id, so that a run that goes on goes on there, too."""
    import wandb

    if config.wandb == "online" and not wandb.login(prompt=False):
        raise UserError(
            "logs.wandb is online, but nobody is logged in: run `wandb login`, set WANDB_API_KEY, or use "
            "--logs.wandb=offline and `wandb sync` later"
        )
    (folder / "wandb").mkdir(exist_ok=True)
    identity = folder / "wandb/id"
    if not identity.exists():
        identity.write_text(secrets.token_hex(4), encoding="utf-8")
    try:
        run = wandb.init(
            project=config.project,
            name=name,
            id=identity.read_text(encoding="utf-8"),
            resume="allow" if config.wandb == "online" else None,
            dir=folder,
            mode=config.wandb,
            config=dict(resolved),
            settings=wandb.Settings(init_timeout=INIT_S, silent=True, console="off"),
        )
    except wandb.errors.Error as error:
        raise UserError(
            f"Weights & Biases was not reached within {INIT_S} s: {error}; use --logs.wandb=offline and `wandb sync` "
            "later"
        ) from error
    run.define_metric("*", step_metric="step")  # steps that are repeated after a crash are logged again
    return run
