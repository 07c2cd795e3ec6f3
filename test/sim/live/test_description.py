"""What the simulated robot looks like over DDS: its URDF is one, and its frames are where the kinematics say."""

import numpy as np
from conftest import wait_for
from fake_robot import PROFILE, stamp_s
from rclpy.qos import DurabilityPolicy, QoSProfile
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import JointState
from std_msgs.msg import Float32, String

from pi05_progress.robots.kinematics import fingertips
from tf2_msgs.msg import TFMessage

NEAR_M = 0.001


def in_the_root(transforms):
    """Where every frame is in the root's frame: its rotation and its place."""
    found = {"base_link": (Rotation.identity(), np.zeros(3))}
    for frame in transforms:  # parents come first
        turn, place = found[frame.header.frame_id]
        at, quat = frame.transform.translation, frame.transform.rotation
        found[frame.child_frame_id] = (
            turn * Rotation.from_quat([quat.x, quat.y, quat.z, quat.w]),
            place + turn.apply([at.x, at.y, at.z]),
        )
    return found


def test_frames_are_where_the_description_and_the_kinematics_have_them(start, ros):
    import mujoco  # not before other tests have chosen what renders

    process = start("pi05_progress_ros.sim.robot_node", "--ros-args", "-p", "images:=false")
    node, said, frames = ros.create_node("viewer"), [], []
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    node.create_subscription(String, "/robot_description", lambda message: said.append(message.data), latched)
    node.create_subscription(TFMessage, "/tf", frames.append, 100)
    positions = {}  # of the joints, by when they were measured
    for part in PROFILE.joint_parts().values():

        def measured(message):
            positions.setdefault(stamp_s(message), {}).update(zip(message.name, message.position, strict=True))

        node.create_subscription(JointState, part.state_topic, measured, 100)
    grasp = node.create_publisher(Float32, PROFILE.grippers["left"].command_topic, 10)
    enable = node.create_publisher(Float32, PROFILE.enable_topic, 10)
    opened = PROFILE.grippers["left"].joint

    def spin():
        assert process.poll() is None, process.log()
        enable.publish(Float32(data=1.0))
        grasp.publish(Float32(data=0.5))
        ros.spin_once(node, timeout_sec=0.05)

    def matching():
        """Frames and positions of one moment in which the gripper is half closed."""
        for message in reversed(frames):
            joints = positions.get(stamp_s(message.transforms[0]), {})
            if len(joints) == len(PROFILE.layout.joints) and joints[opened] < 0.03:
                return message.transforms, joints
        return None

    wait_for(lambda: said and matching(), spin, "description, frames and joint states")
    transforms, joints = matching()
    found = in_the_root(transforms)
    model = mujoco.MjModel.from_xml_string(said[-1])
    data = mujoco.MjData(model)
    for name, position in joints.items():
        data.joint(name).qpos = position
    for gripper in PROFILE.grippers.values():
        data.joint(f"{gripper.joint}_1").qpos = joints[gripper.joint]  # mimics the other finger
    mujoco.mj_kinematics(model, data)
    assert model.nbody == 1 + 2 * (7 + 2), "every link that moves"
    for body in map(model.body, range(1, model.nbody)):
        turn, place = found[body.name]
        assert np.linalg.norm(data.body(body.name).xpos - place) < NEAR_M, body.name
        np.testing.assert_allclose(data.body(body.name).xmat, turn.as_matrix().ravel(), atol=1e-3)
    row = np.array([joints[name] for name in PROFILE.layout.joints])
    tips = fingertips(row, PROFILE.layout, "grasp")
    for arm, tip in zip(PROFILE.layout.arms, tips, strict=True):
        assert np.linalg.norm(found[f"{arm}_fingertips"][1] - tip) < NEAR_M
    between = [found[f"left_finger_{side}"][1] for side in (0, 1)]
    assert abs(np.linalg.norm(between[0] - between[1]) - 2 * joints[opened]) < NEAR_M, "the fingers are as far apart"
    geoms = [
        data.geom(index).xpos for index in range(model.ngeom) if model.geom(index).type == mujoco.mjtGeom.mjGEOM_BOX
    ]
    assert any(np.allclose(place, PROFILE.geometry.boxes["table"].centre) for place in geoms)
