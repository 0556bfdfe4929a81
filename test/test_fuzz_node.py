# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Damaged messages on all topics of a running node: it goes on, and serves the good images between.

Each message goes to the callback of its subscription, as the executor hands it over; /tf, which no
executor reads, through the middleware.
"""

import gc
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from fuzz_messages import damaged, picture
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from node_rig import CAMERA, PERIOD, START, Rig
from rclpy.qos import DurabilityPolicy, QoSProfile
from tf2_msgs.msg import TFMessage

from vggt_ros.ros.messages import header, image_message

pytestmark = [
    pytest.mark.ros,
    pytest.mark.slow,
    # The node's threads use `random` (the checks of types do) while messages are drawn here.
    pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies"),
]

STRAY = 26  # good images that one image stamped up to two seconds ahead may cost
OTHERS = {  # topic of the node: the messages that it is sent
    "/camera_info": "camera_info",
    "/odom": "odometry",
    "/imu": "imu",
    "/mask": "mask",
    "/scale_depth": "depth",
    "/scale_points": "cloud",
    "/scale_depth_info": "camera_info",
    "/baseline_image": "image",
    "/baseline_camera_info": "camera_info",
    "/initialpose": "initial_pose",
    "/vggt/query_points": "queries",
}


class Fuzz:
    """A node with every input, and the good images that it is given meanwhile."""

    def __init__(self, rig: Rig):
        self.rig, self.sent, self.fed = rig, 0, 0
        node = rig.start(
            scale_source="odometry, depth, baseline, height", camera_height=1.0, tf_mode="none",
            tf_wait=0.0, mask_wait=0.0, max_keyframes=30, map_points_max=2000, path_length=100,
        )  # fmt: skip
        self.callbacks: dict[str, Callable[[Any], object]] = {}
        for subscription in node.subscriptions:
            self.callbacks.setdefault(subscription.topic_name, subscription.callback)
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.moving = rig.peer.create_publisher(TFMessage, "/tf", 100)
        self.static = rig.peer.create_publisher(TFMessage, "/tf_static", latched)

    @property
    def now_ns(self) -> int:
        return START + self.sent * PERIOD

    def send(self, topic: str, message: Any) -> None:
        """A damaged message, perhaps with the stamp of the next good image."""
        self.fed += 1
        if topic == "/tf":
            self.moving.publish(message)
        elif topic == "/tf_static":
            self.static.publish(message)
        else:
            self.callbacks[topic](message)

    def good_image(self) -> bool:
        """Whether the next good image is inferred."""
        rig, node = self.rig, self.rig.node
        assert node is not None
        for kept in (*rig.received.values(), rig.deliveries, rig.engine.inferences):
            del kept[:-3]  # what the test keeps is not the node's memory
        done, refused = rig.count("inferences"), rig.count("images refused")
        pixels = image_message(header(self.now_ns, CAMERA), PIXELS)
        self.sent += 1
        self.callbacks["/image"](pixels)
        rig.wait_until(
            lambda: rig.count("inferences") > done or rig.count("images refused") > refused,
            "the image is used or refused",
        )
        return rig.count("inferences") > done


PIXELS = picture()


@st.composite
def others(draw: Any) -> list[tuple[str, Any]]:
    """Some damaged messages of sensors beside the camera."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        topic = draw(st.sampled_from([*OTHERS, "/tf", "/tf_static"]))
        found.append((topic, draw(damaged(OTHERS.get(topic, "transforms")))))
    return found


def examples(count: int) -> settings:
    """Without shrinking: the node keeps a state, so that a part of a run is another run."""
    return settings(
        max_examples=count, derandomize=True, deadline=None, database=None,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def feed_others(fuzz: Fuzz, count: int) -> None:
    """Messages of other sensors with good images between, all of which are served."""
    rig = fuzz.rig
    assert fuzz.good_image()

    @examples(count)
    @given(others())
    def each(messages: list[tuple[str, Any]]) -> None:
        for topic, message in messages:
            stamp = getattr(getattr(message, "header", None), "stamp", None)
            if stamp is not None and fuzz.fed % 2:
                stamp.sec, stamp.nanosec = divmod(fuzz.now_ns, 1_000_000_000)
            fuzz.send(topic, message)
        assert fuzz.good_image(), rig.diagnostics()

    each()
    assert not rig.failures


def feed_images(fuzz: Fuzz, count: int) -> None:
    """Damaged images; one good one after each, and the stream is served again soon."""
    rig = fuzz.rig
    assert fuzz.good_image()

    @examples(count)
    @given(damaged("image", whole_stamp=True), st.booleans())
    def each(message: Any, near: bool) -> None:
        if near:
            ns = fuzz.now_ns - PERIOD // 2
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(ns, 1_000_000_000)
        before = rig.count("inferences") + rig.count("images refused")
        fuzz.send("/image", message)
        rig.wait_until(
            lambda: rig.count("inferences") + rig.count("images refused") > before, "an outcome"
        )
        assert fuzz.good_image(), rig.diagnostics()

    @examples(count // 10 + 1)
    @given(damaged("image"))
    def each_of_any_stamp(message: Any) -> None:
        fuzz.send("/image", message)
        assert any(fuzz.good_image() for _ in range(STRAY)), rig.diagnostics()

    each()
    each_of_any_stamp()
    assert not rig.failures


def check_accounts(rig: Rig) -> None:
    """Each image that was received has one outcome."""
    outcomes = ("used", "dropped", "skipped", "images refused", "waiting for a program",
                "discarded")  # fmt: skip
    rig.wait_until(
        lambda: rig.count("received") == sum(rig.count(name) for name in outcomes),
        "all images have an outcome",
    )


def test_damaged_messages_of_other_sensors_cost_no_image(rig: Rig):
    feed_others(Fuzz(rig), 120)
    check_accounts(rig)


def test_damaged_images_cost_themselves(rig: Rig):
    feed_images(Fuzz(rig), 100)
    check_accounts(rig)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("feed", [feed_others, feed_images])
def test_thousands_of_damaged_messages_leave_the_node_and_its_memory(rig: Rig, feed: Callable):
    """About 7,500 of other sensors and 3,300 images."""
    process, fuzz = psutil.Process(), Fuzz(rig)
    feed(fuzz, 400)
    gc.collect()
    settled = process.memory_info().rss
    feed(fuzz, 2600)
    check_accounts(rig)
    gc.collect()
    assert fuzz.fed > 3000
    assert process.memory_info().rss < 1.1 * settled
