# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Metric scale over topics: odometry, another depth sensor, a second camera; and their faults."""

from io import BytesIO

import numpy as np
import pytest
from fakes.room import BASE_FROM_CAMERA, CAMERA_FROM_RIGHT, INTRINSICS, numbered_image, true_depth
from nav_msgs.msg import Path
from node_rig import CAMERA, PERIOD, Rig
from PIL import Image as PillowImage
from robot_rig import RIGHT, START, SimulatedRobot, StereoRobot
from sensor_msgs.msg import CompressedImage, Image, PointCloud2, PointField
from tf2_msgs.msg import TFMessage

from vggt_ros.frames import Frame
from vggt_ros.geometry import inverse_rigid, transform, unproject
from vggt_ros.ros.health.source_health import Warnings
from vggt_ros.ros.messages import (
    cloud_message,
    header,
    image_message,
    odometry_message,
    stamp_ns,
    transform_message,
)
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.sensors.second_camera import SecondCamera
from vggt_ros.ros.subscriptions.input_topics import InputTopics
from vggt_ros.ros.tf.tf_cache import Frames

pytestmark = [pytest.mark.ros, pytest.mark.slow]


# ---- odometry -----------------------------------------------------------------------------------


def test_odometry_gives_metric_scale(rig: Rig):
    robot = SimulatedRobot(rig, frames=40)
    robot.start(scale_source="odometry", tf_mode="none")
    robot.infer(*range(40))
    report = rig.wait_for_diagnostics("metres, from odometry", inferences="40")
    assert float(report["scale sigma"]) < 0.1 and report["scale conflict"] == "none"
    rig.wait_until(lambda: len(robot.depths) == 40, "a depth for each frame")
    assert robot.units_per_metre(39) == pytest.approx(1.0, abs=0.05)


BAD_ODOMETRY = {
    "other child": ({"child": "imu_link"}, "it places 'imu_link', not base_frame 'base_link'"),
    "other frame": ({"frame": "map"}, "it is of 'map -> base_link', not of 'odom -> base_link'"),
    "not finite": ({"x": float("nan")}, "its pose is not finite, has a position beyond 1e+07 m"),
    "far away": ({"x": 1e300}, "odometry is refused: its pose is not finite, has a position"),
    "back in time": ({"ns": START - 1_000_000_000}, "odometry is refused: a stamp goes back"),
    "jump": ({"x": 30.0}, "odometry restarts: it jumped"),
}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("fault", BAD_ODOMETRY)
def test_bad_odometry_is_reported_and_inference_goes_on(rig: Rig, fault: str):
    change, words = BAD_ODOMETRY[fault]
    robot = SimulatedRobot(rig)
    robot.start(scale_source="odometry", tf_mode="none")
    robot.infer(0, 1)
    head = header(change.get("ns", START + PERIOD + PERIOD // 2), change.get("frame", "odom"))
    msg = odometry_message(
        head, change.get("child", "base_link"), robot.wheels[1], np.eye(4), np.eye(6)
    )
    msg.pose.pose.position.x += change.get("x", 0.0)
    robot.odom.publish(msg)
    robot.infer(2)  # notices of odometry are reported with the next image
    rig.wait_for_diagnostics(words, inferences="3", scale="units are arbitrary")


def test_odometry_that_stops_is_reported(rig: Rig):
    robot = SimulatedRobot(rig, frames=25)
    robot.start(scale_source="odometry", tf_mode="none")
    robot.infer(0, 1)
    robot.infer(*range(2, 25), odom=False)
    rig.wait_for_diagnostics("nothing came on '/odom' for 2.", "(2 messages received before)")
    assert rig.count("inferences") == 25


def test_odometry_that_stops_is_reported_even_after_a_stamp_in_the_future(rig: Rig):
    robot = SimulatedRobot(rig, frames=25)
    robot.start(scale_source="odometry", tf_mode="none")
    robot.publish_odometry(0, ns=START + 10**13)
    robot.infer(0, odom=False)
    rig.wait_for_diagnostics("odometry: it is 10000 s ahead of the images; give both one clock")
    robot.infer(1)
    robot.infer(*range(2, 25), odom=False)
    rig.wait_for_diagnostics("nothing came on '/odom' for 2.", "(2 messages received before)")


def test_contradicting_sources_are_reported(rig: Rig):
    robot = SimulatedRobot(rig, frames=40)
    robot.start(scale_source="odometry, height", camera_height=1.2, tf_mode="none")
    robot.infer(*range(40))
    report = rig.wait_for_diagnostics("metres, from odometry", "height gives", inferences="40")
    assert "against odometry, which is kept" in report["scale conflict"]
    assert robot.units_per_metre(39) == pytest.approx(1.0, abs=0.05)


# ---- another depth sensor -----------------------------------------------------------------------


def publish_and_wait(rig: Rig, publisher, msg) -> None:
    """Publish a message of the depth sensor and wait until the node has it."""
    assert rig.node is not None
    sensor, ns = rig.node.robot.depth, stamp_ns(msg.header.stamp)
    assert sensor is not None
    publisher.publish(msg)
    rig.wait_until(lambda: ns in sensor.stamps, "the sensor's message arrives")


def lidar_message(head, points: np.ndarray) -> PointCloud2:
    black, ones = np.zeros(points.shape, np.uint8), np.ones(points.shape[:2], np.float32)
    return cloud_message(head, points, black, ones)


def test_a_depth_camera_gives_metric_scale(rig: Rig):
    robot = SimulatedRobot(rig, frames=8)
    sensor = rig.peer.create_publisher(Image, "/scale_depth", 10)
    robot.start(scale_source="depth", tf_mode="none")
    rig.wait_until(lambda: sensor.get_subscription_count() == 1, "scale_depth is matched")
    for i in range(8):
        metres = true_depth(robot.base[i] @ BASE_FROM_CAMERA).astype(np.float32)
        publish_and_wait(rig, sensor, image_message(header(START + i * PERIOD, CAMERA), metres))
        robot.infer(i)
    rig.wait_for_diagnostics("metres, from depth")
    assert robot.units_per_metre(7) == pytest.approx(1.0, abs=0.03)


def test_a_lidar_in_a_frame_of_its_own_gives_metric_scale(rig: Rig):
    robot = SimulatedRobot(rig, frames=8)
    sensor = rig.peer.create_publisher(PointCloud2, "/scale_points", 10)
    robot.start(scale_source="depth", tf_mode="none")
    rig.wait_until(lambda: sensor.get_subscription_count() == 1, "scale_points is matched")
    rig.publish_camera_info(INTRINSICS, width=84, height=56)
    for i in range(8):
        points = unproject(true_depth(robot.base[i] @ BASE_FROM_CAMERA), INTRINSICS)[::3]
        points = transform(BASE_FROM_CAMERA, points).astype(np.float32)
        head = header(START + i * PERIOD, "base_link")
        publish_and_wait(rig, sensor, lidar_message(head, points))
        robot.infer(i)
    rig.wait_for_diagnostics("metres, from depth")
    assert robot.units_per_metre(7) == pytest.approx(1.0, abs=0.03)


def organised(head, points: np.ndarray) -> PointCloud2:
    """An organised cloud of doubles, big endian, whose rows end with 40 bytes of padding."""
    height, width, _ = points.shape
    layout = np.dtype(
        {"names": list("xyz"), "formats": [">f8"] * 3, "offsets": [0, 8, 16], "itemsize": 32}
    )
    rows = np.zeros((height, width), layout)
    for axis, name in enumerate("xyz"):
        rows[name] = points[..., axis]
    return PointCloud2(
        header=head, height=height, width=width, is_bigendian=True, point_step=32,
        row_step=32 * width + 40, data=b"".join(row.tobytes() + b"\xff" * 40 for row in rows),
        fields=[
            PointField(name=name, offset=8 * axis, datatype=PointField.FLOAT64, count=1)
            for axis, name in enumerate("xyz")
        ],
    )  # fmt: skip


def test_an_organised_cloud_of_doubles_with_padded_rows_gives_metric_scale(rig: Rig):
    robot = SimulatedRobot(rig, frames=8)
    sensor = rig.peer.create_publisher(PointCloud2, "/scale_points", 10)
    robot.start(scale_source="depth", tf_mode="none")
    rig.wait_until(lambda: sensor.get_subscription_count() == 1, "scale_points is matched")
    rig.publish_camera_info(INTRINSICS, width=84, height=56)
    for i in range(8):
        points = unproject(true_depth(robot.base[i] @ BASE_FROM_CAMERA), INTRINSICS)
        msg = organised(header(START + i * PERIOD, CAMERA), points.reshape(56, 84, 3))
        publish_and_wait(rig, sensor, msg)
        robot.infer(i)
    report = rig.wait_for_diagnostics("metres, from depth", inferences="8")
    assert "scale_points" not in report["/vggt: scale"]
    assert robot.units_per_metre(7) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(
    "frame_id, informed, words",
    [
        ("lidar", True, "scale_points is in 'lidar', which /tf does not connect"),
        ("base_link", False, "scale_points needs camera_info"),
    ],
)
def test_a_lidar_without_frame_or_calibration_is_reported(rig: Rig, frame_id, informed, words):
    robot = SimulatedRobot(rig, frames=8)
    sensor = rig.peer.create_publisher(PointCloud2, "/scale_points", 10)
    robot.start(scale_source="depth", tf_mode="none")
    rig.wait_until(lambda: sensor.get_subscription_count() == 1, "scale_points is matched")
    if informed:
        rig.publish_camera_info(INTRINSICS, width=84, height=56)
    points = np.ones((1, 200, 3), np.float32)
    publish_and_wait(rig, sensor, lidar_message(header(START, frame_id), points))
    robot.infer(0)
    rig.wait_for_diagnostics(words, inferences="1")


# ---- a second camera ----------------------------------------------------------------------------


def test_a_second_camera_gives_metric_scale(rig: Rig):
    robot = StereoRobot(rig, kind="spin", frames=20)  # no motion and no odometry: the rig alone
    robot.start()
    paths = rig.subscribe_matched("/vggt/path", Path)
    robot.infer_pairs(*range(20))
    report = rig.wait_for_diagnostics("metres, from baseline", inferences="20")
    assert float(report["scale sigma"]) < 0.1 and report["window"] == "4 frames"
    rig.wait_until(lambda: len(robot.depths) == 20, "twenty depths, one for each frame")
    assert robot.units_per_metre(19) == pytest.approx(1.0, abs=0.03)
    assert {msg.header.frame_id for msg in robot.depths} == {CAMERA}
    rig.wait_until(lambda: len(paths[-1].poses) == 20, "a pose for each frame")
    assert any(camera for images in robot.engine.inferences for _, camera in images)


def test_a_second_image_that_comes_after_the_first_is_waited_for(rig: Rig):
    robot = StereoRobot(rig, frames=12)
    robot.start()
    robot.infer_pairs(0, 1)
    for i in range(2, 12):
        done = rig.count("inferences")
        robot.publish_image(i)
        robot.publish_right(i, ns=START + i * PERIOD)
        rig.wait_until(lambda n=done: rig.count("inferences") > n, f"inference of frame {i}")
    paired = {i for images in robot.engine.inferences for i, camera in images if camera}
    assert paired - {0, 1}  # not all: the wait is bounded, and this machine may be slow


@pytest.mark.parametrize(
    "start, pairs, words",
    [
        ({"camera_from_right": None}, {}, f"/tf does not connect '{RIGHT}' with '{CAMERA}'"),
        ({}, {"late_ns": 7_000_000}, "its nearest image is +7.0 ms from the first camera's"),
        ({}, {"frame_id": CAMERA}, f"both cameras have frame_id '{CAMERA}'"),
        ({"camera_from_right": np.eye(4)}, {}, f"/tf puts '{RIGHT}' where '{CAMERA}' is"),
        (
            {"camera_from_right": inverse_rigid(CAMERA_FROM_RIGHT)},
            {},
            "are left and right exchanged?",
        ),
    ],
)
def test_a_second_camera_that_does_not_fit_is_reported_and_not_used(rig: Rig, start, pairs, words):
    robot = StereoRobot(rig, frames=8)
    robot.start(tf_wait=0.01, **start)
    robot.infer_pairs(*range(8), **pairs)
    rig.wait_for_diagnostics(words, inferences="8", scale="units are arbitrary")


def test_a_second_camera_without_images_is_reported(rig: Rig):
    robot = StereoRobot(rig, frames=25)
    robot.start()
    robot.infer(*range(25))
    rig.wait_for_diagnostics("nothing came on '/baseline_image' for two seconds")
    assert rig.count("inferences") == 25


def test_images_of_the_second_camera_may_be_compressed_and_need_tf2_msgs(rig: Rig):
    notices: list[str] = []
    warnings = Warnings(lambda _, text: notices.append(text), notices.append)
    parameters = Parameters(scale_source="baseline", image_transport="compressed")
    frames = Frames(rig.peer, TFMessage, wait=0.0)
    mount = transform_message(header(START, CAMERA), RIGHT, CAMERA_FROM_RIGHT)
    frames.tree.add([mount], is_static=True)
    inputs = InputTopics(rig.peer, parameters, lambda subject, text: None)
    without_tf = SecondCamera(inputs, parameters, None, warnings)
    with_tf = SecondCamera(inputs, parameters, frames, warnings)
    assert without_tf.topic == "/baseline_image/compressed"
    sender = rig.peer.create_publisher(CompressedImage, without_tf.topic, 10)
    packed = BytesIO()
    PillowImage.fromarray(numbered_image(3, camera=1)).save(packed, "png")
    msg = CompressedImage(header=header(START, RIGHT), format="png", data=packed.getvalue())
    rig.wait_until(lambda: sender.get_subscription_count() == 2, "the topic is matched")
    sender.publish(msg)
    rig.wait_until(lambda: without_tf.stamps and with_tf.stamps, "the image arrives")
    frame = Frame(numbered_image(3), START, CAMERA)
    assert without_tf.view_at(frame) is None and "tf2_msgs is not installed" in notices[-1]
    found = with_tf.view_at(frame)
    assert found is not None and found.stamp_ns == START
    np.testing.assert_allclose(found.camera_from_extra, CAMERA_FROM_RIGHT)
    np.testing.assert_array_equal(found.rgb, numbered_image(3, camera=1))
