# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Metres through topics: wheels, a second camera, another sensor; and what is wrong with them."""

from collections.abc import Iterator
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
from nav_msgs.msg import Path
from node_rig import Rig
from oracle import BASE_FROM_CAMERA, CAMERA_FROM_RIGHT, INTRINSICS, picture, sight
from PIL import Image as PillowImage
from robot_rig import CAMERA, PERIOD, RIGHT, START, Drive, Stereo, subscribers
from sensor_msgs.msg import CompressedImage, Image, PointCloud2

from vggt_ros.frames import Frame
from vggt_ros.geometry import inverse_rigid, transform, unproject
from vggt_ros.ros.messages import (
    cloud_message,
    header,
    image_message,
    odometry_message,
)
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.second_camera import Companions

pytestmark = pytest.mark.ros


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def test_odometry_makes_metres_through_topics(rig: Rig):
    robot = Drive(rig, frames=40)
    robot.start(scale_source="odometry", tf_mode="none")
    robot.show(*range(40))
    said = rig.until_diagnosed("metres, from odometry")
    assert float(said["scale sigma"]) < 0.1 and said["scale conflict"] == "none"
    rig.until(lambda: len(robot.depths) == 40, "a depth a frame")
    assert robot.units_per_metre(39) == pytest.approx(1.0, abs=0.05)


BAD_ODOMETRY = {
    "other child": ({"child": "imu_link"}, "it places 'imu_link', not base_frame 'base_link'"),
    "other frame": ({"frame": "map"}, "it is of 'map -> base_link', not of 'odom -> base_link'"),
    "not finite": ({"x": float("nan")}, "its pose is not finite"),
    "absurd": ({"x": 1e300}, "odometry is refused: a position is beyond 1e+07 m"),
    "backwards": ({"ns": START - 1_000_000_000}, "odometry is refused: a stamp goes back"),
    "jump": (
        {
            "x": 30.0,
        },
        "odometry begins anew: it jumped",
    ),
}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("fault", BAD_ODOMETRY)
def test_bad_odometry_is_named_and_survived(rig: Rig, fault):
    change, words = BAD_ODOMETRY[fault]
    robot = Drive(rig)
    robot.start(scale_source="odometry", tf_mode="none")
    robot.show(0, 1)
    head = header(change.get("ns", START + PERIOD + PERIOD // 2), change.get("frame", "odom"))
    msg = odometry_message(
        head, change.get("child", "base_link"), robot.wheels[1], np.eye(4), np.eye(6)
    )
    msg.pose.pose.position.x += change.get("x", 0.0)
    robot.odom.publish(msg)
    robot.show(2)  # what odometry has to say is heard with the next image
    said = rig.until_diagnosed(words)
    assert said["looks"] == "3" and said["scale"] == "units are arbitrary"


def test_odometry_that_stops_is_missed_by_name(rig: Rig):
    robot = Drive(rig, frames=25)
    robot.start(scale_source="odometry", tf_mode="none")
    robot.show(0, 1)
    robot.show(*range(2, 25), odom=False)
    rig.until_diagnosed("nothing came on 'odom' for two seconds")
    assert rig.count("looks") == 25


def test_odometry_that_stops_is_missed_even_after_a_stamp_from_the_future(rig: Rig):
    robot = Drive(rig, frames=25)
    robot.start(scale_source="odometry", tf_mode="none")
    head = header(START + 10**13, "odom")
    robot.odom.publish(odometry_message(head, "base_link", robot.wheels[0], np.eye(4), np.eye(6)))
    robot.show(0, odom=False)
    rig.until_diagnosed("odometry is stamped ahead of the images: by 10000 s")
    robot.show(1)
    robot.show(*range(2, 25), odom=False)
    rig.until_diagnosed("nothing came on 'odom' for two seconds")


def test_sources_that_disagree_are_named_in_diagnostics(rig: Rig):
    robot = Drive(rig, frames=40)
    robot.start(scale_source="odometry, height", camera_height=1.2, tf_mode="none")
    robot.show(*range(40))
    said = rig.until_diagnosed("metres, from odometry", "height says")
    assert "against odometry, which is kept" in said["scale conflict"]
    assert robot.units_per_metre(39) == pytest.approx(1.0, abs=0.05)


# ---- another sensor's depth ---------------------------------------------------------------------


def test_a_depth_camera_makes_metres_through_topics(rig: Rig):
    robot = Drive(rig, frames=8)
    sensor = rig.robot.create_publisher(Image, "/scale_depth", 10)
    robot.start(scale_source="depth", tf_mode="none")
    rig.until(lambda: sensor.get_subscription_count() == 1, "scale_depth is subscribed")
    for i in range(8):
        metres = sight(robot.base[i] @ BASE_FROM_CAMERA).astype(np.float32)
        _publish_and_wait(rig, sensor, image_message(header(START + i * PERIOD, CAMERA), metres))
        robot.show(i)
    rig.until_diagnosed("metres, from depth")
    assert robot.units_per_metre(7) == pytest.approx(1.0, abs=0.03)


def test_a_lidar_makes_metres_through_topics(rig: Rig):
    """Its points lie in a frame of its own, at the base."""
    robot = Drive(rig, frames=8)
    sensor = rig.robot.create_publisher(PointCloud2, "/scale_points", 10)
    robot.start(scale_source="depth", tf_mode="none")
    rig.until(lambda: sensor.get_subscription_count() == 1, "scale_points is subscribed")
    rig.inform(INTRINSICS, width=84, height=56)
    node = rig.node
    assert node is not None
    rig.until(lambda: node.looker.calibration is not None, "the calibration")
    for i in range(8):
        points = unproject(sight(robot.base[i] @ BASE_FROM_CAMERA), INTRINSICS)[::3]
        points = transform(BASE_FROM_CAMERA, points).astype(np.float32)
        black, sure = np.zeros(points.shape, np.uint8), np.ones(points.shape[:2], np.float32)
        head = header(START + i * PERIOD, "base_link")
        _publish_and_wait(rig, sensor, cloud_message(head, points, black, sure))
        robot.show(i)
    rig.until_diagnosed("metres, from depth")
    assert robot.units_per_metre(7) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(
    "frame_id, informed, words",
    [
        ("lidar", True, "scale_points is in 'lidar', which /tf does not connect"),
        ("base_link", False, "scale_points needs camera_info"),
    ],
)
def test_a_lidar_that_cannot_be_placed_is_named(rig: Rig, frame_id, informed, words):
    robot = Drive(rig, frames=8)
    sensor = rig.robot.create_publisher(PointCloud2, "/scale_points", 10)
    robot.start(scale_source="depth", tf_mode="none")
    rig.until(lambda: sensor.get_subscription_count() == 1, "scale_points is subscribed")
    node = rig.node
    assert node is not None
    if informed:
        rig.inform(INTRINSICS, width=84, height=56)
        rig.until(lambda: node.looker.calibration is not None, "the calibration")
    points = np.ones((1, 200, 3), np.float32)
    black, sure = np.zeros(points.shape, np.uint8), np.ones(points.shape[:2], np.float32)
    head = header(START, frame_id)
    _publish_and_wait(rig, sensor, cloud_message(head, points, black, sure))
    robot.show(0)
    assert rig.until_diagnosed(words)["looks"] == "1"


def _publish_and_wait(rig: Rig, publisher, msg) -> None:
    node = rig.node
    assert node is not None
    kept = node.robot._depth
    publisher.publish(msg)
    rig.until(
        lambda: msg.header.stamp in [each.header.stamp for each in tuple(kept)],
        "the sensor's message arrives",
    )


# ---- a second camera ----------------------------------------------------------------------------


def test_a_second_camera_makes_metres_through_topics(rig: Rig):
    robot = Stereo(rig, kind="spin", frames=20)  # no motion, no odometry: the rig alone
    robot.start()
    rig.listen("/vggt/path", Path)
    rig.until(lambda: subscribers(rig, "/vggt/path"), "a listener")
    robot.show_pairs(*range(20))
    said = rig.until_diagnosed("metres, from baseline")
    assert float(said["scale sigma"]) < 0.1 and said["window"] == "4 frames"
    rig.until(lambda: len(rig.heard["/vggt/depth/image"]) == 20, "twenty depths, one a frame")
    assert robot.units_per_metre(19) == pytest.approx(1.0, abs=0.03)
    assert {msg.header.frame_id for msg in rig.heard["/vggt/depth/image"]} == {CAMERA}
    rig.until(lambda: len(rig.heard["/vggt/path"][-1].poses) == 20, "a pose a frame")
    assert any(camera for look in robot.oracle.looks for _, camera in look)


def test_a_second_picture_that_comes_after_the_image_is_waited_for(rig: Rig):
    robot = Stereo(rig, frames=12)
    robot.start()
    robot.show_pairs(0, 1)
    for i in range(2, 12):
        ns = START + i * PERIOD
        looks = rig.count("looks")
        rig.pictures.publish(image_message(header(ns, CAMERA), picture(i)))
        robot.right.publish(image_message(header(ns, RIGHT), picture(i, camera=1)))
        rig.until(lambda n=looks: rig.count("looks") > n, f"a look at frame {i}")
    both = [index for look in robot.oracle.looks for index, camera in look if camera]
    assert set(both) - {0, 1}  # not each: a machine may be slow, and nobody waits for ever


@pytest.mark.parametrize(
    "start, show, words",
    [
        ({"camera_from_right": None}, {}, f"/tf does not connect '{RIGHT}' with '{CAMERA}'"),
        ({}, {"late_ns": 7_000_000}, "its nearest picture is +7.0 ms from the image"),
        ({}, {"frame_id": CAMERA}, f"both cameras say frame_id '{CAMERA}'"),
        ({"camera_from_right": np.eye(4)}, {}, f"/tf puts '{RIGHT}' where '{CAMERA}' is"),
        (
            {"camera_from_right": inverse_rigid(CAMERA_FROM_RIGHT)},
            {},
            "are left and right exchanged?",
        ),
    ],
)
def test_a_second_camera_that_does_not_fit_is_named_and_gone_without(rig: Rig, start, show, words):
    robot = Stereo(rig, frames=8)
    robot.start(tf_wait=0.01, **start)
    robot.show_pairs(*range(8), **show)
    said = rig.until_diagnosed(words)
    assert said["scale"] == "units are arbitrary" and said["looks"] == "8"


def test_a_second_camera_that_is_silent_is_missed_by_name(rig: Rig):
    robot = Stereo(rig, frames=25)
    robot.start()
    robot.show(*range(25))
    rig.until_diagnosed("nothing came on '/baseline_image' for two seconds")
    assert rig.count("looks") == 25


def test_a_compressed_second_camera_comes_as_compressed_as_the_first(rig: Rig):
    """And without tf2_msgs it is said that nobody knows where that camera is."""
    said: list[str] = []
    parameters = Parameters(scale_source="baseline", image_transport="compressed")
    companions = Companions(rig.robot, parameters, None, said.append)
    assert companions.topic == "/baseline_image/compressed"
    sender = rig.robot.create_publisher(CompressedImage, companions.topic, 10)
    octets = BytesIO()
    PillowImage.fromarray(picture(3, camera=1)).save(octets, "png")
    msg = CompressedImage(header=header(START, RIGHT), format="png", data=octets.getvalue())
    rig.until(lambda: sender.get_subscription_count() == 1, "the topic is heard")
    sender.publish(msg)
    rig.until(lambda: companions._messages, "the picture arrives")
    frame = Frame(picture(3), START, CAMERA)
    assert companions.of(frame) is None and "tf2_msgs is not installed" in said[-1]
    known = SimpleNamespace(late=lambda target, source, ns: CAMERA_FROM_RIGHT)
    companions._frames = known  # pyright: ignore[reportAttributeAccessIssue]
    found = companions.of(frame)
    assert found is not None and found.stamp_ns == START
    np.testing.assert_array_equal(found.rgb, picture(3, camera=1))
