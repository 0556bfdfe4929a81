# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node on a robot: its frames, its odometry, its map; over topics, on a network that errs."""

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
from node_rig import Rig
from oracle import NONE, Faults, picture
from robot_rig import CAMERA, PERIOD, START, Drive, subscribers
from sensor_msgs.msg import Image, Imu, PointCloud2
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage
from vggt_ros.msg import PointTracks, QueryPoints

from vggt_ros.geometry import inverse_rigid
from vggt_ros.mapping import alignment
from vggt_ros.mapping.velocity import UNKNOWN, logarithm
from vggt_ros.ros import tf_cache
from vggt_ros.ros.messages import (
    cloud_message,
    header,
    image_message,
    stamp_ns,
    transform_message,
)
from vggt_ros.ros.robot import metres_from_image, points_from
from vggt_ros.ros.tf_cache import TfCache, pose_of

pytestmark = pytest.mark.ros


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


MODES = {
    "none": ("odom", CAMERA, {}),
    "camera": ("vggt_world", "seen_by_vggt", {"camera_frame": "seen_by_vggt"}),
    "odom_to_base": ("odom", CAMERA, {}),
    "map_to_odom": ("map", CAMERA, {"world_frame": "map"}),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_depth_finds_its_camera_at_its_stamp(rig: Rig, mode: str):
    target, camera, parameters = MODES[mode]
    robot = Drive(rig)
    robot.start(tf_mode=mode, **parameters)
    robot.show(*range(8), tf=mode != "odom_to_base")
    depths = rig.heard["/vggt/depth/image"]
    rig.until(lambda: len(depths) == 8, "eight depths")
    for depth in depths:
        ns = stamp_ns(depth.header.stamp)
        rig.until(lambda ns=ns: robot.heard.lookup(target, camera, ns) is not None, f"{ns}")
    parents = {(t.child_frame_id, t.header.frame_id) for t in robot.transforms}
    assert len(parents) == len({child for child, _ in parents})  # nobody has two parents
    told = [(t.child_frame_id, stamp_ns(t.header.stamp)) for t in robot.transforms]
    assert len(told) == len(set(told))  # and every stamp is told once


def test_map_to_odom_begins_as_one_and_corrects_the_wheels(rig: Rig):
    robot = Drive(rig, "room", 20, NONE)
    robot.start(tf_mode="map_to_odom", world_frame="map", scale_source="fixed", fixed_scale=1.0)
    robot.show(*range(20))
    rig.until(lambda: len(robot.sent("map", "odom")) == 20, "twenty transforms")
    first = robot.heard.lookup("map", "odom", START)
    np.testing.assert_allclose(first, np.eye(4), atol=1e-3)
    last = robot.heard.lookup("map", "base_link", START + 19 * PERIOD)
    truth = inverse_rigid(robot.base[0]) @ robot.base[19]
    np.testing.assert_allclose(last, truth, atol=5e-3)


def test_odom_to_base_keeps_away_from_somebody_elses_odometry(rig: Rig):
    robot = Drive(rig)
    robot.start(tf_mode="odom_to_base")
    robot.show(0, 1, 2, tf=True)
    rig.until_diagnosed("off: base_link already has parent odom")
    assert robot.sent("odom", "base_link") == [START + i * PERIOD for i in range(3)]


def test_missing_transforms_cost_a_moment_and_are_said(rig: Rig):
    robot = Drive(rig)
    robot.start(described=False, tf_mode="map_to_odom", tf_wait=0.05)
    robot.show(0, 1, tf=False)
    rig.until_diagnosed("late: odom -> camera_optical is not known")
    assert len(rig.heard["/vggt/depth/image"]) >= 1 and robot.sent("vggt_world", "odom") == []


def test_a_transform_that_comes_late_is_waited_for(rig: Rig):
    robot = Drive(rig)
    robot.start(tf_mode="map_to_odom", tf_wait=5.0)
    robot.show(0)
    ns = START + PERIOD
    rig.pictures.publish(image_message(header(ns, CAMERA), picture(1)))
    rig.until(lambda: len(robot.oracle.looks) == 2, "the network is done")  # and the wait begins
    assert rig.count("looks") == 1 and robot.sent("vggt_world", "odom") == [START]
    late = transform_message(header(ns, "odom"), "base_link", robot.wheels[1])
    robot.tf.publish(TFMessage(transforms=[late]))
    rig.until(lambda: robot.sent("vggt_world", "odom") == [START, ns], "the second transform")


def test_a_broken_window_is_told_with_its_segment_wherever_one_is_named(rig: Rig):
    robot = Drive(rig, frames=12, faults=Faults(broken={8: "nonsense"}))
    robot.start(tf_mode="none")
    for topic, kind in (("/vggt/tracks", PointTracks), ("/vggt/odometry", Odometry)):
        rig.listen(topic, kind)
        rig.until(lambda topic=topic: subscribers(rig, topic), "a listener")
    robot.show(0)
    rig.queries.publish(QueryPoints(ids=[5], u=[20.0], v=[20.0]))
    robot.show(*range(1, 12))
    rig.until(lambda: len(rig.heard["/vggt/odometry"]) == 12, "twelve poses")
    segments = {stamp_ns(msg.header.stamp): msg.segment for msg in rig.heard["/vggt/tracks"]}
    assert segments.pop(START + 8 * PERIOD) == 1 and set(segments.values()) == {0}
    unsure = [msg.pose.covariance[0] >= UNKNOWN for msg in rig.heard["/vggt/odometry"]]
    assert unsure == [i == 8 for i in range(12)]
    said = rig.until_diagnosed("a window does not fit the map", "segment 1 begins")
    assert said["joints refused"] == "1" and said["segment"] == "0"  # the next one returned


def odometry_of_a_drive(rig: Rig) -> tuple[Drive, list[Odometry]]:
    """Twelve frames at a known scale, and what the node says of them on ~/odometry."""
    robot = Drive(rig, frames=12)
    robot.start(tf_mode="none", scale_source="fixed", fixed_scale=1.0)
    rig.listen("/vggt/odometry", Odometry)
    rig.until(lambda: subscribers(rig, "/vggt/odometry"), "a listener")
    robot.show(*range(12))
    rig.until(lambda: len(rig.heard["/vggt/odometry"]) == 12, "twelve messages")
    return robot, list(rig.heard["/vggt/odometry"])


def test_odometry_out_has_a_covariance_that_grows(rig: Rig):
    _, heard = odometry_of_a_drive(rig)
    first, last = heard[1], heard[-1]
    assert (last.header.frame_id, last.child_frame_id) == ("vggt_world", "base_link")
    covariances = [np.reshape(m.pose.covariance, (6, 6)) for m in (first, last)]
    for covariance in covariances:
        np.testing.assert_allclose(covariance, covariance.T)
        assert np.linalg.eigvalsh(covariance).min() > 0
    assert np.trace(covariances[1]) > np.trace(covariances[0])


def test_odometry_out_says_how_fast_the_body_moves(rig: Rig):
    robot, heard = odometry_of_a_drive(rig)
    twists = [msg.twist for msg in heard]
    assert np.diag(np.reshape(twists[0].covariance, (6, 6))).tolist() == [1e6] * 6
    unit = robot.units_per_metre(twelfth := len(twists) - 1)
    before, now = robot.base[twelfth - 1], robot.base[twelfth]
    true = logarithm(inverse_rigid(before) @ now) * 1e9 / PERIOD
    linear, angular = twists[-1].twist.linear, twists[-1].twist.angular
    found = np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])
    np.testing.assert_allclose(found[:3] / unit, true[:3], atol=0.1)  # of 1.5 m/s ahead
    np.testing.assert_allclose(found[3:], true[3:], atol=0.1)  # of 0.8 rad/s
    variances = np.diag(np.reshape(twists[-1].covariance, (6, 6)))
    assert (variances > 0).all() and (variances < 0.3).all()


def test_the_map_is_latched_and_saved(rig: Rig, tmp_path):
    robot = Drive(rig, frames=12, faults=NONE)
    path = tmp_path / "there" / "map.ply"
    robot.start(tf_mode="none", map_path=str(path), map_period=0.1)
    rig.listen("/vggt/map_points", PointCloud2, latched=True)
    rig.until(lambda: subscribers(rig, "/vggt/map_points"), "a listener")
    robot.show(*range(12))
    rig.until(lambda: rig.heard["/vggt/map_points"], "a map")
    cloud = rig.heard["/vggt/map_points"][-1]
    assert cloud.header.frame_id == "vggt_world" and cloud.width > 1000 and cloud.point_step == 20
    client = rig.robot.create_client(Trigger, "/vggt/save_map")
    assert client.wait_for_service(10.0)
    future = client.call_async(Trigger.Request())
    rig.until(future.done, "the map is saved")
    answer = future.result()
    assert answer is not None and answer.success and str(path) in answer.message
    assert path.read_bytes().startswith(b"ply\nformat binary_little_endian")


def test_gravity_levels_the_world_of_a_tilted_camera(rig: Rig):
    robot = Drive(rig, faults=NONE)
    imu = rig.robot.create_publisher(Imu, "/imu", 10)
    robot.start(described=False, tf_mode="none")
    rig.until(lambda: imu.get_subscription_count() == 1, "imu is subscribed")
    up = np.array([0.2, -0.9, -0.3])
    msg = Imu(header=header(START, CAMERA))
    axis = msg.linear_acceleration
    axis.x, axis.y, axis.z = (9.81 * up / np.linalg.norm(up)).tolist()
    node = rig.node
    assert node is not None
    for _ in range(3):
        imu.publish(msg)
    rig.until(lambda: len(node.robot._up) == 3, "gravity arrives")
    rig.listen("/vggt/pose", PoseStamped)
    rig.until(lambda: subscribers(rig, "/vggt/pose"), "a listener")
    robot.show(0)
    rig.until(lambda: rig.heard["/vggt/pose"], "a pose")
    pose = rig.heard["/vggt/pose"][0].pose
    found = pose_of(pose.position, pose.orientation)
    np.testing.assert_allclose(found[:3, :3], alignment.upright(up)[:3, :3], atol=1e-6)


# ---- without a graph ----------------------------------------------------------------------------


def _transform(parent, child, ns, x):
    pose = np.eye(4)
    pose[0, 3] = x
    return transform_message(header(ns, parent), child, pose)


def test_the_cache_interpolates_and_never_extends():
    tree = TfCache()
    tree.add([_transform("base", "camera", 0, 1.0)], is_static=True)
    tree.add([_transform("odom", "base", ns, ns / 100) for ns in (200, 100)], is_static=False)
    found = tree.lookup("odom", "camera", 150)
    assert found is not None and found[0, 3] == pytest.approx(2.5)
    assert tree.lookup("odom", "camera", 201) is None
    assert tree.lookup("odom", "camera", 99) is None
    assert tree.lookup("map", "camera", 150) is None
    back = tree.lookup("camera", "odom", 150)
    assert back is not None and back[0, 3] == pytest.approx(-2.5)


def test_what_never_comes_is_waited_for_a_few_times_and_costs_others_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
):
    slept: list[float] = []
    clock = SimpleNamespace(sleep=slept.append, monotonic=lambda: sum(slept))
    monkeypatch.setattr(tf_cache, "time", clock)
    frames = tf_cache.Frames(rig.robot, TFMessage, wait=0.1)
    waits = []
    for target in (*["map"] * 8, "odom"):
        before = sum(slept)
        assert frames.late(target, "base", 1) is None
        waits.append(round(sum(slept) - before, 3))
    assert min(waits[:5]) >= 0.1 and max(waits) < 0.11 and waits[5:8] == [0, 0, 0]
    assert waits[8] >= 0.1  # another transform has patience of its own
    frames.tree.add([_transform("map", "base", 0, 1.0)], is_static=True)
    assert frames.late("map", "base", 1) is not None


def test_the_cache_forgets_after_ten_seconds_and_survives_a_loop():
    tree = TfCache()
    for second in range(30):
        tree.add([_transform("odom", "base", second * 10**9, 0.0)], is_static=False)
    assert tree.stamps("base")[0] == 19 * 10**9
    tree.add([_transform("base", "odom", 29 * 10**9, 0.0)], is_static=False)
    assert tree.lookup("odom", "nowhere", 29 * 10**9) is None


def test_depth_images_of_other_sensors_become_metres():
    millimetres = np.array([[0, 1500], [2000, 65535]], np.uint16)
    msg = Image(height=2, width=2, encoding="16UC1", step=4, data=millimetres.tobytes())
    depth = metres_from_image(msg, (2, 2))
    assert np.isnan(depth[0, 0]) and depth[0, 1] == pytest.approx(1.5)


def test_clouds_of_other_sensors_become_points():
    points = np.arange(12, dtype=np.float32).reshape(1, 4, 3)
    msg = cloud_message(
        header(1, "lidar"), points, np.zeros((1, 4, 3), np.uint8), np.ones((1, 4), np.float32)
    )
    np.testing.assert_array_equal(points_from(msg), points[0])
