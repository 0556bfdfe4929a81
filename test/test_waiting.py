# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What comes a little later than its image is waited for, also where it did not come at first."""

import time
from collections.abc import Callable
from threading import Thread

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from node_rig import PERIOD, START, Rig
from rclpy.qos import QoSProfile
from robot_rig import START as FIRST
from robot_rig import StereoRobot
from sensor_msgs.msg import Image
from test_node_masks import MASKED, Segmentation, pixels
from tf2_msgs.msg import TFMessage

from vggt_ros.ros.messages import header, transform_message
from vggt_ros.ros.tf.tf_cache import open_frames
from vggt_ros.ros.waiting import MAX_FAILED, RETRIED, SELDOM, Waiting, nearest

pytestmark = pytest.mark.ros

LONG = 60.0  # seconds of a wait


class Clock:
    """In place of module time: a wait is over at once, or not before what it waits for comes."""

    def __init__(self) -> None:
        self.now, self.waited, self.is_over_at_once = 1000.0, 0, True

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waited += 1
        if self.is_over_at_once:
            self.now += 2.0 * LONG
        else:
            time.sleep(seconds)

    def start_waiting(self) -> None:
        """From now on waits have no end, and it is time to try again."""
        self.now += SELDOM * LONG
        self.is_over_at_once = False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("vggt_ros.ros.waiting.time", found)
    return found


def soon(function: Callable[[], object]) -> None:
    """Call it a moment later, from another thread."""
    Thread(target=lambda: (time.sleep(0.05), function())).start()


def test_what_never_comes_is_waited_for_now_and_then(clock: Clock):
    waiting, seconds = Waiting(LONG), max(RETRIED, SELDOM * LONG)
    for i in range(2 * MAX_FAILED):
        assert waiting.until(lambda: 0, bool) == 0
        assert clock.waited == min(i + 1, MAX_FAILED)
    for tries in range(1, 3):
        clock.now += seconds
        for _ in range(3):
            waiting.until(lambda: 0, bool)
        assert clock.waited == MAX_FAILED + tries
    assert waiting.until(lambda: 7, bool) == 7
    waiting.until(lambda: 0, bool)
    assert clock.waited == MAX_FAILED + 3, "it came: it is waited for again"


def test_what_cannot_come_any_more_is_not_waited_for(clock: Clock):
    waiting = Waiting(LONG)
    for _ in range(2 * MAX_FAILED):
        assert waiting.until(lambda: 0, bool, lambda seen: seen == 0) == 0
    assert clock.waited == 0
    waiting.until(lambda: 0, bool)
    assert clock.waited == 1, "none of these was a wait in vain"


def test_the_nearest_message_is_known_with_its_distance():
    messages = [Image(header=header(ns, "")) for ns in (10, 20, 40)]
    assert nearest(messages, 27) == (messages[1], -7)
    assert nearest([], 27) == (None, None)


def test_a_segmentation_node_that_starts_after_the_camera_is_waited_for(rig: Rig, clock: Clock):
    rig.start(mask_wait=LONG, arguments=("-r", "mask:=/segmentation"))
    segmentation = Segmentation(rig, "/segmentation")
    depths = rig.subscribe_matched("/vggt/depth/image", Image)
    count = MAX_FAILED + 3
    rig.infer(*range(count))
    clock.start_waiting()
    rig.publish(count)
    segmentation.publish(count)
    rig.wait_until(lambda: len(depths) > count, "depth of the image that had to wait")
    assert np.isfinite(pixels(depths[count - 1])[MASKED]).all()
    assert np.isnan(pixels(depths[count])[MASKED]).all()


def test_odometry_that_starts_after_the_camera_is_waited_for(rig: Rig, clock: Clock):
    frames = open_frames(rig.peer, LONG)
    assert frames is not None
    for i in range(MAX_FAILED + 3):
        assert frames.wait_for("odom", "base_link", START + i * PERIOD) is None
    publisher = rig.peer.create_publisher(TFMessage, "/tf", QoSProfile(depth=10))
    rig.wait_until(publisher.get_subscription_count, "/tf is matched")
    clock.start_waiting()
    for i in range(20, 23):
        soon(lambda i=i: publisher.publish(TFMessage(transforms=[_odometry(i)])))
        assert frames.wait_for("odom", "base_link", START + i * PERIOD) is not None


def _odometry(i: int) -> TransformStamped:
    return transform_message(header(START + i * PERIOD, "odom"), "base_link", np.eye(4))


def test_a_second_camera_that_was_late_at_first_is_waited_for(rig: Rig, clock: Clock):
    robot = StereoRobot(rig, frames=MAX_FAILED + 5)
    robot.start()
    count = MAX_FAILED + 3
    robot.infer_pairs(*range(count), late_ns=-PERIOD)
    clock.start_waiting()
    received = rig.count("inferences")
    robot.publish_image(count)
    soon(lambda: robot.publish_right(count, ns=FIRST + count * PERIOD))
    rig.wait_until(lambda: rig.count("inferences") > received, "the inference of both images")
    shown = {camera for window in robot.engine.inferences for _, camera in window}
    assert shown == {0, 1}, "the second image was shown to the network"


def test_where_time_goes_back_messages_of_the_time_to_come_are_forgotten(rig: Rig):
    """A later mask, or image of the second camera, would say that none is to come."""
    node = rig.start(scale_source="baseline,depth", tf_mode="none")
    masks, depth, right = node.robot.masks[""], node.robot.depth, node.robot.second_camera
    assert depth is not None and right is not None
    stamps = [START + i * PERIOD for i in range(4)]
    for topic in ("/mask", "/scale_depth", "/baseline_image"):
        publisher = rig.peer.create_publisher(Image, topic, 10)
        rig.wait_until(publisher.get_subscription_count, f"{topic} is matched")
        for ns in stamps:
            publisher.publish(Image(header=header(ns, "any")))
    sources = masks, depth, right
    for source in sources:
        rig.wait_until(lambda s=source: s.stamps == tuple(stamps), "all messages")
    node.robot.forget_from(stamps[2])
    assert [source.stamps for source in sources] == 3 * [tuple(stamps[:2])]
