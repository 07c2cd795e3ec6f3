"""Runs of a small model on a small data set for tests of training, in this process or in one of their own."""

import contextlib
import csv
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from places import SUPPORT
from small_models import ADAPTED, SMALL

from training.engine.optimizer import OptimizerConfig
from training.loading.config import DataConfig
from training.recipes.config import TrainConfig
from training.running import loop
from training.train import train

MODEL = dataclasses.replace(SMALL, action_dim=16, action_horizon=4, max_token_len=200)
ADAPTED_MODEL = dataclasses.replace(ADAPTED, action_dim=16, action_horizon=4, max_token_len=200)
TIMED = ("samples_per_second", "waiting_for_data", "seconds")
NAME = "small"


def configuration(data, output, **fields):
    """Six steps; every second is logged, every third validated and saved."""
    base = TrainConfig(
        name=NAME,
        model=MODEL,
        exp_name="run",
        output=Path(output),
        from_scratch=True,
        tokenizer="bytes",
        batch_size=4,
        num_train_steps=6,
        log_interval=2,
        validation_interval=3,
        validation_stride=2,
        save_interval=3,
        keep_period=3,
        data=DataConfig(repo_id=str(data), seed_split=1),  # holds out the episode of 30 frames
        optimizer=OptimizerConfig(schedule="constant", peak_learning_rate=1e-2, warmup_steps=2, ema_decay=0.9),
    )
    return dataclasses.replace(base, **fields)


def made_once(make):
    """The same function without a second one for arguments that it was given before: each is traced anew."""
    made = {}

    def once(*arguments, **options):
        key = repr((arguments, sorted(options.items())))
        return made[key] if key in made else made.setdefault(key, make(*arguments, **options))

    return once


@contextlib.contextmanager
def quick_programs(folder):
    """Programs are compiled once for all runs, in whatever process, and not optimised; in this one also traced once."""
    values = {"jax_disable_most_optimizations": True}
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):  # else they are kept for tests of other files, too
        values["jax_compilation_cache_dir"] = str(folder)
        values["jax_persistent_cache_min_compile_time_secs"] = 0.2
    kept = {name: jax.config.values[name] for name in values}
    former = {name: os.environ.get(name.upper()) for name in values}
    for name, value in values.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)
    compilation_cache.reset_cache()  # else an earlier folder stays in use
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("make_train_step", "make_validation_step"):
                patch.setattr(loop, name, made_once(getattr(loop, name)))
            yield
    finally:
        for name, value in kept.items():
            jax.config.update(name, value)
            os.environ.pop(name.upper())
            if former[name] is not None:
                os.environ[name.upper()] = former[name]
        compilation_cache.reset_cache()


def rows(path, timed=False):
    """Rows of a log as text, without what depends on the machine."""
    with Path(path).open() as file:
        return [{k: v for k, v in row.items() if timed or k not in TIMED} for row in csv.DictReader(file)]


PROGRAM = """
import sys, pickle
sys.path.insert(0, {test!r})
from training import train
from training.running import command_line
command_line.parse = lambda arguments: pickle.loads({config!r})
train.main()
"""


def in_its_own_process(config, first="", **options):
    """``python -m training.train`` with a configuration that no recipe has, so that its model can be small.

    ``first`` is a program that is run before it in the same process.
    """
    import pickle

    program = first + PROGRAM.format(test=str(SUPPORT), config=pickle.dumps(config))
    return subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def run(data, output, **fields):
    """Train in this process; the folder of the run, and how it ended."""
    config = configuration(data, output, **fields)
    ended = train(config)
    return config.output / config.name / config.exp_name, ended
