# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Frames through the node: which are inferred and published, queries, reset, names, clock."""

from collections.abc import Iterator
from io import BytesIO
from threading import Event

import numpy as np
import pytest
from fakes.planar_engine import DEPTH, SIZE, STEP
from node_rig import INPUT, PERIOD, START, TIMEOUT, TOPICS, Rig
from PIL import Image as Pillow
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from vggt_ros.msg import QueryPoints

from vggt_ros.ros.messages import header, stamp_ns, time_message
from vggt_ros.timeline import PATIENCE

pytestmark = pytest.mark.ros


def stamps(messages: list) -> list[int]:
    return [stamp_ns(msg.header.stamp) for msg in messages]


# ---- a node that is busy ------------------------------------------------------------------------


def test_a_busy_node_infers_the_newest_frame_next_and_counts_the_dropped_ones(rig: Rig):
    rig.start()
    rig.infer(0)
    rig.engine.inside.clear()
    rig.engine.gate.clear()
    rig.publish(1)
    rig.wait_until(rig.engine.inside.is_set, "the inference starts")
    for i in (2, 3, 4):
        rig.publish(i)
    rig.engine.gate.set()
    rig.wait_until(lambda: rig.count("inferences") == 3, "inference of 0, 1 and the newest")
    assert rig.count("dropped") == 2
    rig.wait_for_diagnostics("dropped 2")


@pytest.fixture
def publishing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """A started node that publishes only while this event is set, as it is at first."""
    node = rig.start()
    gate = Event()
    gate.set()
    publish = node.outputs.publish

    def wait_and_publish(update):
        assert gate.wait(TIMEOUT)
        publish(update)

    monkeypatch.setattr(node.outputs, "publish", wait_and_publish)
    yield gate
    gate.set()


def test_the_network_is_at_most_one_inference_ahead_and_no_result_is_lost(
    rig: Rig, publishing: Event
):
    poses = rig.subscribe_matched("/vggt/pose", TOPICS["/vggt/pose"])
    rig.infer(0)
    publishing.clear()
    for i in (1, 2):
        rig.publish(i)
        rig.wait_until(lambda n=i: len(rig.engine.inferences) == n + 1, "the network goes on")
    rig.wait_until(lambda: rig.count("used") == 3, "the second inference is done")
    for i in (3, 4):
        rig.publish(i)
    rig.wait_until(lambda: rig.count("dropped") == 1, "the fourth replaces the waiting third")
    assert len(rig.engine.inferences) == 3 and rig.count("inferences") == 1
    publishing.set()
    rig.wait_until(lambda: rig.count("inferences") == 4, "all results are published")
    rig.wait_until(lambda: len(poses) == 4, "and arrive")
    assert stamps(poses) == [START + i * PERIOD for i in (0, 1, 2, 4)], "in order"


def test_a_reset_discards_results_that_are_not_yet_published(rig: Rig, publishing: Event):
    poses = rig.subscribe("/vggt/pose", TOPICS["/vggt/pose"])
    paths = rig.subscribe_matched("/vggt/path", TOPICS["/vggt/path"])
    rig.infer(0)
    publishing.clear()
    for i in (1, 2):
        rig.publish(i)
        rig.wait_until(lambda n=i: rig.count("used") == n + 1, "it is inferred")
    assert rig.call("reset").success
    publishing.set()
    rig.wait_until(lambda: len(paths[-1].poses) == 0, "an empty path")
    rig.infer(3)
    rig.wait_until(lambda: len(paths[-1].poses) == 1, "a new path")
    assert START + 2 * PERIOD not in stamps(poses)


def test_close_returns_in_time_while_publishing_is_blocked(rig: Rig, publishing: Event):
    rig.infer(0)
    publishing.clear()
    for i in (1, 2):
        rig.publish(i)
        rig.wait_until(lambda n=i: rig.count("used") == n + 1, "it is inferred")
    node = rig.node
    assert node is not None
    assert not node.close(0.0)
    rig.wait_until(lambda: node.worker.stop(0.0), "the thread that waited to publish ends")


def test_max_rate_skips_frames_by_their_stamps_and_can_change(rig: Rig):
    node = rig.start(max_rate_hz=5.0)  # the camera has 10
    for i in range(4):
        rig.publish(i)
        rig.wait_until(lambda n=i: rig.count("received") == n + 1, "arrives")
        rig.wait_until(lambda n=i: rig.count("inferences") == n // 2 + 1, "every other is used")
    node.set_parameters([Parameter("max_rate_hz", value=0.0)])
    rig.infer(4, 5)
    assert rig.count("skipped") == 2


# ---- reset, maps and tracks ---------------------------------------------------------------------


def test_reset_answers_at_once_and_empties_window_tracks_and_path(rig: Rig):
    node = rig.start()
    rig.subscribe_to_outputs()
    rig.infer(0)
    rig.queries.publish(QueryPoints(ids=[5], u=[40.0], v=[20.0]))
    rig.wait_until(lambda: node.inference.pipeline.is_tracking, "the query arrives")
    rig.infer(1, 2)
    rig.wait_until(lambda: rig.received["/vggt/tracks"], "tracks")
    rig.engine.inside.clear()
    rig.engine.gate.clear()
    rig.publish(3)
    rig.wait_until(rig.engine.inside.is_set, "an inference is in flight")
    assert rig.call("reset").success  # while the worker is busy
    rig.engine.gate.set()
    rig.wait_until(lambda: len(rig.received["/vggt/path"][-1].poses) == 0, "an empty path")
    assert rig.engine.resets == 2  # one of them at the pipeline's start
    tracked = len(rig.received["/vggt/tracks"])
    rig.infer(4)
    rig.wait_until(lambda: len(rig.received["/vggt/path"][-1].poses) == 1, "a new path")
    assert len(rig.engine.inferences[-1]) == 1, "the window is empty again"
    assert len(rig.received["/vggt/tracks"]) == tracked, "no tracks any more"
    in_flight = START + 3 * PERIOD
    assert in_flight not in stamps(rig.received["/vggt/pose"]), "its result is not published"
    assert set(rig.engine.prepared) == {(SIZE, 4)}


def test_a_new_map_does_not_go_into_the_cloud_of_the_old_one(rig: Rig):
    node = rig.start()
    rig.infer(0, 1, 2)
    assert node.outputs.map.size > 0
    square = np.zeros((64, 64, 3), np.uint8)
    rig.publish_repeatedly(square, START + 10**9, PATIENCE + 1)
    assert rig.count("inferences") == 4, "one of the other size"
    assert node.outputs.map.size == 0


def test_a_query_sent_once_before_its_program_is_compiled_is_answered(rig: Rig):
    """Its frame left the window long ago by then; meanwhile a warning lasts, with figures."""
    rig.engine.untracked = {1, 2, 3, 4}
    node = rig.start(window_size=3)
    tracks = rig.subscribe_matched("/vggt/tracks", TOPICS["/vggt/tracks"])
    rig.infer(0, 1, 2)
    rig.queries.publish(QueryPoints(ids=[7], u=[40.0], v=[20.0]))
    rig.wait_until(lambda: node.inference.pipeline.is_tracking, "the query arrives")
    rig.infer(*range(3, 9))
    waiting = "1 point to track: no tracks in the last 6 inferences"
    report = rig.wait_for_diagnostics(waiting, tracks="1 point in 3 frames: waiting")
    assert any("is not compiled yet" in text for text in report.values()) and not tracks
    rig.engine.untracked = set()
    rig.infer(9)
    rig.wait_until(lambda: tracks, "tracks")
    at = [40 - STEP / DEPTH * INPUT[1] * (i - 2) for i in (7, 8, 9)]
    np.testing.assert_allclose(tracks[0].u, at, atol=1e-3)
    assert tracks[0].ids.tolist() == [7]
    rig.wait_until(
        lambda: "times" in rig.diagnostics()["tracks"], "their cost, beside that without"
    )
    rig.wait_until(
        lambda: not any("no tracks in" in text for text in rig.diagnostics().values()),
        "the warning ends",
    )


@pytest.mark.parametrize("asked", [0, 40])
def test_programs_for_tracks_are_prepared_from_the_start(rig: Rig, asked: int):
    rig.start(track_queries=asked)
    rig.infer(0)
    assert rig.engine.track_queries == asked


def test_queried_pixels_are_tracked_in_pixels_of_the_input_until_cleared(rig: Rig):
    node = rig.start()
    tracks = rig.subscribe_matched("/vggt/tracks", TOPICS["/vggt/tracks"])
    rig.infer(0)
    rig.queries.publish(QueryPoints(ids=[7, 3], u=[40.0, 10.0], v=[20.0, 11.0]))
    rig.wait_until(lambda: node.inference.pipeline.is_tracking, "the query arrives")
    rig.infer(1, 2)
    rig.wait_until(lambda: len(tracks) == 2, "tracks")
    msg = tracks[-1]
    assert list(msg.ids) == [7, 3] and len(msg.stamps) == 3
    assert stamp_ns(msg.stamps[-1]) == stamp_ns(msg.header.stamp) == START + 2 * PERIOD
    u, v = np.reshape(msg.u, (3, 2)), np.reshape(msg.v, (3, 2))
    np.testing.assert_allclose(u[0], [40, 10], atol=1e-4)
    np.testing.assert_allclose(v, [[20, 11]] * 3, atol=1e-4)
    assert (np.diff(u, axis=0) < 0).all(), "the camera moves right, the points left"
    rig.queries.publish(QueryPoints())
    rig.wait_until(lambda: not node.inference.pipeline.is_tracking, "the empty query arrives")
    rig.infer(3)
    assert len(tracks) == 2


# ---- names, transport and clock -----------------------------------------------------------------


def test_topics_can_be_remapped_and_the_node_put_in_a_namespace(rig: Rig):
    rig.images = rig.peer.create_publisher(Image, "/front/image_raw", 10)
    rig.start(arguments=("-r", "__ns:=/robot1", "-r", "image:=/front/image_raw"))
    depths = rig.subscribe_matched("/robot1/vggt/depth/image", Image)
    rig.infer(0)
    rig.wait_until(lambda: depths, "depth in the namespace")


def test_compressed_images_are_received_beside_the_remapped_topic(rig: Rig):
    rig.images = rig.peer.create_publisher(CompressedImage, "/front/image_raw/compressed", 10)
    rig.start(arguments=("-r", "image:=/front/image_raw"), image_transport="compressed")
    packed = BytesIO()
    Pillow.fromarray(np.full((*INPUT, 3), 77, np.uint8)).save(packed, "jpeg")
    for data in (packed.getvalue(), packed.getvalue()[:200]):
        done = rig.count("received")
        head = header(START + done, "c")
        rig.images.publish(CompressedImage(header=head, format="jpeg", data=data))
        rig.wait_until(lambda n=done: rig.count("received") > n, "the image arrives")
        rig.wait_until(lambda: rig.count("inferences") == 1, "the first one is inferred")
    rig.wait_for_diagnostics("compressed image")


def test_a_clock_that_jumps_back_starts_a_new_map(rig: Rig):
    clock = rig.peer.create_publisher(Clock, "/clock", 10)
    node = rig.start(use_sim_time=True)
    rig.wait_until(lambda: clock.get_subscription_count(), "the node subscribes to the clock")
    now = node.get_clock().now
    clock.publish(Clock(clock=time_message(START + 10 * PERIOD)))
    rig.wait_until(lambda: now().nanoseconds == START + 10 * PERIOD, "the first time")
    rig.infer(5, 6)
    clock.publish(Clock(clock=time_message(START + 10 * PERIOD - 400_000_000)))
    rig.wait_until(lambda: now().nanoseconds < START + 10 * PERIOD, "a message out of order")
    rig.infer(7)
    assert len(rig.engine.inferences[-1]) == 3, "the window goes on"
    clock.publish(Clock(clock=time_message(START)))
    rig.wait_for_diagnostics("the clock went back")
    rig.infer(0)  # older than the last one, and accepted
    assert len(rig.engine.inferences[-1]) == 1
