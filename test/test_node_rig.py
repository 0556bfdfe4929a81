# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Several cameras through topics: instants, stamps, outputs by camera, and one body on /tf."""

import cv2
import numpy as np
import pytest
from fakes.room import BASE_FROM_CAMERA, numbered_image
from nav_msgs.msg import OccupancyGrid, Odometry, Path
from node_rig import PERIOD, Rig
from rclpy.parameter import Parameter
from rig_robot import NAMES, START, RigRobot
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from tf2_msgs.msg import TFMessage
from vggt_ros.msg import MapStatus, PointTracks, QueryPoints

from vggt_ros.ros.messages import header, stamp_ns

pytestmark = [pytest.mark.ros, pytest.mark.slow]

MS = 1_000_000
OFFSETS = (0, 3 * MS + 7, -9 * MS)  # of the cameras' stamps


def settle(robot: RigRobot, *names: str) -> None:
    """Wait until nothing of these cameras waits or is being inferred; of all if none is named."""

    def settled() -> bool:
        return all(robot.account(name)["in hand"] == 0 for name in names or robot.names)

    robot.rig.wait_until(settled, "all images are accounted for")


def check_accounts(robot: RigRobot, **published: int) -> None:
    """Each image that was published has become exactly one thing."""
    settle(robot)
    for name in robot.names:
        counts = robot.account(name)
        received = counts.pop("received")
        assert received == published[name] == sum(counts.values()), (name, counts)


def check_instants(robot: RigRobot) -> None:
    """In each inference the images of one number stand together, in the cameras' order."""
    assert robot.engine.inferences
    for images in robot.engine.inferences:
        shown = [each for each in images if each in images]
        numbers = [i for i, _ in shown]
        assert numbers == sorted(numbers), images
        for number in set(numbers):
            cameras = [camera for i, camera in shown if i == number]
            assert cameras == sorted(set(cameras)), images


def test_the_rate_of_a_rig_can_change_at_run_time(rig: Rig):
    robot = RigRobot(rig, NAMES[:2])
    node = robot.start(tf_mode="none", max_rate_hz=0.01)
    robot.infer(0)
    for name in robot.names:
        robot.publish(name, 1)
    rig.wait_until(lambda: robot.account(NAMES[0])["skipped"] == 1, "the second is skipped")
    node.set_parameters([Parameter("max_rate_hz", value=0.0)])
    robot.infer(2, 3)


@pytest.mark.parametrize("names", [NAMES[:2], NAMES])
def test_instants_are_inferred_together_and_every_output_has_its_camera_s_stamp(
    rig: Rig, names: tuple[str, ...]
):
    robot = RigRobot(rig, names)
    depths = {n: rig.subscribe(f"/vggt/{n}/depth/image", Image) for n in names}
    infos = {n: rig.subscribe(f"/vggt/{n}/depth/camera_info", CameraInfo) for n in names}
    points = {n: rig.subscribe(f"/vggt/{n}/points", PointCloud2) for n in names}
    robot.start(tf_mode="none")
    robot.calibrate(*names)
    for name in names:
        rig.wait_until(
            lambda n=name: rig.publisher(f"/vggt/{n}/points").get_subscription_count(), "matched"
        )
    robot.infer(*range(8), offsets_ns=OFFSETS[: len(names)])
    for k, name in enumerate(names):
        expected = [START + i * PERIOD + OFFSETS[k] for i in range(8)]
        for found in (depths, infos, points):
            rig.wait_until(lambda f=found, n=name: len(f[n]) >= 8, f"outputs of {name}")
            assert [stamp_ns(msg.header.stamp) for msg in found[name]] == expected
            assert {msg.header.frame_id for msg in found[name]} == {robot.frame(name)}
    check_instants(robot)
    assert len(robot.engine.inferences[-1]) == 4 * len(names)
    check_accounts(robot, **dict.fromkeys(names, 8))
    report = rig.wait_for_diagnostics("8, 8 of them with all cameras", inferences="8")
    assert report["images of front"].startswith("8 received = 8 used + 0 unpaired + 0 dropped")


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_each_camera_may_have_a_transport_of_its_own(rig: Rig, transport: str):
    """One raw, one compressed beside where it is raw, one remapped to the compressed topic."""
    robot = RigRobot(rig)
    for name, topic in (("left", "/left/image/compressed"), ("right", "/right/jpeg/compressed")):
        rig.peer.destroy_publisher(robot.images[name])
        robot.images[name] = rig.peer.create_publisher(CompressedImage, topic, 10)
    remapped = ("-r", "right/image:=/right/jpeg/compressed")
    robot.start(tf_mode="none", image_transport=transport, arguments=remapped)
    for i in range(3):
        robot.publish("front", i)
        for name in NAMES[1:]:
            png = cv2.imencode(".png", numbered_image(i, camera=NAMES.index(name))[..., ::-1])[1]
            head = header(START + i * PERIOD, robot.frame(name))
            msg = CompressedImage(header=head, format="rgb8; png compressed bgr8")
            msg.data.frombytes(png.tobytes())
            robot.images[name].publish(msg)
        rig.wait_until(lambda n=i: rig.count("inferences") > n, f"instant {i}")
    assert robot.engine.inferences[-1] == [(i, camera) for i in range(3) for camera in range(3)]
    check_accounts(robot, **dict.fromkeys(NAMES, 3))
    report = rig.wait_for_diagnostics("left_optical, compressed", "right_optical, compressed")
    assert report["images of front"].endswith("front_optical, raw")


def test_a_dead_camera_is_left_out_and_named_and_comes_back(rig: Rig):
    robot = RigRobot(rig)
    node = robot.start(tf_mode="none")
    robot.infer(*range(4))
    for i in range(4, 20):
        for name in ("front", "left"):
            robot.publish(name, i)
    words = "right: left out: no image for 1.5 s of the other cameras' time (4 of its 4 images"
    rig.wait_for_diagnostics(words)
    settle(robot)
    assert rig.count("inferences") > 4
    robot.infer(*range(20, 24))
    rig.wait_until(lambda: "right: left out" not in rig.diagnostics()["/vggt: input"], "it ends")
    check_instants(robot)
    settle(robot)
    counts = robot.account("right")
    assert counts["unpaired"] == 1, "the first that came again, and no other"
    assert counts["used"] + counts["dropped"] == 7 and counts["used"] > 4
    check_accounts(robot, front=24, left=24, right=8)
    assert node.inference.pipeline.map.keyframes.store.snapshot().segments.max(initial=0) == 0


def test_one_transform_of_the_body_and_no_second_parent(rig: Rig):
    robot = RigRobot(rig)
    transforms = rig.subscribe("/tf", TFMessage)
    paths, odometry = rig.subscribe("/vggt/path", Path), rig.subscribe("/vggt/odometry", Odometry)
    status = rig.subscribe("/vggt/status", MapStatus, latched=True)
    robot.start(tf_mode="odom_to_base")
    for topic in ("/vggt/path", "/vggt/odometry", "/vggt/status"):
        rig.wait_until(lambda t=topic: rig.publisher(t).get_subscription_count(), "matched")
    robot.infer(*range(6), offsets_ns=OFFSETS)
    rig.wait_until(lambda: len(odometry) >= 6 and paths and len(paths[-1].poses) >= 6, "poses")
    stamps = [START + i * PERIOD for i in range(6)]
    assert [stamp_ns(p.header.stamp) for p in paths[-1].poses] == stamps
    assert [stamp_ns(m.header.stamp) for m in odometry] == stamps
    assert {m.child_frame_id for m in odometry} == {"base_link"}
    assert stamp_ns(status[-1].header.stamp) == stamps[-1]
    links: dict[str, set[str]] = {}
    for found in [t for msg in transforms for t in msg.transforms]:
        links.setdefault(found.child_frame_id, set()).add(found.header.frame_id)
    assert links == {"base_link": {"odom"}, "vggt_world": {"odom"}}
    at = np.array([[p.pose.position.x, p.pose.position.y] for p in paths[-1].poses])
    true = (robot.base[:6] @ BASE_FROM_CAMERA)[:, :2, 3]
    moved = np.linalg.norm(at[-1] - at[0]) / np.linalg.norm(true[-1] - true[0])
    assert moved == pytest.approx(1.0, abs=0.05), "metres, by the rig's own baselines"


def test_without_tf_the_reference_camera_is_tied_to_the_world(rig: Rig):
    robot = RigRobot(rig)
    transforms = rig.subscribe("/tf", TFMessage)
    robot.start(described=(), tf_mode="auto")
    robot.infer(*range(4))
    rig.wait_until(lambda: len(transforms) >= 4, "transforms")
    links = {(t.header.frame_id, t.child_frame_id) for m in transforms for t in m.transforms}
    assert links == {("vggt_world", "front_optical"), ("vggt_world", "vggt_odom")}


def test_heights_are_known_where_the_last_camera_is_not_described(rig: Rig):
    robot = RigRobot(rig)
    robot.start(described=("front", "left"), map_period=0.1, scan_min_height=-1.0)
    grids = rig.subscribe_matched("/vggt/occupancy", OccupancyGrid, latched=True)
    robot.infer(*range(12))
    rig.wait_until(lambda: grids, "a grid")
    assert 100 in grids[-1].data


def test_a_query_names_its_camera_and_tracks_name_theirs(rig: Rig):
    robot = RigRobot(rig)
    tracks = rig.subscribe("/vggt/tracks", PointTracks)
    robot.start(tf_mode="none")
    rig.wait_until(lambda: rig.publisher("/vggt/tracks").get_subscription_count(), "matched")
    robot.infer(0, 1)
    query = QueryPoints(header=header(START + PERIOD, "left_optical"), ids=[7], u=[40.0], v=[30.0])
    rig.queries.publish(query)
    rig.wait_for_diagnostics("tracks 1 point")
    robot.infer(2)
    rig.wait_until(lambda: tracks, "tracks")
    msg = tracks[-1]
    assert list(msg.ids) == [7] and len(msg.u) == len(msg.stamps) == len(msg.cameras) == 9
    assert list(msg.cameras) == 3 * [robot.frame(name) for name in NAMES]
    u = dict(zip(zip(msg.cameras, map(stamp_ns, msg.stamps), strict=True), msg.u, strict=True))
    assert u["left_optical", START + PERIOD] == pytest.approx(80.01, abs=0.1)  # of the oracle


def test_a_query_of_a_camera_that_is_not_there_is_refused(rig: Rig):
    robot = RigRobot(rig)
    robot.start(tf_mode="none")
    robot.infer(0)
    rig.queries.publish(QueryPoints(header=header(0, "rear_optical"), ids=[7], u=[9.0], v=[9.0]))
    rig.wait_until(lambda: rig.refused, "a refusal")
    rig.wait_for_diagnostics("rear_optical")


def test_a_recording_that_is_played_again_starts_one_new_map(rig: Rig):
    robot = RigRobot(rig)
    node = robot.start(tf_mode="none")
    robot.infer(*range(10, 14))
    for i in range(9):
        for name in NAMES:
            robot.publish(name, i)
    rig.wait_for_diagnostics("right, the last of the cameras: time went back: a new map starts")
    notices = node.health.snapshot().notices
    assert sum(n for kind, n in notices.items() if "the last of the cameras" in kind) == 1
    robot.infer(9)
    check_accounts(robot, **dict.fromkeys(NAMES, 14))
    assert robot.account("front")["refused"] == 5


def test_a_reset_empties_window_and_map(rig: Rig):
    robot = RigRobot(rig)
    robot.start(tf_mode="none")
    robot.infer(*range(4))
    assert rig.call("reset").success
    robot.infer(1)
    assert [i for i, _ in robot.engine.inferences[-1]] == [1, 1, 1]
    check_accounts(robot, **dict.fromkeys(NAMES, 5))
