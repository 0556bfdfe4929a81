# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node on a robot: transforms, odometry, map and gravity over topics, on an erring network."""

from types import SimpleNamespace

import numpy as np
import pytest
from fakes.oracle import NONE, Faults
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
from node_rig import CAMERA, PERIOD, Rig
from robot_rig import START, SimulatedRobot
from sensor_msgs.msg import Image, Imu, PointCloud2, PointField
from tf2_msgs.msg import TFMessage
from vggt_ros.msg import PointTracks, QueryPoints

from vggt_ros.errors import UserError
from vggt_ros.geometry import inverse_rigid
from vggt_ros.mapping.velocity import rigid_logarithm
from vggt_ros.mapping.window import upright_camera
from vggt_ros.ros.messages import cloud_message, header, stamp_ns, transform_message
from vggt_ros.ros.sensors.depth_messages import depth_from_image, points_from
from vggt_ros.ros.tf import tf_cache
from vggt_ros.ros.tf.tf_cache import TfCache, pose_of

pytestmark = pytest.mark.ros


# ---- transforms ---------------------------------------------------------------------------------


MODES = {
    "none": ("odom", CAMERA, {}),
    "camera": ("vggt_world", "seen_by_vggt", {"camera_frame": "seen_by_vggt"}),
    "odom_to_base": ("odom", CAMERA, {}),
    "map_to_odom": ("map", CAMERA, {"world_frame": "map"}),
}


@pytest.mark.parametrize("mode", MODES)
def test_the_camera_s_place_is_known_at_the_stamp_of_every_depth(rig: Rig, mode: str):
    target, camera, parameters = MODES[mode]
    robot = SimulatedRobot(rig)
    robot.start(tf_mode=mode, **parameters)
    robot.infer(*range(8), tf=mode != "odom_to_base")
    rig.wait_until(lambda: len(robot.depths) == 8, "eight depths")
    for depth in robot.depths:
        ns = stamp_ns(depth.header.stamp)
        rig.wait_until(lambda ns=ns: robot.tree.lookup(target, camera, ns) is not None, f"{ns}")
    parents = {(t.child_frame_id, t.header.frame_id) for t in robot.transforms}
    assert len(parents) == len({child for child, _ in parents}), "no frame has two parents"
    sent = [(t.child_frame_id, stamp_ns(t.header.stamp)) for t in robot.transforms]
    assert len(sent) == len(set(sent)), "every stamp is sent once"


def test_map_to_odom_starts_as_identity_and_corrects_odometry(rig: Rig):
    robot = SimulatedRobot(rig, "room", 20, NONE)
    robot.start(tf_mode="map_to_odom", world_frame="map", scale_source="fixed", fixed_scale=1.0)
    robot.infer(*range(20))
    rig.wait_until(lambda: len(robot.stamps_of("map", "odom")) == 20, "twenty transforms")
    first = robot.tree.lookup("map", "odom", START)
    np.testing.assert_allclose(first, np.eye(4), atol=1e-3)
    last = robot.tree.lookup("map", "base_link", START + 19 * PERIOD)
    truth = inverse_rigid(robot.base[0]) @ robot.base[19]
    np.testing.assert_allclose(last, truth, atol=5e-3)


def test_odom_to_base_is_off_where_another_node_publishes_it(rig: Rig):
    robot = SimulatedRobot(rig)
    robot.start(tf_mode="odom_to_base")
    robot.infer(0, 1, 2)
    rig.wait_for_diagnostics("off: base_link already has parent odom")
    assert robot.stamps_of("odom", "base_link") == [START + i * PERIOD for i in range(3)]


def test_missing_transforms_are_reported_and_do_not_stop_depth(rig: Rig):
    robot = SimulatedRobot(rig)
    robot.start(described=False, tf_mode="map_to_odom", tf_wait=0.05)
    robot.infer(0, 1, tf=False)
    rig.wait_for_diagnostics("late: odom -> camera_optical is not known")
    rig.wait_until(lambda: robot.depths, "depth")
    assert robot.stamps_of("vggt_world", "odom") == []


def test_a_late_transform_is_waited_for(rig: Rig):
    robot = SimulatedRobot(rig)
    robot.start(tf_mode="map_to_odom", tf_wait=5.0)
    robot.infer(0)
    ns = START + PERIOD
    robot.publish_image(1)
    rig.wait_until(lambda: len(robot.engine.inferences) == 2, "inference")  # the wait starts
    assert rig.count("inferences") == 1 and robot.stamps_of("vggt_world", "odom") == [START]
    robot.publish_transform(1)
    rig.wait_until(lambda: robot.stamps_of("vggt_world", "odom") == [START, ns], "a transform")


# ---- segments and odometry ----------------------------------------------------------------------


def test_a_refused_window_is_reported_with_its_segment(rig: Rig):
    robot = SimulatedRobot(rig, frames=12, faults=Faults(broken={8: "nonsense"}))
    robot.start(tf_mode="none")
    tracks = rig.subscribe_matched("/vggt/tracks", PointTracks)
    odometry = rig.subscribe_matched("/vggt/odometry", Odometry)
    robot.infer(0)
    rig.queries.publish(QueryPoints(ids=[5], u=[20.0], v=[20.0]))
    robot.infer(*range(1, 12))
    rig.wait_until(lambda: len(odometry) == 12, "twelve poses")
    rig.wait_until(lambda: len(tracks) == 11, "eleven tracks")
    assert {msg.segment for msg in tracks} == {0}, "one refused window starts no segment"
    variances = np.array([msg.pose.covariance[21] for msg in odometry])  # of rotation about x
    assert variances[8] > 3.0 * max(variances[7], variances[9]), "it was predicted, not measured"
    assert np.isfinite(variances).all()
    words = "a window does not fit the map", "windows refused 1"
    rig.wait_for_diagnostics(*words, inferences="12", segment="0")


def odometry_of_a_drive(rig: Rig) -> tuple[SimulatedRobot, list[Odometry]]:
    """Twelve frames at a known scale, and the node's messages on ~/odometry."""
    robot = SimulatedRobot(rig, frames=12)
    robot.start(tf_mode="none", scale_source="fixed", fixed_scale=1.0)
    odometry = rig.subscribe_matched("/vggt/odometry", Odometry)
    robot.infer(*range(12))
    rig.wait_until(lambda: len(odometry) == 12, "twelve messages")
    return robot, odometry


def test_published_odometry_has_a_covariance_that_grows(rig: Rig):
    _, received = odometry_of_a_drive(rig)
    first, last = received[1], received[-1]
    assert (last.header.frame_id, last.child_frame_id) == ("vggt_odom", "base_link")
    covariances = [np.reshape(m.pose.covariance, (6, 6)) for m in (first, last)]
    for covariance in covariances:
        np.testing.assert_allclose(covariance, covariance.T)
        assert np.linalg.eigvalsh(covariance).min() > 0
    assert np.trace(covariances[1]) > np.trace(covariances[0])


def test_published_odometry_has_the_velocity_of_the_base(rig: Rig):
    robot, received = odometry_of_a_drive(rig)
    twists = [msg.twist for msg in received]
    assert np.diag(np.reshape(twists[0].covariance, (6, 6))).tolist() == [1e6] * 6
    unit = robot.units_per_metre(last := len(twists) - 1)
    true = rigid_logarithm(inverse_rigid(robot.base[last - 1]) @ robot.base[last]) * 1e9 / PERIOD
    linear, angular = twists[-1].twist.linear, twists[-1].twist.angular
    found = np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])
    np.testing.assert_allclose(found[:3] / unit, true[:3], atol=0.1)  # of 1.5 m/s ahead
    np.testing.assert_allclose(found[3:], true[3:], atol=0.1)  # of 0.8 rad/s
    variances = np.diag(np.reshape(twists[-1].covariance, (6, 6)))
    assert (variances > 0).all() and (variances < 0.3).all()


# ---- map and gravity ----------------------------------------------------------------------------


def test_the_map_is_latched_and_saved(rig: Rig, tmp_path):
    robot = SimulatedRobot(rig, frames=12, faults=NONE)
    path = tmp_path / "there" / "map.ply"
    robot.start(tf_mode="none", map_path=str(path), map_period=0.1)
    maps = rig.subscribe_matched("/vggt/map_points", PointCloud2, latched=True)
    robot.infer(*range(12))
    rig.wait_until(lambda: maps and maps[-1].width > 1000, "a map")
    assert maps[-1].header.frame_id == "vggt_world" and maps[-1].point_step == 20
    response = rig.call("save_map")
    assert response.success and str(path) in response.message
    assert path.read_bytes().startswith(b"ply\nformat binary_little_endian")


def test_gravity_levels_the_world_of_a_tilted_camera(rig: Rig):
    robot = SimulatedRobot(rig, faults=NONE)
    imu = rig.peer.create_publisher(Imu, "/imu", 10)
    node = robot.start(described=False, tf_mode="none")
    rig.wait_until(lambda: imu.get_subscription_count() == 1, "imu is subscribed")
    up = np.array([0.2, -0.9, -0.3])
    msg = Imu(header=header(START, CAMERA))
    axis = msg.linear_acceleration
    axis.x, axis.y, axis.z = (9.81 * up / np.linalg.norm(up)).tolist()
    for _ in range(3):
        imu.publish(msg)
    rig.wait_until(lambda: node.robot.gravity.samples == 3, "gravity arrives")
    node.robot.forget_from(START + 1)  # time went back to a later stamp: all is as it was
    poses = rig.subscribe_matched("/vggt/pose", PoseStamped)
    robot.infer(0)
    rig.wait_until(lambda: poses, "a pose")
    found = pose_of(poses[0].pose.position, poses[0].pose.orientation)
    np.testing.assert_allclose(found[:3, :3], upright_camera(up)[:3, :3], atol=1e-6)
    node.robot.forget_from(START)
    assert node.robot.gravity.samples == 0, "of a time that is to come again"


# ---- without a node -----------------------------------------------------------------------------


def transform_along_x(parent: str, child: str, ns: int, x: float):
    pose = np.eye(4)
    pose[0, 3] = x
    return transform_message(header(ns, parent), child, pose)


def test_the_cache_interpolates_and_never_extrapolates():
    tree = TfCache()
    tree.add([transform_along_x("base", "camera", 0, 1.0)], is_static=True)
    moving = [transform_along_x("odom", "base", ns, ns / 100) for ns in (200, 100)]
    tree.add(moving, is_static=False)
    found = tree.lookup("odom", "camera", 150)
    assert found is not None and found[0, 3] == pytest.approx(2.5)
    assert tree.lookup("odom", "camera", 201) is None
    assert tree.lookup("odom", "camera", 99) is None
    assert tree.lookup("map", "camera", 150) is None
    back = tree.lookup("camera", "odom", 150)
    assert back is not None and back[0, 3] == pytest.approx(-2.5)


def test_a_missing_transform_is_waited_for_a_few_times_only(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
):
    slept: list[float] = []
    clock = SimpleNamespace(sleep=slept.append, monotonic=lambda: sum(slept))
    monkeypatch.setattr("vggt_ros.ros.waiting.time", clock)
    frames = tf_cache.Frames(rig.peer, TFMessage, wait=0.1)
    waits = []
    for target in (*["map"] * 8, "odom"):
        before = sum(slept)
        assert frames.wait_for(target, "base", 1) is None
        waits.append(round(sum(slept) - before, 3))
    assert min(waits[:5]) >= 0.1 and max(waits) < 0.11 and waits[5:8] == [0, 0, 0]
    assert waits[8] >= 0.1, "another transform has waits of its own"
    frames.tree.add([transform_along_x("map", "base", 0, 1.0)], is_static=True)
    assert frames.wait_for("map", "base", 1) is not None


def test_the_cache_keeps_ten_seconds_and_a_loop_of_frames_does_not_hang_it():
    tree = TfCache()
    for second in range(30):
        tree.add([transform_along_x("odom", "base", second * 10**9, 0.0)], is_static=False)
    assert tree.stamps("base")[0] == 19 * 10**9
    tree.add([transform_along_x("base", "odom", 29 * 10**9, 0.0)], is_static=False)
    assert tree.lookup("odom", "nowhere", 29 * 10**9) is None


def test_depth_images_of_other_sensors_become_metres():
    millimetres = np.array([[0, 1500], [2000, 65535]], np.uint16)
    msg = Image(height=2, width=2, encoding="16UC1", step=4, data=millimetres.tobytes())
    depth = depth_from_image(msg)
    assert np.isnan(depth[0, 0]) and depth[0, 1] == pytest.approx(1.5)


def test_clouds_of_other_sensors_become_points():
    points = np.arange(12, dtype=np.float32).reshape(1, 4, 3)
    msg = cloud_message(
        header(1, "lidar"), points, np.zeros((1, 4, 3), np.uint8), np.ones((1, 4), np.float32)
    )
    np.testing.assert_array_equal(points_from(msg), points[0])


@pytest.mark.parametrize("kind, number", [("f4", 7), ("f8", 8), ("i2", 3), ("u4", 6)])
@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("big", [False, True])
def test_organised_clouds_of_any_type_and_padding_become_points(kind, number, padding, big):
    dtype = np.dtype((">" if big else "<") + kind)
    layout = np.dtype(
        {"names": list("xyz"), "formats": [dtype] * 3, "offsets": [2, 10, 18], "itemsize": 28}
    )
    values = np.arange(2 * 3 * 3).reshape(2, 3, 3)
    rows = np.zeros((2, 3), layout)
    for axis, name in enumerate("xyz"):
        rows[name] = values[..., axis]
    data = b"".join(row.tobytes() + bytes(padding) for row in rows)
    msg = PointCloud2(
        height=2, width=3, is_bigendian=big, point_step=28, row_step=3 * 28 + padding, data=data,
        fields=[
            PointField(name=name, offset=offset, datatype=number, count=1)
            for name, offset in zip("xyz", (2, 10, 18), strict=True)
        ],
    )  # fmt: skip
    np.testing.assert_array_equal(points_from(msg), values.reshape(-1, 3))
    msg.data = msg.data[: 3 * 28 + padding + 3 * 28 - 1]
    with pytest.raises(UserError, match="less data"):
        points_from(msg)
    msg.fields = msg.fields[:2]
    with pytest.raises(UserError, match="no field z"):
        points_from(msg)
