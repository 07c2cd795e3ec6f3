"""Plays an episode of a data set to a policy server and draws predicted against labelled progress.

    python -m pi05_progress.serving.client --dataset DATASET --episode 0
    python -m training.replay_episode --dataset DATASET --episode 3 --server wss://gpu-server:8000 --every 3

Every frame is sent as a robot would send it; the estimator runs here, as it does beside a robot, on the data set's
time. The result is one HTML page. The data set is only read.
"""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import Float

from pi05_progress.errors import UserError, run_program
from pi05_progress.files.output_file import check_output, write_file
from pi05_progress.files.progress_bar import progress_bar
from pi05_progress.observation import RobotFrame
from pi05_progress.policy import PolicyUnavailableError
from pi05_progress.serving.client import PolicyClient
from pi05_progress.serving.teleavatar import make_request

from .datasets import layout
from .datasets.frames import FrameReader
from .datasets.progress_meta import load_progress_meta
from .datasets.reader import Dataset, Episode, open_dataset
from .evaluation.metrics import mean_error
from .report import charts
from .report.charts import Curve
from .report.html_page import html_page, key


@dataclass(frozen=True)
class ReplayOptions:
    """Command line."""

    dataset: Path
    """Folder of the data set; it is only read."""
    episode: int = 0
    """Which episode."""
    server: str = "ws://127.0.0.1:8000"
    """Address of the policy server; its API key, if it needs one, is in the variable PI05_PROGRESS_API_KEY."""
    every: int = 1
    """Send every so many frames only."""
    prompt: str = ""
    """Instruction; the episode's if not given."""
    timeout_s: float = 60.0
    """How long a reply is waited for, s."""
    output: Path | None = None
    """HTML file to write; replay_<data set>_<episode>.html in the working directory if not given."""
    overwrite: bool = False
    """Replace the file if it is there."""


@dataclass(frozen=True)
class Course:
    """Progress over an episode, one value per frame that was sent; NaN where there is none."""

    times: Float[np.ndarray, " n"]  # s from the episode's start
    raw: Float[np.ndarray, " n"]  # what the model says
    filtered: Float[np.ndarray, " n"]  # what the estimator makes of it
    # lower, upper: ends of its interval
    lower: Float[np.ndarray, " n"]
    upper: Float[np.ndarray, " n"]
    label: Float[np.ndarray, " n"]  # of the data set
    reply_ms: Float[np.ndarray, " n"]  # how long each reply took

    def errors(self) -> tuple[float, float] | None:
        """Mean absolute error of raw and of filtered progress; None if nothing can be compared."""
        errors = mean_error(self.raw, self.label), mean_error(self.filtered, self.label)
        return errors if np.isfinite(errors).all() else None


def labels_of(dataset: Dataset, episode: Episode) -> Float[np.ndarray, " n"]:
    """The labelled progress of every frame, NaN where there is none."""
    columns = load_progress_meta(dataset.root).progress_columns(dataset.features)
    if not columns:
        return np.full(episode.length, np.nan)
    progress, valid = columns[0], layout.VALID_COLUMN
    names = [name for name in (progress, valid) if name in dataset.features]
    [(_, found)] = dataset.frames(names, [episode.index])
    values = found[progress].reshape(episode.length).astype(float)
    return np.where(found[valid].reshape(episode.length), values, np.nan) if valid in found else values


def play(dataset: Dataset, episode: Episode, client: PolicyClient, prompt: str, every: int) -> Course:
    """Send frames of an episode and collect what comes back; a ``PolicyUnavailableError`` if the server is gone."""
    metadata = client.connect()
    cameras = metadata.get("cameras") or [name.removeprefix(layout.IMAGES) for name in dataset.cameras]
    if missing := [key for key in cameras if layout.IMAGES + key not in episode.videos]:
        raise UserError(f"{dataset.root}: no video of {', '.join(missing)}, which the server's robot has")
    size = tuple(metadata.get("image_size") or ()) or None
    [(_, found)] = dataset.frames([layout.STATE], [episode.index])
    labels = labels_of(dataset, episode)
    rows = []
    indices = range(0, episode.length, every)
    with progress_bar("playing", len(indices), "frames") as advance, FrameReader(dataset.fps) as reader:
        for index in indices:
            images = {key: reader.read(episode.videos[layout.IMAGES + key], index) for key in cameras}
            request = make_request(RobotFrame(images, found[layout.STATE][index]), prompt, size)
            began = time.perf_counter()
            reply = client.infer(request, stamp_s=index / dataset.fps)
            ms, estimate = 1e3 * (time.perf_counter() - began), client.estimate
            values = (reply.get("progress"), estimate.progress, estimate.lower, estimate.upper, labels[index], ms)
            rows.append([index / dataset.fps, *(np.nan if value is None else value for value in values)])
            advance(1)
    return Course(*np.array(rows, float).T)


def page(dataset: Dataset, episode: Episode, course: Course, server: str, model_id: str, prompt: str) -> str:
    """One HTML page with the curves."""
    title = f"{dataset.root.resolve().name}, episode {episode.index}: {prompt}"
    lines = [Curve(course.times, course.label, "line label"), Curve(course.times, course.raw, "line raw")]
    lines += [Curve(course.times, values, "line bound") for values in (course.lower, course.upper)]
    lines.append(Curve(course.times, course.filtered, "line filtered"))
    chart = charts.curves(lines, episode.length / dataset.fps, "progress over time", height=340)
    errors = course.errors()
    told = f"mean absolute error: model {errors[0]:.3f}, filtered {errors[1]:.3f}" if errors else "no labels to compare"
    style = (
        ".label{stroke:var(--good);stroke-opacity:1;stroke-dasharray:7 4}.raw{stroke:var(--soft);stroke-opacity:.8}"
        ".filtered{stroke-width:2.6;stroke-opacity:1}.bound{stroke-width:1;stroke-opacity:.4}"
    )
    colours = {"good": "label", "soft": "model", "accent": "filtered, with its interval"}
    facts = f"{html.escape(model_id)} on {html.escape(server)}; {len(course.times)} frames; {told}; reply in "
    facts += f"{np.median(course.reply_ms):.1f} ms (median)"
    body = f"<h1>{html.escape(title)}</h1><p class=soft>{facts}</p>{chart}{key(colours)}"
    return html_page(title, [body], style)


def replay_episode(args: ReplayOptions) -> tuple[Path, Course]:
    """Play and write the page; returns its path and what came back."""
    output = args.output or Path(f"replay_{args.dataset.resolve().name}_{args.episode}.html")
    check_output(output, overwrite=args.overwrite)
    if args.every < 1:
        raise UserError("--every needs at least 1")
    dataset = open_dataset(args.dataset)
    dataset.require([layout.STATE])
    if not 0 <= args.episode < len(dataset.episodes):
        raise UserError(f"--episode: there is no {args.episode}; the data set has 0 to {len(dataset.episodes) - 1}")
    episode = dataset.episodes[args.episode]
    prompt = args.prompt or episode.task
    with PolicyClient(args.server, timeout_s=args.timeout_s) as client:
        course = play(dataset, episode, client, prompt, args.every)
        model_id = str(client.metadata.get("model_id", "a model"))
    write_file(output, page(dataset, episode, course, args.server, model_id, prompt))
    return output, course


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = tyro.cli(ReplayOptions, prog="python -m training.replay_episode", description=__doc__, args=arguments)
    return run_program(lambda: _replay_and_print(args))


def _replay_and_print(args: ReplayOptions) -> None:
    try:
        output, course = replay_episode(args)
    except PolicyUnavailableError as error:
        raise UserError(str(error)) from error
    if errors := course.errors():
        print(f"mean absolute error over {len(course.times)} frames: model {errors[0]:.3f}, filtered {errors[1]:.3f}")
    print(f"written: {output}")


if __name__ == "__main__":
    sys.exit(main())
