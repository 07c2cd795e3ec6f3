"""The laboratory of the simulated robot: as it is when nothing is asked for, named shifts, random ones by seed."""

import copy
from functools import cache

import numpy as np
import pytest

from pi05_progress.errors import UserError
from pi05_progress.observation import RobotFrame
from pi05_progress.robots.laboratory_shifts import PIXELS, SHIFTS, named_shift, recorded_shift
from pi05_progress.robots.profile import RobotProfile
from pi05_progress_ros.sim.expert.expert import Expert, run_episode
from pi05_progress_ros.sim.physics.cameras import CameraRig, scaled_sizes
from pi05_progress_ros.sim.physics.laboratory import Laboratory
from pi05_progress_ros.sim.physics.scene import make_spec
from pi05_progress_ros.sim.physics.tasks import make_task
from pi05_progress_ros.sim.physics.tasks.base import CUBE_HALF
from pi05_progress_ros.sim.physics.world import World, mujoco

HEAD, LEFT, RIGHT = CAMERAS = ("head_camera", "left_color", "right_color")
PROFILE = RobotProfile.load("teleavatar")
SCALE = 0.1


def seen(laboratory, seed=2, task="stack_cubes", before=()):
    """What the cameras see, and the world; ``before`` are seeds that were there earlier."""
    world = World(task, (*before, seed)[0], laboratory=laboratory)
    rig = CameraRig(world.model, scaled_sizes(SCALE))
    try:
        for other in (*before[1:], seed):
            world.reset(other)
        return {key: image.astype(int) for key, image in rig.render(world.snapshot()).items()}, world
    finally:
        rig.close()


@pytest.fixture(scope="module")
def plain():
    return seen(Laboratory())


@cache
def shifted(name):
    return seen(Laboratory("plain", name))


def test_the_plain_laboratory_is_the_scene_itself_bit_for_bit(plain):
    """What a renderer of the scene sees to which nothing was added."""
    images, world = plain
    spec = make_spec()
    make_task("stack_cubes").add_to_scene(spec)
    model = spec.compile()
    assert (world.model.ntex, world.model.nmat, world.model.nuser_cam) == (0, 0, 0)
    data = mujoco.MjData(model)
    data.qpos[:] = world.snapshot()
    mujoco.mj_forward(model, data)
    for key, (width, height) in scaled_sizes(SCALE).items():
        with mujoco.Renderer(model, height, width) as renderer:
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
            renderer.update_scene(data, camera=key)
            np.testing.assert_array_equal(renderer.render(), images[key])


def test_each_shift_changes_what_it_says_and_nothing_else(plain):
    images, world = plain
    for name, shift in SHIFTS.items():
        found, other = shifted(name)
        changed = {key for key in CAMERAS if (found[key] != images[key]).any()}
        everywhere = shift.light != 1 or shift.table or shift.lens != 1 or shift.object_scale != 1
        inputs = {PROFILE.cameras[key].model_input: key for key in CAMERAS}
        named = {inputs[name] for name in {*shift.poses, *shift.pictures}}
        if everywhere:
            assert named <= changed, name
            assert HEAD in changed, name
        else:
            assert changed == named, name
        for part in ("geom_friction", "body_mass", "jnt_range", "dof_damping", "actuator_gainprm"):
            np.testing.assert_array_equal(getattr(other.model, part), getattr(world.model, part), err_msg=name)
        np.testing.assert_array_equal(other.model.cam_pos == world.model.cam_pos, _unmoved(other.model, shift))
        assert (other.task.half != CUBE_HALF) == (shift.object_scale != 1)
        for body in other.task.object_names:  # they lie where they lay
            np.testing.assert_array_equal(other.object_poses()[body][:2], world.object_poses()[body][:2])


def _unmoved(model, shift):
    keys = [model.camera(i).name for i in range(model.ncam)]
    return np.array([[PROFILE.cameras[key].model_input not in shift.poses] * 3 for key in keys])


def test_more_light_is_a_longer_exposure(plain):
    found, _ = shifted("light")
    for key, image in plain[0].items():
        expected = np.clip(image * 1.25, 0, 255)
        assert np.abs(found[key] - expected).mean() < 1.5
        assert found[key].mean() > 1.15 * image.mean()


def test_cameras_are_moved_as_far_as_the_shift_says(plain):
    model, (_, other) = plain[1].model, shifted("mild")
    for key, (metres, degrees) in {HEAD: (0.02, 2.0), LEFT: (0.005, 3.0), RIGHT: (0.005, 3.0)}.items():
        at, was = (m.camera(key) for m in (other.model, model))
        assert np.linalg.norm(at.pos - was.pos) == pytest.approx(metres)
        assert 2 * np.degrees(np.arccos(abs(at.quat @ was.quat))) == pytest.approx(degrees, abs=1e-3)
    alone = shifted("wrist_camera")[1].model
    np.testing.assert_array_equal(alone.camera(LEFT).quat, other.model.camera(LEFT).quat)  # part of it, in the same way


def test_another_table_is_seen_on_the_table_only(plain):
    found, _ = shifted("blue_table")
    wood = (plain[0][HEAD] * [1, 1, -1]).sum(axis=-1) > 120
    assert wood.mean() > 0.2
    assert np.abs(found[HEAD] - plain[0][HEAD])[~wood].mean() < 2
    assert (found[HEAD][wood][:, 2] > found[HEAD][wood][:, 0]).mean() > 0.95  # bluish


def test_smaller_objects_rest_on_the_table_and_fill_less_of_the_picture(plain):
    found, _ = shifted("objects")
    world = World("stack_cubes", 2, laboratory=Laboratory("plain", "objects"))
    world.step(300)
    for pose in world.object_poses().values():
        assert pose[2] == pytest.approx(-0.47 + 0.9 * CUBE_HALF, abs=5e-4)
    green = lambda image: (image[..., 1] > 1.6 * image[..., [0, 2]].max(axis=-1)).sum()  # noqa: E731
    assert 0.7 * green(plain[0][RIGHT]) < green(found[RIGHT]) < 0.95 * green(plain[0][RIGHT])


def test_objects_of_another_size_turn_as_mujoco_reckons_from_their_inertia():
    model = World("stack_cubes", 3, laboratory=Laboratory("random", "objects")).model
    reckoned = copy.copy(model)
    mujoco.mj_setConst(reckoned, mujoco.MjData(reckoned))
    for name in ("dof_M0", "dof_invweight0", "body_invweight0"):
        np.testing.assert_allclose(getattr(model, name), getattr(reckoned, name), rtol=1e-6, err_msg=name)


def test_a_black_camera_sees_nothing_and_a_shifted_picture_is_shifted(plain):
    assert not shifted("left_black")[0][LEFT].any()
    width = plain[0][LEFT].shape[1]
    pixels = round(10 / PIXELS * width)
    for key in (LEFT, RIGHT):
        found = shifted("wrist_px10")[0][key]
        np.testing.assert_array_equal(found[:, pixels:], plain[0][key][:, :-pixels])
        np.testing.assert_array_equal(found[:, :pixels], np.repeat(plain[0][key][:, :1], pixels, axis=1))


def test_recorded_pictures_show_a_shift_as_the_simulator_does(plain):
    images = {key: image.astype(np.uint8) for key, image in plain[0].items()}
    frame = RobotFrame(images, np.zeros(48, np.float32), dict.fromkeys(images, 0))
    for name in ("none", "dim", "warm", "right_black", "wrist_px5", "light"):
        found, _ = shifted(name)
        for key, image in recorded_shift(name).of(frame, PROFILE).images.items():
            assert image.dtype == np.uint8
            assert np.abs(image.astype(int) - found[key]).mean() <= (1.5 if name == "light" else 0), (name, key)


def test_what_recorded_pictures_cannot_show_is_refused():
    with pytest.raises(UserError, match=r"shift table changes the scene.*can show none, light.*generate --shift table"):
        recorded_shift("table")
    with pytest.raises(UserError, match=r"unknown shift 'fog'; known shifts: none, light"):
        named_shift("fog")
    with pytest.raises(UserError, match=r"unknown laboratory 'moon'; known laboratories: plain, random"):
        Laboratory("moon")


def test_the_same_seed_has_the_same_laboratory_whatever_came_before():
    random = Laboratory("random")
    first, world = seen(random, 5)
    again, later = seen(random, 5, before=(3, 4))
    other, _ = seen(random, 6)
    for key in CAMERAS:
        np.testing.assert_array_equal(first[key], again[key])
        assert np.abs(first[key] - other[key]).mean() > 3
    assert world.task.half == later.task.half


def test_random_laboratories_differ_in_all_that_is_drawn():
    world = World("place_in_basket", 0, laboratory=Laboratory("random"))
    parts = ("light_pos", "light_diffuse", "light_castshadow", "geom_rgba", "geom_matid", "geom_pos", "cam_pos",
             "cam_quat", "cam_fovy", "cam_user")  # fmt: skip
    drawn = {part: set() for part in (*parts, "half", "table", "objects")}
    for seed in range(12):
        world.reset(seed)
        for part in parts:
            drawn[part].add(getattr(world.model, part).tobytes())
        drawn["half"].add(world.task.half)
        drawn["table"].add(int(world.model.geom("table").matid[0]))
        drawn["objects"].add(world.model.geom("yellow_block").rgba.tobytes())
        assert world.model.light_castshadow.sum() <= 1  # each one makes rendering dearer
        yellow = world.model.geom("yellow_block").rgba
        assert min(yellow[:2]) > 2 * yellow[2]  # it is still called so
    few = {"light_castshadow": 2, "table": 4}
    assert all(len(values) >= few.get(part, 12) for part, values in drawn.items()), {
        k: len(v) for k, v in drawn.items()
    }


@pytest.mark.parametrize(("task", "seed"), [("stack_cubes", 1), ("place_in_basket", 4)])
def test_tasks_can_be_done_in_another_laboratory(task, seed):
    world = World(task, seed, laboratory=Laboratory("random", "objects"))
    assert world.task.half < CUBE_HALF
    run_episode(world, Expert(world, seed))
    assert world.task_status().outcome == "success", world.task_status()
