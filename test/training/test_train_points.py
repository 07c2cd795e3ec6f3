"""Training of a small model that locates: it learns where things are, and goes on from its tower's kept output."""

import dataclasses

import jax
import numpy as np
import pytest
from small_models import SMALL
from training_cases import FAST, Run, bits, changed, made_up_batch, quick_compiling

from pi05_progress.models.config import PointsConfig
from pi05_progress.observation import IMAGE_KEYS
from training.engine.loss import LossConfig
from training.engine.memory import plan_memory
from training.engine.optimizer import OptimizerConfig
from training.engine.state import with_parameters

LOCATING = dataclasses.replace(
    SMALL, vision="points", siglip=None, image_size=(24, 40), positions=("square",), points=PointsConfig(points=8)
)
STEPS, ROWS, SIDE, NOWHERE = 240, 16, 5, 9.0
LEARNING = OptimizerConfig(peak_learning_rate=1e-2, end_learning_rate=1e-4, warmup_steps=10, decay_steps=STEPS)
TOWER = "PaliGemma/img/.*"


@pytest.fixture(autouse=True, scope="module")
def quick():
    with quick_compiling():
        yield


def batch(seed, config=LOCATING, rows=ROWS):
    """A green square among noise, seen by one camera; a pixel is a millimetre, and every fourth place is not known."""
    rng, (height, width) = np.random.default_rng(seed), config.image_size
    corners = np.stack([rng.integers(0, size - SIDE, rows) for size in (height, width)], axis=1)
    pictures = rng.integers(0, 120, (rows, height, width, 3), np.uint8)
    for picture, (top, left) in zip(pictures, corners, strict=True):
        picture[top : top + SIDE, left : left + SIDE] = (20, 230, 20)
    known = np.arange(rows) % 4 != 1
    places = np.concatenate([corners - [height / 2, width / 2], np.full((rows, 1), 50)], axis=1) * 1e-3
    labels = np.where(known[:, None], places, NOWHERE).astype(np.float32)[:, None]
    key = IMAGE_KEYS[0]
    return changed(
        made_up_batch(config, rows), images={key: pictures}, image_masks={key: np.ones(rows, bool)},
        positions=labels, positions_mask=known[:, None],
    )  # fmt: skip


def test_it_learns_where_a_square_is_within_a_pixel():
    run = Run(LOCATING, LEARNING, LossConfig(), source=None)
    metrics = [run(batch(seed)) for seed in range(STEPS)]
    first, last = metrics[0], metrics[-1]
    assert first["located"] == 0.75 and first["position_error_mm"] > 10
    assert last["position_error_mm"] < 1.5, last  # over all three coordinates; of each less than 1
    assert last["loss"] == pytest.approx(
        last["action_loss"] + 0.1 * last["progress_loss"] + last["position_loss"], rel=1e-5
    )
    assert first["grad_norm/position_head"] > 0 and first["grad_norm/vision"] > 0


@pytest.mark.long  # two steps are compiled; that tokens give the losses of the pictures is in test/model/test_points.py
def test_a_step_from_a_frozen_towers_kept_output_is_the_step_from_pictures():
    pictures, kept = (Run(LOCATING, FAST, LossConfig(), freeze=(TOWER,), source=None) for _ in range(2))
    given, start = batch(0), kept.parameters()
    tokens = jax.jit(lambda of, seen: with_parameters(LOCATING, of).image_tokens(seen))(start, given.observation)
    one, other = pictures(given), kept(changed(given, images={}, image_tokens=jax.tree.map(np.asarray, tokens)))
    assert one == pytest.approx(other, rel=1e-5) and "grad_norm/vision" not in one
    wanted, after = pictures.parameters(), kept.parameters()
    for path, value in wanted.items():
        np.testing.assert_allclose(after[path], value, rtol=1e-5, atol=1e-6, err_msg=path)
    same = {path for path in start if bits(start[path]) == bits(after[path])}
    assert {path for path in start if path.startswith("PaliGemma/img/")} <= same < set(start)


def test_the_memory_plan_knows_the_tower():
    sizes = {"devices": 1, "fsdp_devices": 1, "batch_size": 8, "optimizer": FAST}
    whole, frozen = plan_memory(LOCATING, **sizes), plan_memory(LOCATING, **sizes, freeze=(TOWER,))
    maps = 4 * 8 * 3 * 6 * 10 * LOCATING.points.width  # bytes of the patches' output, which the next layer needs
    assert whole.working >= maps and whole.kept - frozen.kept >= 2 * maps
