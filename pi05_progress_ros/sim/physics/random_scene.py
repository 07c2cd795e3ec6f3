"""A scene drawn at random, so that a policy learns what does not matter: light, colours, textures, cameras, clutter.

What is added stands still and is not touched by anything, so tasks stay solvable; objects keep colours that go by the
same names, and sizes that the grippers grasp.
"""

from __future__ import annotations

from collections.abc import Mapping

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from .scene import arm_table, table_top_z

SHADOW_PIXELS = 256  # more are slower to render without a GPU
TEXTURES, TEXTURE_PIXELS = 8, 64
PATTERNS = (mujoco.mjtBuiltin.mjBUILTIN_CHECKER, mujoco.mjtBuiltin.mjBUILTIN_FLAT, mujoco.mjtBuiltin.mjBUILTIN_GRADIENT)
CLUTTER = ("box", "box", "cylinder", "cylinder", "sphere", "capsule")
PLACES = (((-0.6, 0.6), (-0.80, -0.62)), ((-0.63, -0.54), (-0.6, -0.3)), ((0.54, 0.63), (-0.6, -0.3)))  # m, x and y
WALL_M = 2.2  # to the walls

OBJECT_SCALE = (0.85, 1.1)
LIGHT = (0.7, 1.5)  # factor of each light, the headlight's ambient part among them
TINT = 0.12  # of a light's colour, and of the picture's white balance
LIGHT_MOVED_M, LIGHT_TURNED = 0.5, 0.3  # the latter of a direction's length
SHADOW_SHARE = 0.3  # of laboratories, in which one light casts them; rendering takes twice as long there
KEPT_SHARE = 0.2  # of surfaces that look as in the plain laboratory; walls are not there, then
COLOUR_CHANGE = 0.12  # of red, green and blue of objects and arms
EXPOSURE = 0.25  # of each camera
LENS = 0.05  # of each camera's field of view
HEAD_POSE = (0.025, 2.5)  # m and degrees, at most
WRIST_POSE = (0.006, 3.5)


def add_scenery(spec: mujoco.MjSpec) -> None:
    """Add textures, walls, clutter and shadows to a scene that is not compiled yet."""
    spec.visual.quality.shadowsize = SHADOW_PIXELS
    for light in spec.lights:
        light.castshadow = True
    rng = np.random.default_rng(0)
    for index in range(TEXTURES):
        name, shades = f"texture_{index}", np.sort(rng.uniform(0.5, 1, (2, 3)), axis=0)
        texture = spec.add_texture(
            name=name, type=mujoco.mjtTexture.mjTEXTURE_2D, width=TEXTURE_PIXELS, height=TEXTURE_PIXELS,
            builtin=PATTERNS[index % len(PATTERNS)], rgb1=shades[0], rgb2=shades[1],
            mark=mujoco.mjtMark.mjMARK_RANDOM, markrgb=rng.uniform(0.3, 1, 3), random=rng.uniform(0, 0.2),
        )  # fmt: skip
        material = spec.add_material(name=name, texrepeat=[rng.integers(2, 12)] * 2, specular=0)
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = texture.name
    untouched = {"contype": 0, "conaffinity": 0}
    floor = -arm_table().shoulder_height
    for index, (x, y) in enumerate(((0, -1), (1, 0), (-1, 0))):
        size = [0.01 if x else WALL_M, 0.01 if y else WALL_M, 1.5]
        spec.worldbody.add_geom(
            name=f"wall_{index}", type=mujoco.mjtGeom.mjGEOM_BOX, pos=[x * WALL_M, y * WALL_M, floor + 1.5], size=size,
            rgba=[0, 0, 0, 0], **untouched,
        )  # fmt: skip
    for index, kind in enumerate(CLUTTER):
        spec.worldbody.add_geom(
            name=f"clutter_{index}", type=getattr(mujoco.mjtGeom, f"mjGEOM_{kind.upper()}"), size=[0.03] * 3,
            pos=[0, 0.5, floor - 1], **untouched,
        )  # fmt: skip


def draw_scene(model: mujoco.MjModel, rng: np.random.Generator, cameras: Mapping[str, str]) -> float:
    """Change the compiled model to another laboratory; returns the scale that objects are to have.

    Cameras are given with the model's inputs that they are.
    """
    scale = float(rng.uniform(*OBJECT_SCALE))
    _draw_lights(model, rng)
    _draw_surfaces(model, rng)
    _draw_clutter(model, rng)
    _draw_cameras(model, rng, cameras)
    return scale


def _around(rng: np.random.Generator, share: float, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Factors around 1."""
    return 1 + rng.uniform(-share, share, shape)


def _any_colour(rng: np.random.Generator, most_vivid: float) -> np.ndarray:
    """A colour, from grey to some vividness of at most 1."""
    grey, vivid = rng.uniform(0.2, 0.95), rng.uniform(0, most_vivid)
    return (1 - vivid) * grey + vivid * rng.uniform(0.1, 1, 3)


def _draw_lights(model: mujoco.MjModel, rng: np.random.Generator) -> None:
    for light in range(model.nlight):
        model.light_diffuse[light] *= rng.uniform(*LIGHT) * _around(rng, TINT, (3,))
        model.light_pos[light] += rng.uniform(-LIGHT_MOVED_M, LIGHT_MOVED_M, 3)
        way = model.light_dir[light] + rng.uniform(-LIGHT_TURNED, LIGHT_TURNED, 3)
        model.light_dir[light] = way / np.linalg.norm(way)
    model.light_castshadow[:] = np.arange(model.nlight) == rng.integers(model.nlight)
    model.light_castshadow[:] &= rng.random() < SHADOW_SHARE
    model.vis.headlight.ambient[:] *= rng.uniform(*LIGHT)
    model.vis.headlight.diffuse[:] *= rng.uniform(*LIGHT)


def _draw_surfaces(model: mujoco.MjModel, rng: np.random.Generator) -> None:
    """Any colour and texture for table, floor and walls; all else keeps its colour's name."""
    names = [model.geom(index).name for index in range(model.ngeom)]
    for index, name in enumerate(names):
        if name in ("table", "floor") or name.startswith("wall"):
            kept, texture = rng.random() < KEPT_SHARE, rng.integers(-1, TEXTURES)
            colour = _any_colour(rng, 0.7)
            if not kept:
                model.geom_matid[index] = texture
                model.geom_rgba[index] = [*colour, 1]
        elif not name.startswith("clutter"):
            changed = model.geom_rgba[index, :3] * _around(rng, COLOUR_CHANGE) + rng.uniform(-0.05, 0.05, 3)
            model.geom_rgba[index, :3] = np.clip(changed, 0, 1)


def _draw_clutter(model: mujoco.MjModel, rng: np.random.Generator) -> None:
    """Things of any colour beside and behind where the robot works; some of them are not there."""
    for index in range(len(CLUTTER)):
        geom = model.geom(f"clutter_{index}").id
        if rng.random() < 0.3:
            continue
        x, y = PLACES[rng.choice(len(PLACES), p=(0.6, 0.2, 0.2))]
        size = rng.uniform(0.012, 0.04, 3)
        model.geom_size[geom] = size
        model.geom_rbound[geom] = 2 * size.sum()
        model.geom_pos[geom] = [rng.uniform(*x), rng.uniform(*y), table_top_z() + size[2]]
        yaw = rng.uniform(0, np.pi)
        model.geom_quat[geom] = [np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]
        model.geom_rgba[geom, :3] = _any_colour(rng, 0.4)  # pale ones: objects are called by vivid colours


def _draw_cameras(model: mujoco.MjModel, rng: np.random.Generator, cameras: Mapping[str, str]) -> None:
    """Poses, lenses, exposures and white balances."""
    for key, name in cameras.items():
        index = model.camera(key).id
        metres, degrees = WRIST_POSE if "wrist" in name else HEAD_POSE
        move_camera(model, index, metres * rng.random(), degrees * rng.random(), rng)
        model.cam_fovy[index] *= _around(rng, LENS)
        model.cam_user[index, :3] *= _around(rng, EXPOSURE) * _around(rng, TINT, (3,))


def move_camera(model: mujoco.MjModel, camera: int, metres: float, degrees: float, rng: np.random.Generator) -> None:
    """Move a camera by a distance and turn it by an angle, both in random directions."""
    way, axis = rng.standard_normal((2, 3))
    model.cam_pos[camera] += metres * way / np.linalg.norm(way)
    turn = Rotation.from_rotvec(np.deg2rad(degrees) * axis / np.linalg.norm(axis))
    turned = Rotation.from_quat(model.cam_quat[camera], scalar_first=True) * turn
    model.cam_quat[camera] = turned.as_quat(scalar_first=True)
