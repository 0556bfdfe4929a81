# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node on live topics: what goes out, in which order, and only for someone."""

from collections import deque
from collections.abc import Iterator
from threading import Event
from typing import Any

import numpy as np
import pytest
from node_rig import DEADLINE, DEPTH, INPUT, PERIOD, SIZE, START, STEP, TOPICS, Rig
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from vggt_ros.msg import QueryPoints

from vggt_ros.frames import Update
from vggt_ros.geometry import Similarity
from vggt_ros.imaging.grid import grid_for
from vggt_ros.mapping.alignment import Join
from vggt_ros.ros.inputs import Sizes
from vggt_ros.ros.messages import stamp_ns

K = np.array([[60.0, 0, 33], [0, 62, 25], [0, 0, 1]])  # of the input picture


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def picture(msg) -> np.ndarray:
    """A depth-like image as an array."""
    return np.frombuffer(msg.data, "<f4").reshape(msg.height, msg.width)


def matrix(msg) -> np.ndarray:
    return np.reshape(msg.k, (3, 3))


def test_every_output_is_there_with_the_input_s_very_header(rig: Rig):
    rig.start(world_frame="map")
    rig.listen_to_all()
    rig.queries.publish(QueryPoints(ids=[5], u=[40.0], v=[20.0]))
    rig.show_and_wait(0, 1, 2)
    rig.until(lambda: all(len(rig.heard[topic]) >= 2 for topic in TOPICS), "every topic speaks")
    sent = rig.show(3).header
    rig.until(
        lambda: all(_newest_stamp(rig.heard[t][-1]) == stamp_ns(sent.stamp) for t in TOPICS),
        "every topic follows",
    )
    for topic in TOPICS:
        newest = rig.heard[topic][-1]
        if topic in ("/vggt/pose", "/vggt/path", "/vggt/window_points"):
            assert newest.header.frame_id == "map", topic
            assert newest.header.stamp == sent.stamp, topic
        elif topic != "/tf":
            assert newest.header == sent, topic
    assert [stamp_ns(pose.header.stamp) for pose in rig.heard["/vggt/path"][-1].poses] == [
        START + i * PERIOD for i in range(4)
    ]


def _newest_stamp(msg) -> int:
    head = msg.transforms[-1].header if hasattr(msg, "transforms") else msg.header
    return stamp_ns(head.stamp)


def test_geometry_is_that_of_the_wall(rig: Rig):
    """Depth, clouds and pose agree with each other and with the truth."""
    rig.start()
    rig.listen_to_all()
    rig.show_and_wait(0, 1, 2, 3)
    rig.until(lambda: len(rig.heard["/vggt/window_points"]) == 4, "the window's cloud")
    rig.until(lambda: len(rig.heard["/vggt/points"]) == 4, "the cloud")
    info, depth = rig.heard["/vggt/depth/camera_info"][-1], rig.heard["/vggt/depth/image"][-1]
    assert (depth.height, depth.width) == (info.height, info.width) == SIZE
    np.testing.assert_allclose(picture(depth), DEPTH, rtol=1e-5)
    cloud = rig.heard["/vggt/points"][-1]
    assert (cloud.height, cloud.width, cloud.is_dense) == (*SIZE, False)
    xyz = np.frombuffer(cloud.data, "<f4").reshape(*SIZE, 5)[..., :3]
    k = matrix(info)
    corner = [(9 - k[0, 2]) / k[0, 0] * DEPTH, (7 - k[1, 2]) / k[1, 1] * DEPTH, DEPTH]
    np.testing.assert_allclose(xyz[7, 9], corner, rtol=1e-5)
    position = rig.heard["/vggt/pose"][-1].pose.position
    np.testing.assert_allclose([position.x, position.y, position.z], [0, -3 * STEP, 0], atol=1e-5)
    window = rig.heard["/vggt/window_points"][-1]
    assert (window.height, window.is_dense) == (1, True)
    world = np.frombuffer(window.data, "<f4").reshape(-1, 5)[:, :3]
    assert len(world) == 4 * (SIZE[0] // 3) * -(-SIZE[1] // 3)
    np.testing.assert_allclose(world[:, 0], DEPTH, rtol=1e-5)  # x is ahead: the wall stands there


def test_a_transform_comes_before_the_depth_of_its_stamp_and_never_twice(rig: Rig):
    rig.start(stride=2, window_size=4)
    rig.listen_to_all()
    for i in range(9):
        rig.show(i)
        rig.until(lambda n=i: rig.count("used") == n + 1, "the frame is used")
    rig.until(lambda: len(rig.heard["/tf"]) >= 4, "transforms")
    sent = [stamp_ns(t.header.stamp) for m in rig.heard["/tf"] for t in m.transforms]
    assert sent == sorted(set(sent)), "each stamp once, in order"
    known: set[int] = set()
    for _, topic, msg in sorted(rig.sent, key=lambda entry: entry[0]):
        if topic == "/tf":
            known |= {stamp_ns(t.header.stamp) for t in msg.transforms}
        elif topic in ("/vggt/depth/image", "/vggt/points"):
            assert stamp_ns(msg.header.stamp) in known


@pytest.mark.parametrize("camera_frame", ["", "vggt_camera"])
def test_the_transform_s_child_is_the_image_s_frame_or_camera_frame(rig: Rig, camera_frame: str):
    rig.start(tf_mode="camera", world_frame="map", camera_frame=camera_frame)
    rig.listen("/tf", TOPICS["/tf"])
    rig.until(lambda: rig.robot.count_subscribers("/tf") >= 2, "both listen to /tf")
    rig.show_and_wait(0)
    rig.until(lambda: rig.heard["/tf"], "a transform")
    (found,) = rig.heard["/tf"][0].transforms
    assert found.header.frame_id == "map"
    assert found.child_frame_id == (camera_frame or "camera_optical")


def test_a_camera_that_hangs_on_a_robot_gets_no_second_parent(rig: Rig):
    from geometry_msgs.msg import TransformStamped
    from rclpy.qos import QoSProfile
    from tf2_msgs.msg import TFMessage

    qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    static = rig.robot.create_publisher(TFMessage, "/tf_static", qos)
    mount = TransformStamped(child_frame_id="camera_optical")
    mount.header.frame_id = "camera_link"
    static.publish(TFMessage(transforms=[mount]))
    node = rig.start()
    rig.until(lambda: node.transforms._parents, "the node hears of the mount")
    rig.listen("/tf", TFMessage)
    rig.show_and_wait(0, 1)
    rig.until_diagnosed("already has the parent camera_link", "off: camera_optical")
    assert not rig.heard["/tf"]


def test_tf_mode_none_is_silent(rig: Rig):
    rig.start(tf_mode="none")
    rig.show_and_wait(0)
    rig.until_diagnosed("off: tf_mode is none")
    assert rig.robot.count_publishers("/tf") == 0


def test_outputs_are_reliable_the_path_is_latched_and_the_image_is_best_effort_of_depth_1(rig: Rig):
    rig.start(image_reliability="best_effort")
    for topic in TOPICS:
        (ours,) = rig.robot.get_publishers_info_by_topic(topic)
        assert ours.qos_profile.reliability == ReliabilityPolicy.RELIABLE, topic
        latched = ours.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
        assert latched == (topic == "/vggt/path"), topic
    (image,) = rig.robot.get_subscriptions_info_by_topic("/image")
    assert image.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT


def test_qos_may_be_overridden_from_outside(rig: Rig):
    override: dict[str, Any] = {"qos_overrides./vggt/points.publisher.reliability": "best_effort"}
    rig.start(**override)
    (ours,) = rig.robot.get_publishers_info_by_topic("/vggt/points")
    assert ours.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT


def test_nothing_is_built_that_nobody_subscribes_to(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    from vggt_ros.frames import View
    from vggt_ros.ros import clouds, messages

    def never(*_args, **_options):
        raise AssertionError("built for nobody")

    for module, names in (
        (messages, ("image_message", "camera_info_message", "cloud_message", "tracks_message")),
        (clouds, ("camera_points",)),
        (View, ("masked_depth",)),
    ):
        for name in names:
            monkeypatch.setattr(module, name, never)
    rig.start(tf_mode="none")
    rig.listen("/vggt/pose", TOPICS["/vggt/pose"])
    monkeypatch.setattr("node_rig.image_message", _plain_image)
    rig.show_and_wait(0, 1)
    assert rig.deaths == [] and "a look failed" not in str(rig.node.health._refused.counts)


def _plain_image(head, rgb):
    from sensor_msgs.msg import Image

    return Image(header=head, height=rgb.shape[0], width=rgb.shape[1], step=3 * rgb.shape[1],
                 encoding="rgb8", data=rgb.tobytes())  # fmt: skip


def test_a_late_listener_gets_the_path_that_is_there(rig: Rig):
    rig.start()
    rig.show_and_wait(0, 1, 2)
    rig.listen("/vggt/path", TOPICS["/vggt/path"], latched=True)
    rig.until(lambda: rig.heard["/vggt/path"], "the path without another image")
    assert len(rig.heard["/vggt/path"][-1].poses) == 3


@pytest.mark.parametrize(("segment", "moved"), [(0, [0, 1, 2]), (1, [1, 2])])
def test_the_path_of_a_segment_follows_its_scale(rig: Rig, segment: int, moved: list[int]):
    """The first segment's origin is the map's: with it goes all that was put beside it."""
    node = rig.start()
    rig.show_and_wait(0, 1, 2)
    outputs = node._outputs

    def centres() -> np.ndarray:
        return np.array([[p.x, p.y, p.z] for p in (at.pose.position for at in outputs._poses)])

    before, about = centres(), np.array([1.0, 2.0, 3.0])
    outputs._segments = deque([0, 1, 1])
    join = Join(Similarity.identity(), True, segment, 0.0, 1.0, np.eye(6), "")
    outputs._rescale_poses(Update((), 0, None, 3, join, {}, rescaled=2.0, about=about))
    expected = before.copy()
    expected[moved] = about + 2.0 * (before[moved] - about)
    np.testing.assert_allclose(centres(), expected)


def test_while_busy_the_newest_frame_wins_and_drops_are_counted(rig: Rig):
    rig.start()
    rig.show_and_wait(0)
    rig.wall.inside.clear()
    rig.wall.gate.clear()
    rig.show(1)
    rig.until(rig.wall.inside.is_set, "the look begins")
    for i in (2, 3, 4):
        rig.show(i)
    rig.wall.gate.set()
    rig.until(lambda: rig.count("looks") == 3, "a look at 0, 1 and the newest")
    assert rig.count("dropped") == 2
    rig.until_diagnosed("dropped 2")


@pytest.fixture
def slow(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """A started node whose publishing waits for this gate; open at first."""
    node = rig.start()
    gate = Event()
    gate.set()
    publish = node._outputs.publish

    def wait_and_publish(update):
        assert gate.wait(DEADLINE)
        publish(update)

    monkeypatch.setattr(node._outputs, "publish", wait_and_publish)
    yield gate
    gate.set()


def test_the_network_is_one_look_ahead_of_what_is_published_and_nothing_is_lost(rig: Rig, slow):
    rig.listen("/vggt/pose", TOPICS["/vggt/pose"])
    rig.until(lambda: rig.robot.count_subscribers("/vggt/pose"), "a listener")
    rig.show_and_wait(0)
    slow.clear()
    for i in (1, 2):
        rig.show(i)
        rig.until(lambda n=i: len(rig.wall.looks) == n + 1, "the network does not wait")
    rig.until(lambda: rig.count("used") == 3, "the second look is done")
    for i in (3, 4):
        rig.show(i)
    rig.until(lambda: rig.count("dropped") == 1, "the third waits, and gives way to the fourth")
    assert len(rig.wall.looks) == 3 and rig.count("looks") == 1
    slow.set()
    rig.until(lambda: rig.count("looks") == 4, "all that was seen is published")
    rig.until(lambda: len(rig.heard["/vggt/pose"]) == 4, "and arrives")
    stamps = [stamp_ns(pose.header.stamp) for pose in rig.heard["/vggt/pose"]]
    assert stamps == [START + i * PERIOD for i in (0, 1, 2, 4)], "in order"


def test_a_reset_drops_what_was_seen_and_not_yet_published(rig: Rig, slow):
    rig.listen("/vggt/pose", TOPICS["/vggt/pose"])
    rig.listen("/vggt/path", TOPICS["/vggt/path"])
    rig.show_and_wait(0)
    slow.clear()
    for i in (1, 2):
        rig.show(i)
        rig.until(lambda n=i: rig.count("used") == n + 1, "it is looked at")
    assert rig.call_reset().success
    slow.set()
    rig.until(lambda: len(rig.heard["/vggt/path"][-1].poses) == 0, "an empty path")
    rig.show_and_wait(3)
    rig.until(lambda: len(rig.heard["/vggt/path"][-1].poses) == 1, "a new path")
    stamps = [stamp_ns(pose.header.stamp) for pose in rig.heard["/vggt/pose"]]
    assert START + 2 * PERIOD not in stamps


def test_a_node_ends_although_its_publishing_hangs(rig: Rig, slow):
    rig.show_and_wait(0)
    slow.clear()
    for i in (1, 2):
        rig.show(i)
        rig.until(lambda n=i: rig.count("used") == n + 1, "it is looked at")
    assert rig.node is not None
    assert not rig.node.close(0.0)
    rig.until(lambda: rig.node.worker.stop(0.0), "who waited to publish is let go")


def test_max_rate_takes_frames_by_their_stamps_and_may_change(rig: Rig):
    node = rig.start(max_rate_hz=5.0)  # the camera has 10
    for i in range(4):
        rig.show(i)
        rig.until(lambda n=i: rig.count("received") == n + 1, "arrives")
        rig.until(lambda n=i: rig.count("looks") == n // 2 + 1, "every other frame is used")
    node.set_parameters([Parameter("max_rate_hz", value=0.0)])
    rig.show_and_wait(4, 5)
    assert rig.count("skipped") == 2


def test_raising_min_confidence_masks_more_while_running(rig: Rig):
    node = rig.start()
    rig.listen_to_all()
    masked = []
    for i, threshold in enumerate((1.5, 3.0, 10.0)):
        (result,) = node.set_parameters([Parameter("min_confidence", value=threshold)])
        assert result.successful
        rig.show_and_wait(i)
        rig.until(lambda n=i: len(rig.heard["/vggt/depth/image"]) == n + 1, "depth")
        masked.append(float(np.isnan(picture(rig.heard["/vggt/depth/image"][-1])).mean()))
        assert not np.isnan(picture(rig.heard["/vggt/depth/confidence"][-1])).any()
    assert masked == [0.0, 0.5, 1.0]


def test_depth_on_the_camera_s_own_grid(rig: Rig):
    rig.start(depth_resolution="input", intrinsics="camera_info")
    rig.listen_to_all()
    rig.inform(K)
    rig.until(lambda: rig.node.looker.calibration is not None, "the calibration")
    sent = rig.show(7)
    rig.until(lambda: rig.heard["/vggt/points"], "a cloud")
    for topic in ("/vggt/depth/image", "/vggt/depth/confidence", "/vggt/rgb/image_rect_color"):
        assert (rig.heard[topic][0].height, rig.heard[topic][0].width) == INPUT
    np.testing.assert_allclose(picture(rig.heard["/vggt/depth/image"][0]), DEPTH, rtol=1e-5)
    assert rig.heard["/vggt/rgb/image_rect_color"][0].data == sent.data
    np.testing.assert_allclose(matrix(rig.heard["/vggt/depth/camera_info"][0]), K, atol=1e-9)


def test_camera_info_s_own_k_is_used_and_published_for_the_network_s_grid(rig: Rig):
    rig.start(intrinsics="camera_info")
    rig.listen_to_all()
    rig.inform(K)
    rig.until(lambda: rig.node.looker.calibration is not None, "the calibration")
    rig.show_and_wait(0)
    rig.until(lambda: rig.heard["/vggt/depth/camera_info"], "camera_info")
    expected = grid_for(INPUT[1], INPUT[0], SIZE[1]).network_from_input @ K
    np.testing.assert_allclose(matrix(rig.heard["/vggt/depth/camera_info"][0]), expected)


def test_reset_answers_at_once_and_empties_window_tracks_and_path(rig: Rig):
    rig.start()
    rig.listen_to_all()
    rig.show_and_wait(0)
    rig.queries.publish(QueryPoints(ids=[5], u=[40.0], v=[20.0]))
    rig.until(lambda: rig.node.looker._pipeline._anchor is not None, "the query arrives")
    rig.show_and_wait(1, 2)
    rig.until(lambda: rig.heard["/vggt/tracks"], "tracks")
    rig.wall.inside.clear()
    rig.wall.gate.clear()
    rig.show(3)
    rig.until(rig.wall.inside.is_set, "a look is in flight")
    answer = rig.call_reset()  # while the worker is busy
    assert answer.success
    rig.wall.gate.set()
    rig.until(lambda: len(rig.heard["/vggt/path"][-1].poses) == 0, "an empty path")
    assert rig.wall.resets == 2  # one of them the pipeline's own beginning
    tracked = len(rig.heard["/vggt/tracks"])
    rig.show_and_wait(4)
    rig.until(lambda: len(rig.heard["/vggt/path"][-1].poses) == 1, "a new path")
    assert len(rig.wall.looks[-1]) == 1, "the window is empty again"
    assert len(rig.heard["/vggt/tracks"]) == tracked, "nothing is tracked any more"
    stamps = [stamp_ns(p.header.stamp) for p in rig.heard["/vggt/pose"]]
    assert START + 3 * PERIOD not in stamps, "the look in flight is not published"
    assert set(rig.wall.prepared) == {(SIZE, 4)}


def test_another_map_does_not_go_into_the_old_one_s_cloud(rig: Rig):
    node = rig.start()
    rig.show_and_wait(0, 1, 2)
    assert len(node._outputs.map._cloud) > 0
    square = np.zeros((64, 64, 3), np.uint8)
    rig.publish_in_turn(square, START + 10**9, Sizes.PATIENCE)
    assert rig.count("looks") == 4, "a look at the other size"
    assert len(node._outputs.map._cloud) == 0


def test_queried_pixels_are_tracked_in_pixels_of_the_input_until_cleared(rig: Rig):
    rig.start()
    rig.listen_to_all()
    rig.show_and_wait(0)
    rig.queries.publish(QueryPoints(ids=[7, 3], u=[40.0, 10.0], v=[20.0, 11.0]))
    rig.until(lambda: rig.node.looker._pipeline._anchor is not None, "the query arrives")
    rig.show_and_wait(1, 2)
    rig.until(lambda: len(rig.heard["/vggt/tracks"]) == 2, "tracks")
    msg = rig.heard["/vggt/tracks"][-1]
    assert list(msg.ids) == [7, 3] and len(msg.stamps) == 3
    assert stamp_ns(msg.stamps[-1]) == stamp_ns(msg.header.stamp) == START + 2 * PERIOD
    u, v = np.reshape(msg.u, (3, 2)), np.reshape(msg.v, (3, 2))
    np.testing.assert_allclose(u[0], [40, 10], atol=1e-4)
    np.testing.assert_allclose(v, [[20, 11]] * 3, atol=1e-4)
    assert (np.diff(u, axis=0) < 0).all(), "the camera goes right, the wall goes left"
    rig.queries.publish(QueryPoints())
    rig.until(lambda: rig.node.looker._pipeline._anchor is None, "the clearing arrives")
    rig.show_and_wait(3)
    assert len(rig.heard["/vggt/tracks"]) == 2


def test_names_can_be_remapped_and_put_in_a_namespace(rig: Rig):
    from sensor_msgs.msg import Image

    rig.pictures = rig.robot.create_publisher(Image, "/front/image_raw", 10)
    rig.start(arguments=("-r", "__ns:=/robot1", "-r", "image:=/front/image_raw"))
    rig.listen("/robot1/vggt/depth/image", Image)
    rig.until(lambda: rig.robot.count_subscribers("/robot1/vggt/depth/image") == 1, "a listener")
    rig.show_and_wait(0)
    rig.until(lambda: rig.heard["/robot1/vggt/depth/image"], "depth in the namespace")


def test_compressed_images_come_beside_the_remapped_topic(rig: Rig):
    from io import BytesIO

    from PIL import Image as Pillow
    from sensor_msgs.msg import CompressedImage

    from vggt_ros.ros.messages import header

    publisher = rig.robot.create_publisher(CompressedImage, "/front/image_raw/compressed", 10)
    rig.pictures = publisher
    rig.start(arguments=("-r", "image:=/front/image_raw"), image_transport="compressed")
    packed = BytesIO()
    Pillow.fromarray(np.full((*INPUT, 3), 77, np.uint8)).save(packed, "jpeg")
    for data in (packed.getvalue(), packed.getvalue()[:200]):
        done = rig.count("received")
        head = header(START + done, "c")
        publisher.publish(CompressedImage(header=head, format="jpeg", data=data))
        rig.until(lambda n=done: rig.count("received") > n, "the image arrives")
        rig.until(lambda: rig.count("looks") == 1, "the first is looked at")
    rig.until_diagnosed("compressed image")


def test_a_clock_that_jumps_back_begins_anew(rig: Rig):
    from rosgraph_msgs.msg import Clock

    from vggt_ros.ros.messages import time_message

    clock = rig.robot.create_publisher(Clock, "/clock", 10)
    rig.start(use_sim_time=True)
    rig.until(lambda: clock.get_subscription_count(), "the clock is heard")
    now = rig.node.get_clock().now
    clock.publish(Clock(clock=time_message(START + 10 * PERIOD)))
    rig.until(lambda: now().nanoseconds == START + 10 * PERIOD, "the first time")
    rig.show_and_wait(5, 6)
    clock.publish(Clock(clock=time_message(START)))
    rig.until_diagnosed("the clock went back")
    rig.show_and_wait(0)  # older than the last, and welcome
    assert len(rig.wall.looks[-1]) == 1
