"""Physics drawn per seed."""

import numpy as np
import pytest

from pi05_progress_ros.sim.physics import variation
from pi05_progress_ros.sim.physics.world import World


def physics(world):
    """What a seed decides of the physics: frictions, weights and gains."""
    return {name: getattr(world.model, name).copy() for name in variation.CHANGED}


def test_the_seed_decides_the_physics_within_the_documented_ranges():
    world = World("stack_cubes", 4)
    first = physics(world)
    world.reset(5)
    assert all(not np.array_equal(first[name], values) for name, values in physics(world).items())
    for seed in range(20):
        world.reset(seed)
        masses = [world.model.body(name).mass[0] for name in world.task.object_names]
        assert variation.OBJECT_KG[0] <= min(masses) <= max(masses) <= variation.OBJECT_KG[1]
        fingers = world.model.geom_priority > 0
        assert fingers.sum() == 4
        pads, table = world.model.geom_friction[fingers, 0], world.model.geom("table").friction[0]
        assert variation.PAD_FRICTION[0] <= min(pads) <= max(pads) <= variation.PAD_FRICTION[1]
        assert variation.SURFACE_FRICTION[0] <= table <= variation.SURFACE_FRICTION[1]
    world.reset(4)
    for name, values in physics(world).items():
        np.testing.assert_array_equal(values, first[name])


def test_fixed_physics_are_those_of_every_seed():
    world = World("stack_cubes", 4, physics="fixed")
    first = physics(world)
    world.reset(5)
    for name, values in physics(world).items():
        np.testing.assert_array_equal(values, first[name])
    assert world.model.body("red_cube").mass[0] == 0.05


@pytest.mark.parametrize("seed", [1, 2])
def test_objects_fall_as_things_do_whatever_they_weigh(seed):
    world = World("lift_cube", seed)
    height = world.model.joint("red_cube").qposadr[0] + 2
    world.data.qpos[height] += 0.4
    before = world.data.qpos[height]
    world.step(100)  # 0.2 s
    assert before - world.data.qpos[height] == pytest.approx(9.81 * 0.2**2 / 2, rel=0.02)
