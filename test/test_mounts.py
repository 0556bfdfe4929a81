# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Where the camera is mounted, by /tf: looked up for each map, compared, and doubted."""

from threading import Timer

import numpy as np
import pytest
from fakes.oracle import NONE
from fakes.room import BASE_FROM_CAMERA
from nav_msgs.msg import Odometry
from node_rig import CAMERA, PERIOD, Rig
from robot_rig import START, SimulatedRobot
from tf2_msgs.msg import TFMessage

from vggt_ros.ros.messages import header, transform_message
from vggt_ros.ros.sensors.mounts import Mount, turned
from vggt_ros.ros.tf.tf_cache import pose_of

pytestmark = pytest.mark.ros


def test_after_a_reset_the_map_starts_where_odometry_is_by_then(rig: Rig):
    robot = SimulatedRobot(rig, "room", 12, NONE)
    robot.start(tf_mode="map_to_odom", world_frame="map", scale_source="fixed", fixed_scale=1.0)
    robot.infer(*range(8))
    assert rig.call("reset").success
    robot.infer(8)
    rig.wait_until(lambda: len(robot.stamps_of("map", "odom")) == 9, "nine transforms")
    first = robot.tree.lookup("map", "odom", START + 8 * PERIOD)
    np.testing.assert_allclose(first, np.eye(4), atol=1e-3)


def mounted(rig: Rig, robot: SimulatedRobot, pose: np.ndarray, camera: str = CAMERA) -> None:
    """Publish a mount, and wait until the node has it."""
    robot.publish_static(transform_message(header(START, "base_link"), camera, pose))
    frames = rig.node.robot.frames  # type: ignore[union-attr]

    def arrived() -> bool:
        found = frames.lookup("base_link", camera, START)
        return found is not None and np.allclose(found, pose)

    rig.wait_until(arrived, "the mount arrives")


def test_a_camera_that_moves_on_the_robot_is_a_lasting_warning(rig: Rig):
    robot = SimulatedRobot(rig, faults=NONE)
    robot.start(tf_mode="none")
    robot.infer(*range(4))
    tilted = BASE_FROM_CAMERA.copy()
    tilted[2, 3] += 0.2
    mounted(rig, robot, tilted)
    robot.infer(*range(4, 18))  # of which the transforms are compared once a second
    words = f"'base_link' -> '{CAMERA}' on /tf differs by 0.200 m and 0.0 degrees"
    rig.wait_for_diagnostics(words, "call ~/reset to use it")
    rig.call("reset")
    robot.infer(*range(18, 32))
    rig.wait_until(lambda: words not in str(rig.diagnostics()), "the warning ends")
    np.testing.assert_allclose(rig.node.robot.mount, tilted)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("camera", "rotation", "is_doubted"),
    [
        ("camera_link", np.eye(3), True),
        ("ceiling_optical_frame", np.eye(3), False),  # of a camera that faces the ceiling
        ("camera", BASE_FROM_CAMERA[:3, :3], False),
    ],
)
def test_an_image_in_the_frame_of_the_camera_s_housing_is_a_warning(
    rig: Rig, camera: str, rotation: np.ndarray, is_doubted: bool
):
    robot = SimulatedRobot(rig, faults=NONE)
    robot.start(described=False, tf_mode="none")
    pose = np.eye(4)
    pose[:3, :3] = rotation
    mounted(rig, robot, pose, camera)
    rig.publish(0, header=header(START, camera))
    rig.wait_for_diagnostics("world levelled by mount")
    words = f"the camera faces straight up: z of '{camera}' is z of 'base_link'"
    if is_doubted:
        rig.wait_for_diagnostics(words, "such as 'camera_optical_frame'")
    else:
        assert words not in str(rig.diagnostics())


def send_mount(robot: SimulatedRobot, i: int) -> None:
    """Of a camera that is tilted further with each frame."""
    pose = BASE_FROM_CAMERA.copy()
    pose[2, 3] += 0.01 * i
    head = header(START + i * PERIOD, "base_link")
    robot.tf.publish(TFMessage(transforms=[transform_message(head, CAMERA, pose)]))


@pytest.mark.parametrize("comes", ["late", "never"])
def test_odometry_is_of_the_base_also_where_a_moving_mount_is_late(rig: Rig, comes: str):
    """A filter that is given the base must not be given the camera in between."""
    robot = SimulatedRobot(rig, "stand", 6, NONE)
    robot.start(described=False, tf_mode="none", tf_wait=5.0 if comes == "late" else 0.0)
    found = rig.subscribe_matched("/vggt/odometry", Odometry)
    frames = rig.node.robot.frames  # type: ignore[union-attr]
    for i in range(6):
        if i < 3:
            send_mount(robot, i)
            ns = START + i * PERIOD
            rig.wait_until(lambda n=ns: n in frames.tree.stamps(CAMERA), "the mount arrives")
        elif comes == "late":
            Timer(0.1, send_mount, (robot, i)).start()
        robot.infer(i)
    rig.wait_until(lambda: len(found) == 6, "odometry of each frame")
    assert {msg.child_frame_id for msg in found} == {"base_link"}
    first, last = (pose_of(m.pose.pose.position, m.pose.pose.orientation) for m in found[::5])
    lower = 0.05 if comes == "late" else 0.02  # the camera rests: the base is below it by as much
    assert first[2, 3] - last[2, 3] == pytest.approx(lower, abs=1e-3)


def about_the_view(degrees: float) -> np.ndarray:
    """base_from_camera of the robot's camera, turned about its axis of view."""
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    roll = np.eye(4)
    roll[:2, :2] = [[cosine, -sine], [sine, cosine]]
    return BASE_FROM_CAMERA @ roll


@pytest.mark.parametrize(
    ("degrees", "words"),
    [
        (0.0, ""),
        (45.0, ""),
        (90.0, "images are on their side: by 'base_link' -> 'camera' on /tf they are turned by"),
        (180.0, "images are upside down"),
        (-135.0, "images are upside down"),
        (-90.0, "images are on their side"),
    ],
)
def test_images_that_are_not_upright_are_known_by_mount_and_imu(degrees: float, words: str):
    pose = about_the_view(degrees)
    by_mount = turned(Mount("camera", pose, np.eye(4)), None, "base_link")
    by_imu = turned(None, 9.81 * pose[2, :3], "base_link")
    assert by_mount.startswith(words) and bool(by_mount) == bool(by_imu) == bool(words)
    assert not words or "REP 145" in by_imu


def test_a_camera_that_faces_the_ground_has_no_upright_image():
    down = np.diag([1.0, -1.0, -1.0, 1.0])
    assert turned(Mount("camera", down, np.eye(4)), None, "base_link") == ""
    assert turned(None, None, "base_link") == ""


def test_a_camera_that_hangs_upside_down_is_a_notice(rig: Rig):
    robot = SimulatedRobot(rig, faults=NONE)
    robot.start(described=False, tf_mode="none")
    mounted(rig, robot, about_the_view(180.0))
    robot.infer(0, 1)
    rig.wait_for_diagnostics("images are upside down: by 'base_link' -> 'camera_optical' on /tf")
