# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Sources of scale and gravity as robots really send them: late, of another clock, not at all."""

import numpy as np
import pytest
from fakes.oracle import NONE
from fakes.room import BASE_FROM_CAMERA, INTRINSICS, WIDTH
from node_rig import CAMERA, PERIOD, Rig
from rclpy.publisher import Publisher
from robot_rig import START, DepthRobot, SimulatedRobot, StereoRobot
from sensor_msgs.msg import CameraInfo, Imu, PointCloud2

from vggt_ros.ros.messages import (
    camera_info_message,
    cloud_message,
    header,
    transform_message,
)

pytestmark = [pytest.mark.ros, pytest.mark.slow]

SECOND = 1_000_000_000
MS = 1_000_000


def is_said(rig: Rig, words: str) -> bool:
    """Whether the newest report warns of it, whatever was said before."""
    report = rig.diagnostics().items()
    return any(words in value for key, value in report if not key.startswith(("last ", "second")))


# ---- depth --------------------------------------------------------------------------------------


@pytest.mark.parametrize("late_ms", [40, 110, 1500])
def test_depth_that_comes_after_its_image_makes_metres(rig: Rig, late_ms: int):
    """Stamped as the image, and later by less than a frame, by more, and by far more."""
    late = -(-late_ms * MS // PERIOD)  # frames of the camera that come in between
    robot = DepthRobot(rig, frames=late + 8)
    robot.start()
    for i in range(late + 8):
        robot.infer(i)
        if i + 1 >= late:
            robot.publish_depth(i + 1 - late)
    report = rig.wait_for_diagnostics("metres, from depth", inferences=str(late + 8))
    assert float(report["scale sigma"]) < 0.1
    assert robot.units_per_metre(late + 7) == pytest.approx(1.0, abs=0.03)


UNUSABLE_DEPTH = {
    "another clock": (
        lambda i: START + i * PERIOD - 37 * SECOND,
        "scale_source depth: its nearest message is -35.000 s from an image's stamp, 0.050 s are"
        " allowed (25 messages received); give both one clock",
    ),
    "stamp 0": (
        lambda i: 0,
        "scale_source depth: its messages are stamped 0 (25 messages received); its driver must",
    ),
    "never": (
        None,
        "scale_source depth: nothing came on '/scale_depth' or '/scale_points' for two seconds;"
        " remap scale_depth or scale_points to the sensor's topic",
    ),
    "too late": (
        lambda i: START + (i - 30) * PERIOD,
        "scale_source depth: its nearest message is -1.000 s from an image's stamp, 0.050 s are"
        " allowed (25 messages received)",
    ),
}


@pytest.mark.parametrize("fault", UNUSABLE_DEPTH)
def test_depth_of_no_use_is_a_warning_that_lasts_until_it_serves(rig: Rig, fault: str):
    stamp, words = UNUSABLE_DEPTH[fault]
    robot = DepthRobot(rig, frames=30)
    robot.start()
    for i in range(25):
        if stamp is not None:
            robot.publish_depth(i, ns=stamp(i))
        robot.infer(i)
    rig.wait_for_diagnostics(words, inferences="25", scale="units are arbitrary")
    for i in range(25, 30):
        robot.publish_depth(i)
        robot.infer(i)
    rig.wait_for_diagnostics("metres, from depth", inferences="30")
    rig.wait_until(lambda: not is_said(rig, "scale_source depth"), "the warning ends")


# ---- a depth camera with a view of its own ------------------------------------------------------


DEPTH_FRAME = "depth_optical"
WIDE = np.array([[40.0, 0, WIDTH / 2 - 3], [0, 40.0, 30.0], [0, 0, 1]])
CAMERA_FROM_DEPTH = np.eye(4)
CAMERA_FROM_DEPTH[:3, 3] = [-0.06, 0.02, 0.03]


def send_calibration(rig: Rig, sender: Publisher, frame_id: str) -> None:
    """The wide lens' calibration again and again, as drivers send it, until the node has it."""
    assert rig.node is not None and rig.node.robot.depth is not None
    sensor = rig.node.robot.depth
    msg = camera_info_message(header(START, frame_id), WIDE, width=84, height=56)

    def arrives() -> bool:
        sender.publish(msg)
        return frame_id in sensor.calibrated

    rig.wait_until(arrives, "the depth's calibration arrives")


def start_wide(rig: Rig, *, info: str, mounted=True, topic="/scale_depth", arguments=()):
    """A robot whose depth camera has another lens beside the camera's; `info`: its topic."""
    robot = DepthRobot(rig, frames=12, topic=topic)
    node = robot.start(arguments=arguments)
    if mounted:
        pose = BASE_FROM_CAMERA @ CAMERA_FROM_DEPTH
        robot.publish_static(transform_message(header(START, "base_link"), DEPTH_FRAME, pose))
        frames = node.robot.frames
        assert frames is not None
        rig.wait_until(lambda: frames.lookup(CAMERA, DEPTH_FRAME, START) is not None, "mount")
    rig.publish_camera_info(INTRINSICS, width=84, height=56)
    if info:
        sender = rig.peer.create_publisher(CameraInfo, info, 10)
        rig.wait_until(lambda: sender.get_subscription_count() >= 1, "info is matched")
        assert node.robot.depth is not None
        send_calibration(rig, sender, DEPTH_FRAME)
    for i in range(12):
        robot.publish_depth(i, frame_id=DEPTH_FRAME, mount=CAMERA_FROM_DEPTH, intrinsics=WIDE)
        robot.infer(i)
    return robot


@pytest.mark.parametrize(
    "topic, info", [("/scale_depth", "/scale_depth_info"), ("/deep/image", "/deep/camera_info")]
)
def test_a_depth_camera_of_a_wider_view_is_registered(rig: Rig, topic: str, info: str):
    """By a camera_info given by name, or the one beside the image."""
    arguments = () if topic == "/scale_depth" else ("-r", f"scale_depth:={topic}")
    robot = start_wide(rig, info=info, topic=topic, arguments=arguments)
    rig.wait_for_diagnostics("metres, from depth", inferences="12")
    assert robot.units_per_metre(11) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"info": ""}, f"scale_depth is in '{DEPTH_FRAME}' and the image in '{CAMERA}', so it is"),
        (
            {"info": "/scale_depth_info", "mounted": False},
            f"scale_depth is in '{DEPTH_FRAME}', which /tf does not connect with '{CAMERA}'",
        ),
    ],
)
def test_a_depth_camera_that_cannot_be_registered_is_refused_by_name(rig: Rig, options, words):
    start_wide(rig, **options)
    rig.wait_for_diagnostics(words, inferences="12", scale="units are arbitrary")
    assert is_said(rig, "(12 messages received)")


def test_depth_in_the_camera_s_frame_with_another_lens_is_registered(rig: Rig):
    """Its frame_id says registered, its camera_info does not."""
    robot = DepthRobot(rig, frames=12)
    node = robot.start()
    assert node.robot.depth is not None
    rig.publish_camera_info(INTRINSICS, width=84, height=56)
    sender = rig.peer.create_publisher(CameraInfo, "/scale_depth_info", 10)
    rig.wait_until(lambda: sender.get_subscription_count() >= 1, "info is matched")
    send_calibration(rig, sender, DEPTH_FRAME)  # by name, whatever its frame
    for i in range(12):
        robot.publish_depth(i, intrinsics=WIDE)
        robot.infer(i)
    rig.wait_for_diagnostics("metres, from depth", inferences="12")
    assert robot.units_per_metre(11) == pytest.approx(1.0, abs=0.03)


# ---- odometry -----------------------------------------------------------------------------------


@pytest.mark.parametrize("late_ms, every", [(40, 1), (500, 1), (40, 10)])
def test_late_and_slow_odometry_make_metres(rig: Rig, late_ms: int, every: int):
    """40 ms after its image, half a second behind, and at 1 Hz."""
    late = -(-late_ms * MS // PERIOD)
    robot = SimulatedRobot(rig, frames=60)
    robot.start(scale_source="odometry", tf_mode="none")
    for i in range(60):
        robot.infer(i, odom=False)
        if i + 1 >= late and (i + 1 - late) % every == 0:
            robot.publish_odometry(i + 1 - late)
    rig.wait_for_diagnostics("metres, from odometry", inferences="60")
    assert not is_said(rig, "odometry:")
    assert robot.units_per_metre(59) == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize(
    "stamp, words",
    [
        (
            lambda i: START + i * PERIOD - 37 * SECOND,
            "odometry: its nearest message is -37.000 s from an image's stamp, 2.000 s are allowed",
        ),
        (lambda i: i and None, "odometry: its messages are refused: a stamp goes back"),
        (None, "odometry: nothing came on '/odom' for two seconds; remap odom to the robot's"),
    ],
)
def test_odometry_of_no_use_is_a_warning_that_lasts(rig: Rig, stamp, words: str):
    robot = SimulatedRobot(rig, frames=25)
    robot.start(scale_source="odometry", tf_mode="none")
    for i in range(25):
        if stamp is not None:
            robot.publish_odometry(i, ns=stamp(i) or 0)
        robot.infer(i, odom=False)
    rig.wait_for_diagnostics(words, inferences="25", scale="units are arbitrary")


# ---- gravity ------------------------------------------------------------------------------------

UP = np.array([0.2, -0.9, -0.3]) / np.linalg.norm([0.2, -0.9, -0.3])


def publish_imu(rig: Rig, up: np.ndarray, *, topic="/imu", frame_id=CAMERA, no_data=False) -> None:
    """Three messages of an IMU at rest, and wait until the node has heard them."""
    assert rig.node is not None
    gravity = rig.node.robot.gravity
    imu = rig.peer.create_publisher(Imu, topic, 10)
    rig.wait_until(lambda: imu.get_subscription_count() == 1, "imu is matched")
    msg, heard = Imu(header=header(START, frame_id)), gravity.heard
    axis = msg.linear_acceleration
    axis.x, axis.y, axis.z = up.tolist()
    if no_data:
        msg.linear_acceleration_covariance[0] = -1.0
    for _ in range(3):
        imu.publish(msg)
    rig.wait_until(lambda: gravity.heard == heard + 3, "gravity arrives")


@pytest.mark.parametrize(
    "up, options, words",
    [
        (UP, {}, "imu: its mean acceleration is 1.00 m/s^2, 8.0 to 11.5 are allowed: its unit"),
        (0.05 * UP, {}, "imu: its mean acceleration is 0.05 m/s^2, 8.0 to 11.5 are allowed: grav"),
        (15.0 * UP, {}, "imu: its mean acceleration is 15.00 m/s^2, 8.0 to 11.5 are allowed: the"),
        (np.nan * UP, {}, "imu: its acceleration is not finite"),
        (1e308 * UP, {}, "imu: its acceleration is not finite, or beyond 1e+06 m/s^2"),
        (9.81 * UP, {"no_data": True}, "imu: it says that it does not measure acceleration"),
        (
            9.81 * UP,
            {"frame_id": "imu"},
            "imu: gravity is not used: /tf does not connect 'imu'",
        ),
    ],
)
def test_an_imu_of_no_use_is_a_warning_that_lasts(rig: Rig, up, options, words):
    robot = SimulatedRobot(rig, faults=NONE)
    robot.start(described=False, tf_mode="none")
    publish_imu(rig, up, **options)
    robot.infer(0, 1)
    values = {"world levelled by": "assumption: the first camera is level"}
    rig.wait_for_diagnostics(words, inferences="2", **values)
    assert is_said(rig, "the first camera is taken to be level (3 messages received)")


def test_an_imu_that_is_remapped_and_silent_is_a_warning(rig: Rig):
    robot = SimulatedRobot(rig, frames=25)
    robot.start(described=False, tf_mode="none", arguments=("-r", "imu:=/camera/imu"))
    robot.infer(*range(25))
    rig.wait_for_diagnostics("imu: nothing came on '/camera/imu' for two seconds")


def test_what_levels_the_world_is_said(rig: Rig):
    robot = SimulatedRobot(rig, faults=NONE)
    robot.start(described=False, tf_mode="none")
    robot.infer(0)
    rig.wait_for_diagnostics(**{"world levelled by": "assumption: the first camera is level"})
    publish_imu(rig, 9.81 * UP)
    robot.infer(1)
    rig.wait_for_diagnostics("when the map began there was no imu, and now there is; call ~/reset")
    rig.call("reset")
    robot.infer(2)
    rig.wait_for_diagnostics(**{"world levelled by": "imu: mean of 3 measurements"})
    rig.wait_until(lambda: not is_said(rig, "level by assumption"), "the warning ends")


def test_gravity_that_was_measured_long_ago_levels_no_map(rig: Rig):
    """The IMU has died, and the robot may stand otherwise when a map starts again."""
    robot = SimulatedRobot(rig, frames=25)
    robot.start(described=False, tf_mode="none")
    publish_imu(rig, 9.81 * UP)
    robot.infer(0)
    rig.wait_for_diagnostics(**{"world levelled by": "imu: mean of 3 measurements"})
    robot.infer(*range(1, 24))
    rig.wait_for_diagnostics("imu: nothing came on '/imu' for 2.", "s (3 messages received before)")
    rig.call("reset")
    robot.infer(24)
    assumed = "assumption: the first camera is level"
    rig.wait_for_diagnostics(inferences="25", **{"world levelled by": assumed})


def test_a_mount_levels_the_world_and_makes_an_imu_needless(rig: Rig):
    robot = SimulatedRobot(rig, faults=NONE)
    node = robot.start(tf_mode="none")
    frames = node.robot.frames
    assert frames is not None
    rig.wait_until(lambda: frames.lookup("base_link", CAMERA, START) is not None, "the mount")
    publish_imu(rig, UP)  # in g
    robot.infer(0, 1)
    how = f"mount: base_link -> {CAMERA} on /tf"
    rig.wait_for_diagnostics(inferences="2", **{"world levelled by": how})
    assert not is_said(rig, "imu:")


# ---- a second camera ----------------------------------------------------------------------------


def test_a_second_camera_of_another_clock_is_named(rig: Rig):
    robot = StereoRobot(rig, frames=25)
    robot.start()
    robot.infer_pairs(*range(25), late_ns=-37 * SECOND)
    rig.wait_for_diagnostics("scale_source baseline: its nearest message is -37.000 s", "one clock")


def test_a_cloud_that_hardly_meets_the_image_is_named_with_figures(rig: Rig):
    """A flat LiDAR gives a row of the image, and fewer pixels than a ratio needs."""
    robot = SimulatedRobot(rig, frames=65)
    sensor = rig.peer.create_publisher(PointCloud2, "/scale_points", 10)
    node = robot.start(scale_source="depth", tf_mode="none")
    assert node.robot.depth is not None
    rig.wait_until(lambda: sensor.get_subscription_count() == 1, "scale_points is matched")
    rig.publish_camera_info(INTRINSICS, width=84, height=56)
    points, depth = np.ones((1, 9, 3), np.float32), node.robot.depth
    for i in range(65):
        head = header(START + i * PERIOD, CAMERA)
        sensor.publish(cloud_message(head, points, np.zeros((1, 9, 3), np.uint8), points[..., 0]))
        rig.wait_until(lambda n=i: depth.heard == n + 1, "a cloud arrives")
        robot.infer(i)
    words = "scale_source depth: the last", "pixels have depth by both the network and the sensor"
    rig.wait_for_diagnostics(*words, inferences="65")
