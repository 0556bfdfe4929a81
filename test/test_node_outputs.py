# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node's outputs on live topics: content, frames, order, QoS; none without a subscriber."""

from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from fakes.planar_engine import DEPTH, SIZE, STEP
from geometry_msgs.msg import TransformStamped
from made_updates import stamp, update
from node_rig import CAMERA, INPUT, PERIOD, START, TOPICS, K, Rig
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, PointCloud2
from tf2_msgs.msg import TFMessage
from vggt_ros.msg import MapStatus, QueryPoints

from vggt_ros.imaging.grid import grid_for
from vggt_ros.ros import clouds, messages
from vggt_ros.ros.messages import stamp_ns
from vggt_ros.ros.publishing.depth_output import DepthOutput

pytestmark = pytest.mark.ros


def pixels(msg) -> np.ndarray:
    """A 32FC1 image as an array."""
    return np.frombuffer(msg.data, "<f4").reshape(msg.height, msg.width)


def matrix(msg) -> np.ndarray:
    """K of a camera_info."""
    return np.reshape(msg.k, (3, 3))


def newest_stamp(msg) -> int:
    head = msg.transforms[-1].header if hasattr(msg, "transforms") else msg.header
    return stamp_ns(head.stamp)


def test_every_output_has_the_header_of_its_image(rig: Rig):
    rig.start(world_frame="map")
    rig.subscribe_to_outputs()
    rig.queries.publish(QueryPoints(ids=[5], u=[40.0], v=[20.0]))
    rig.infer(0, 1, 2)
    rig.wait_until(lambda: all(len(rig.received[topic]) >= 2 for topic in TOPICS), "all outputs")
    sent = rig.publish(3).header
    rig.wait_until(
        lambda: all(newest_stamp(rig.received[t][-1]) == stamp_ns(sent.stamp) for t in TOPICS),
        "all outputs of the newest image",
    )
    for topic in TOPICS:
        newest = rig.received[topic][-1]
        if topic in ("/vggt/pose", "/vggt/path", "/vggt/window_points", "/vggt/status"):
            assert newest.header.frame_id == "map", topic
            assert newest.header.stamp == sent.stamp, topic
        elif topic != "/tf":
            assert newest.header == sent, topic
    assert [stamp_ns(pose.header.stamp) for pose in rig.received["/vggt/path"][-1].poses] == [
        START + i * PERIOD for i in range(4)
    ]


def test_depth_clouds_and_pose_agree_with_each_other_and_with_the_truth(rig: Rig):
    rig.start()
    rig.subscribe_to_outputs()
    rig.infer(0, 1, 2, 3)
    rig.wait_until(lambda: len(rig.received["/vggt/window_points"]) == 4, "the window's cloud")
    rig.wait_until(lambda: len(rig.received["/vggt/points"]) == 4, "the cloud")
    info, depth = (rig.received[f"/vggt/depth/{name}"][-1] for name in ("camera_info", "image"))
    assert (depth.height, depth.width) == (info.height, info.width) == SIZE
    np.testing.assert_allclose(pixels(depth), DEPTH, rtol=1e-5)
    cloud = rig.received["/vggt/points"][-1]
    assert (cloud.height, cloud.width, cloud.is_dense) == (*SIZE, False)
    xyz = np.frombuffer(cloud.data, "<f4").reshape(*SIZE, 5)[..., :3]
    k = matrix(info)
    corner = [(9 - k[0, 2]) / k[0, 0] * DEPTH, (7 - k[1, 2]) / k[1, 1] * DEPTH, DEPTH]
    np.testing.assert_allclose(xyz[7, 9], corner, rtol=1e-5)
    position = rig.received["/vggt/pose"][-1].pose.position
    np.testing.assert_allclose([position.x, position.y, position.z], [0, -3 * STEP, 0], atol=1e-5)
    window = rig.received["/vggt/window_points"][-1]
    assert (window.height, window.is_dense) == (1, True)
    world = np.frombuffer(window.data, "<f4").reshape(-1, 5)[:, :3]
    assert len(world) == 4 * (SIZE[0] // 3) * -(-SIZE[1] // 3)
    np.testing.assert_allclose(world[:, 0], DEPTH, rtol=1e-5)  # x is ahead, towards the wall


# ---- transforms ---------------------------------------------------------------------------------


def test_a_transform_is_sent_before_the_depth_of_its_stamp_and_never_twice(rig: Rig):
    rig.start(stride=2, window_size=4)
    rig.subscribe_to_outputs()
    for i in range(9):
        rig.publish(i)
        rig.wait_until(lambda n=i: rig.count("used") == n + 1, "the frame is used")
    rig.wait_until(lambda: len(rig.received["/tf"]) >= 4, "transforms")
    found = [(t.child_frame_id, stamp_ns(t.header.stamp)) for m in rig.received["/tf"]
             for t in m.transforms]  # fmt: skip
    for child in (CAMERA, "vggt_odom"):
        sent = [ns for name, ns in found if name == child]
        assert sent == sorted(set(sent)) and len(sent) >= 4, "each stamp once, in order"
    known: set[int] = set()
    for _, topic, msg in sorted(rig.deliveries, key=lambda delivery: delivery[0]):
        if topic == "/tf":
            known |= {stamp_ns(t.header.stamp) for t in msg.transforms}
        elif topic in ("/vggt/depth/image", "/vggt/points"):
            assert stamp_ns(msg.header.stamp) in known


@pytest.mark.parametrize("camera_frame", ["", "vggt_camera"])
def test_the_child_of_the_transform_is_camera_frame_or_the_image_s_frame(
    rig: Rig, camera_frame: str
):
    rig.start(tf_mode="camera", world_frame="map", camera_frame=camera_frame)
    transforms = rig.subscribe("/tf", TFMessage)
    rig.wait_until(lambda: rig.peer.count_subscribers("/tf") >= 2, "both subscribe to /tf")
    rig.infer(0)
    rig.wait_until(lambda: transforms, "a transform")
    found = {(sent.header.frame_id, sent.child_frame_id) for sent in transforms[0].transforms}
    assert found == {("map", "vggt_odom"), ("map", camera_frame or CAMERA)}


def test_a_camera_of_the_robot_s_tree_gets_no_second_parent(rig: Rig):
    qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    static = rig.peer.create_publisher(TFMessage, "/tf_static", qos)
    mount = TransformStamped(child_frame_id=CAMERA)
    mount.header.frame_id = "camera_link"
    static.publish(TFMessage(transforms=[mount]))
    node = rig.start(tf_mode="camera")
    rig.wait_until(lambda: node.transforms.parents, "the node receives the mount")
    transforms = rig.subscribe("/tf", TFMessage)
    rig.infer(0, 1)
    rig.wait_for_diagnostics("already has the parent camera_link", f"off: {CAMERA}")
    assert rig.level("/vggt: tf") == DiagnosticStatus.WARN
    sent = {found.child_frame_id for msg in transforms for found in msg.transforms}
    assert sent <= {"vggt_odom"}


def test_tf_mode_none_publishes_no_transform(rig: Rig):
    rig.start(tf_mode="none")
    rig.infer(0)
    rig.wait_for_diagnostics("off: tf_mode is none")
    assert rig.level("/vggt: tf") == DiagnosticStatus.OK, "the user asked for it"
    assert rig.peer.count_publishers("/tf") == 0


@pytest.mark.parametrize(("policy", "count"), [("withhold", 1), ("freeze", 1), ("predict", 2)])
def test_points_of_a_window_that_is_not_located_are_not_placed_in_the_world(
    rig: Rig, policy: str, count: int
):
    node = rig.start(tf_when_lost=policy)
    clouds = rig.subscribe_matched("/vggt/window_points", PointCloud2)
    status = rig.subscribe_matched("/vggt/status", MapStatus)
    for found in (update([0]), update([1], accepted=False, reason="nonsense")):
        node.sender.call_soon(lambda found=found: node.outputs.publish(found))
    rig.wait_until(lambda: status and newest_stamp(status[-1]) == stamp(1), "both are published")
    rig.wait_until(lambda: len(clouds) >= count, "clouds")
    assert len(clouds) == count


# ---- subscribers --------------------------------------------------------------------------------


def test_outputs_are_reliable_the_path_is_latched_and_the_image_is_best_effort(rig: Rig):
    rig.start(image_reliability="best_effort")
    for topic in TOPICS:
        (publisher,) = rig.peer.get_publishers_info_by_topic(topic)
        assert publisher.qos_profile.reliability == ReliabilityPolicy.RELIABLE, topic
        latched = publisher.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
        assert latched == (topic in ("/vggt/path", "/vggt/status")), topic
    (image,) = rig.peer.get_subscriptions_info_by_topic("/image")
    assert image.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT


def test_qos_can_be_overridden_by_parameters(rig: Rig):
    override: dict[str, Any] = {"qos_overrides./vggt/points.publisher.reliability": "best_effort"}
    rig.start(**override)
    (publisher,) = rig.peer.get_publishers_info_by_topic("/vggt/points")
    assert publisher.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT


def test_a_subscriber_that_asks_for_more_than_is_offered_is_named(rig: Rig):
    rig.start()
    latched = rig.subscribe("/vggt/depth/image", Image, latched=True)
    rig.wait_for_diagnostics(
        "nothing of /vggt/depth/image arrives at peer (reliable, transient local): it is published"
        " as reliable, volatile"
    )
    rig.infer(0)
    assert latched == []
    (subscription,) = [s for s in rig.peer.subscriptions if s.topic_name == "/vggt/depth/image"]
    rig.peer.destroy_subscription(subscription)
    rig.wait_for_status("outputs", lambda status: status.message == "all that are asked for are"
                        " published")  # fmt: skip


def test_outputs_without_subscribers_are_not_built(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    def never(*_args, **_options):
        raise AssertionError("built without a subscriber")

    for module, names in (
        (messages, ("image_message", "camera_info_message", "tracks_message")),
        (messages, ("cloud_message", "depth_cloud_message", "records_message")),
        (clouds, ("camera_points",)),
    ):
        for name in names:
            monkeypatch.setattr(module, name, never)
    for name in ("depth", "points_depth", "confidence"):  # the map takes depth from the view itself
        monkeypatch.setattr(DepthOutput, name, property(never))
    node = rig.start(tf_mode="none")
    rig.subscribe("/vggt/pose", TOPICS["/vggt/pose"])
    monkeypatch.setattr("node_rig.image_message", plain_image)
    rig.infer(0, 1)
    assert rig.failures == []
    assert "an inference failed" not in str(node.health.snapshot().refusals)


def plain_image(head, rgb) -> Image:
    """An image message that is built without vggt_ros."""
    return Image(header=head, height=rgb.shape[0], width=rgb.shape[1], step=3 * rgb.shape[1],
                 encoding="rgb8", data=rgb.tobytes())  # fmt: skip


# ---- pixel grids --------------------------------------------------------------------------------


def test_raising_min_confidence_masks_more_while_running(rig: Rig):
    node = rig.start()
    rig.subscribe_to_outputs()
    masked = []
    for i, threshold in enumerate((1.5, 3.0, 10.0)):
        (result,) = node.set_parameters([Parameter("min_confidence", value=threshold)])
        assert result.successful
        rig.infer(i)
        for name in ("image", "confidence"):
            received = rig.received[f"/vggt/depth/{name}"]
            rig.wait_until(lambda n=i, r=received: len(r) == n + 1, f"depth/{name}")
        masked.append(float(np.isnan(pixels(rig.received["/vggt/depth/image"][-1])).mean()))
        assert not np.isnan(pixels(rig.received["/vggt/depth/confidence"][-1])).any()
    assert masked == [0.0, 0.5, 1.0]


def test_depth_on_the_camera_s_own_grid(rig: Rig):
    rig.start(depth_resolution="input", intrinsics="camera_info")
    rig.subscribe_to_outputs()
    rig.publish_camera_info()
    sent = rig.publish(7)
    rig.wait_until(lambda: rig.received["/vggt/points"], "a cloud")
    for topic in ("/vggt/depth/image", "/vggt/depth/confidence", "/vggt/rgb/image_rect_color"):
        assert (rig.received[topic][0].height, rig.received[topic][0].width) == INPUT
    np.testing.assert_allclose(pixels(rig.received["/vggt/depth/image"][0]), DEPTH, rtol=1e-5)
    assert rig.received["/vggt/rgb/image_rect_color"][0].data == sent.data
    np.testing.assert_allclose(matrix(rig.received["/vggt/depth/camera_info"][0]), K, atol=1e-9)


def test_a_calibrated_k_is_used_and_published_for_the_network_s_grid(rig: Rig):
    rig.start(intrinsics="camera_info")
    rig.subscribe_to_outputs()
    rig.publish_camera_info()
    rig.infer(0)
    rig.wait_until(lambda: rig.received["/vggt/depth/camera_info"], "camera_info")
    expected = grid_for(INPUT[1], INPUT[0], SIZE[1]).network_from_input @ K
    np.testing.assert_allclose(matrix(rig.received["/vggt/depth/camera_info"][0]), expected)
