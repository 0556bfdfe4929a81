# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Large images stay in the middleware while they would be dropped: the newest is used, all count.

Images of the tests are small; the size from which one is large is lowered to theirs.
"""

import gc
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from node_rig import CAMERA, INPUT, PERIOD, START, TIMEOUT, Rig
from rclpy.duration import Duration
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.publisher import Publisher
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image
from test_lifecycle import ACTIVATE, CONFIGURE, DEACTIVATE, Manager

from vggt_ros.ros.messages import header, image_message, stamp_ns
from vggt_ros.ros.subscriptions import held_topic
from vggt_ros.ros.subscriptions.delivery import MAX_LEFT, Matched, Numbering
from vggt_ros.ros.subscriptions.held_topic import HeldTopic

pytestmark = pytest.mark.ros

OUTCOMES = ("used", "dropped", "skipped", "images refused", "waiting for a program", "discarded")
BYTES = INPUT[0] * INPUT[1] * 3  # of an image
LONG = 600.0  # seconds; longer than any test


class Camera:
    """Publishes numbered images to a node, whose network takes as long as `busy` says."""

    def __init__(self, rig: Rig, taken: list[int]):
        self.rig, self.sent, self.taken = rig, 0, taken

    @property
    def subscription(self) -> Subscription | None:
        """The node's, of images."""
        assert self.rig.node is not None
        mine = [s for s in self.rig.node.subscriptions if s.topic_name == "/image"]
        return mine[0] if mine else None

    def send(self, count: int = 1, publisher: Publisher | None = None) -> int:
        """Publish so many images; once this returns the middleware has them. The last stamp."""
        publisher = publisher or self.rig.images
        stamp = 0
        for _ in range(count):
            self.sent += 1
            stamp = START + self.sent * PERIOD
            pixels = np.full((*INPUT, 3), self.sent % 251, np.uint8)
            publisher.publish(image_message(header(stamp, CAMERA), pixels))
        assert publisher.wait_for_all_acked(Duration(seconds=int(TIMEOUT)))
        return stamp

    def settle(self, publisher: Publisher | None = None) -> None:
        """Until images are held: the node has subscribed with a queue of one, and counts."""
        rig = self.rig
        self.infer(publisher)

        def is_short() -> bool:
            found = self.subscription
            return found is not None and found.qos_profile.depth == 1

        rig.wait_until(is_short, "the queue is one image long")
        self.infer(publisher)

    def infer(self, publisher: Publisher | None = None) -> None:
        """Publish images until one is inferred, the last is taken, and the worker waits again.

        One that is taken later would be counted with those that follow.
        """
        rig, done = self.rig, self.rig.count("inferences")
        newest = None
        while newest not in self.taken[-1:] or rig.count("inferences") == done:
            newest = self.send(1, publisher)  # one is lost where the node subscribes again
            end = time.monotonic() + 0.2
            while newest not in self.taken[-1:] and time.monotonic() < end:
                time.sleep(0.005)
        rig.wait_until(self.is_accounted, "all have an outcome")

    def begin(self, publisher: Publisher | None = None) -> None:
        """Have the network busy with an image, until `finish`."""
        engine = self.rig.engine
        engine.inside.clear()
        engine.gate.clear()
        self.send(1, publisher)
        assert engine.inside.wait(TIMEOUT)

    def finish(self) -> None:
        """All that was published has its outcome."""
        self.rig.engine.gate.set()
        self.rig.wait_until(self.is_accounted, "all have an outcome")

    def is_accounted(self) -> bool:
        """Whether each image that was received has one outcome, and the worker is idle."""
        counts, worker = self.counts, self.rig.node and self.rig.node.worker
        assert worker is not None
        total = sum(counts.get(name, 0) for name in OUTCOMES)
        return worker.wait_until_idle(0.0) and counts.get("received", 0) == total

    @property
    def counts(self) -> dict[str, int]:
        """The node's counters."""
        assert self.rig.node is not None
        return dict(self.rig.node.health.snapshot().counts)

    def since(self, before: dict[str, int]) -> dict[str, int]:
        """What was counted since, without zeros."""
        now, names = self.counts, ("received", "left", *OUTCOMES)
        found = {name: now.get(name, 0) - before.get(name, 0) for name in names}
        return {name: count for name, count in found.items() if count}


@pytest.fixture
def camera(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Camera:
    monkeypatch.setattr(held_topic, "LARGE", BYTES)
    monkeypatch.setattr(held_topic, "LONGEST_HOLD", LONG)
    monkeypatch.setattr("vggt_ros.ros.subscriptions.input_topics.LONGEST_HOLD", LONG)
    taken: list[int] = []  # stamps
    take_in = HeldTopic._take_in

    def taking(self: HeldTopic, msg: Any, info: Any) -> None:
        take_in(self, msg, info)
        taken.append(stamp_ns(msg.header.stamp))

    monkeypatch.setattr(HeldTopic, "_take_in", taking)
    return Camera(rig, taken)


def test_the_newest_of_those_that_came_meanwhile_is_used_and_all_are_counted(
    rig: Rig, camera: Camera
):
    rig.start()
    poses = rig.subscribe_matched("/vggt/pose", PoseStamped)
    camera.settle()
    for _ in range(3):
        before = camera.counts
        camera.begin()
        newest = camera.send(20)
        assert camera.since(before) == {"received": 1}, "the others are not even taken"
        camera.finish()
        assert camera.since(before) == {"received": 21, "left": 19, "used": 2, "dropped": 19}
        rig.wait_until(lambda n=newest: stamp_ns(poses[-1].header.stamp) == n, "its pose")
    left, used, dropped = (rig.count(name) for name in ("left", "used", "dropped"))
    assert left >= 57
    report = {"left in the middleware": left, "images used": used, "dropped": dropped}
    report["images received"] = used + dropped
    rig.wait_for_diagnostics(**{key: str(value) for key, value in report.items()})


def test_one_that_is_inferred_at_once_leaves_none_behind(rig: Rig, camera: Camera):
    rig.start()
    camera.settle()
    before = camera.counts
    for i in range(5):
        camera.send()
        rig.wait_until(lambda n=i: camera.since(before).get("used") == n + 1, "it is used")
    assert camera.since(before) == {"received": 5, "used": 5}


@pytest.mark.parametrize("why", ["small", "compressed", "a longer queue"])
def test_other_images_are_taken_as_they_come(rig: Rig, camera: Camera, why: str, monkeypatch):
    parameters = {}
    if why == "small":
        monkeypatch.setattr(held_topic, "LARGE", BYTES + 1)
    elif why == "a longer queue":
        parameters = {"qos_overrides./image.subscription.depth": 7}
    else:
        parameters = {"image_transport": "compressed"}
    rig.open(**parameters)
    kind, topic = Image, "/image"
    if why == "compressed":
        kind, topic = CompressedImage, "/image/compressed"
    publisher = rig.peer.create_publisher(kind, topic, 10)
    rig.wait_until(publisher.get_subscription_count, "the node subscribes")
    rig.engine.gate.clear()
    for i in range(10):
        head = header(START + i * PERIOD, CAMERA)
        message = image_message(head, np.zeros((*INPUT, 3), np.uint8))
        if kind is CompressedImage:
            message = CompressedImage(header=head, format="jpeg", data=bytes(BYTES))
        received = rig.count("received")
        while rig.count("received") == received:  # it may be replacing its subscription
            publisher.publish(message)
            time.sleep(0.02)
    assert rig.count("left") == 0


def test_a_camera_that_starts_again_is_counted_anew(rig: Rig, camera: Camera):
    rig.start()
    camera.settle()
    before = camera.counts
    camera.begin()
    camera.send(5)
    rig.peer.destroy_publisher(rig.images)
    again = rig.peer.create_publisher(Image, "/image", 10)
    rig.wait_until(again.get_subscription_count, "the node hears it")
    newest = camera.send(3, again)
    assert camera.since(before) == {"received": 1}
    poses = rig.subscribe_matched("/vggt/pose", PoseStamped)
    camera.finish()
    # Numbers of two publishers cannot be compared: what was left is not counted, once.
    assert camera.since(before) == {"received": 2, "used": 2}
    rig.wait_until(lambda: poses and stamp_ns(poses[-1].header.stamp) == newest, "the newest")
    before = camera.counts
    camera.begin(again)
    camera.send(4, again)
    camera.finish()
    assert camera.since(before).get("left") == 3


def test_images_of_two_publishers_are_taken_as_they_come(rig: Rig, camera: Camera):
    rig.start()
    camera.settle()
    other = rig.peer.create_publisher(Image, "/image", 10)
    rig.wait_until(other.get_subscription_count, "the node hears it")
    camera.infer()  # from here on it is known
    before = camera.counts
    camera.begin()
    for i in range(6):
        camera.send(1, (other, rig.images)[i % 2])
        rig.wait_until(lambda n=i: camera.since(before)["received"] == n + 2, "it is taken")
    camera.finish()
    assert camera.since(before) == {"received": 7, "used": 2, "dropped": 5}
    rig.peer.destroy_publisher(other)
    camera.settle()
    before = camera.counts
    camera.begin()
    camera.send(4)
    camera.finish()
    assert camera.since(before).get("left") == 3


def test_a_camera_that_dies_meanwhile_is_missed(
    rig: Rig, camera: Camera, monkeypatch: pytest.MonkeyPatch
):
    rig.start()
    camera.settle()
    before = camera.counts
    camera.begin()
    camera.send(3)
    assert camera.since(before) == {"received": 1}
    monkeypatch.setattr("vggt_ros.ros.subscriptions.input_topics.LONGEST_HOLD", 0.2)
    # Before anything is said the newest image is taken, so that it is known when it came.
    rig.wait_until(lambda: camera.since(before).get("received") == 4, "what is there is taken")
    monkeypatch.setattr("vggt_ros.ros.subscriptions.no_image.TIMEOUT", 0.5)
    rig.wait_for_diagnostics("no image for")
    camera.finish()
    assert camera.since(before) == {"received": 4, "left": 2, "used": 2, "dropped": 2}


def test_one_is_taken_now_and_then_however_long_the_network_takes(
    rig: Rig, camera: Camera, monkeypatch: pytest.MonkeyPatch
):
    rig.start()
    camera.settle()
    monkeypatch.setattr(held_topic, "LONGEST_HOLD", 0.05)
    before = camera.counts
    camera.begin()
    for count in (3, 4):
        received = camera.since(before)["received"]
        camera.send(count)
        rig.wait_until(
            lambda n=received + count: camera.since(before)["received"] == n, "all are known"
        )
    camera.send()
    camera.finish()
    found = camera.since(before)
    assert found["received"] == 9 and found["used"] == 2 and found["dropped"] == 7


def test_of_a_limited_rate_those_that_were_not_due_are_skipped_not_dropped(
    rig: Rig, camera: Camera
):
    rig.start(max_rate_hz=1.0)  # every tenth
    camera.settle()
    before = camera.counts
    rig.engine.inside.clear()
    rig.engine.gate.clear()
    while not rig.engine.inside.is_set():
        camera.send()  # until one is due
        time.sleep(0.02)
    camera.send(35)
    camera.finish()
    found = camera.since(before)
    assert found["received"] == sum(found.get(name, 0) for name in OUTCOMES)
    assert found["left"] >= 34 and found["used"] == 2
    assert abs(found["dropped"] - found["left"] // 10) <= 2, "one a second, about"


@pytest.mark.parametrize("end", ["deactivated", "reset"])
def test_what_waits_when_the_node_is_deactivated_or_reset(rig: Rig, camera: Camera, end: str):
    manager = Manager(rig)
    manager.walk(CONFIGURE, ACTIVATE)
    rig.wait_until(rig.images.get_subscription_count, "the node subscribes")
    camera.settle()
    before = camera.counts
    camera.begin()
    camera.send(5)
    if end == "reset":
        rig.call("reset")
        camera.finish()
        assert camera.since(before) == {"received": 6, "left": 4, "used": 2, "dropped": 4}
        return
    manager.walk(DEACTIVATE)
    camera.finish()
    assert camera.since(before) == {"received": 1, "used": 1}, "the others were never received"
    manager.walk(ACTIVATE)
    rig.wait_until(lambda: rig.images.get_subscription_count() == 1, "the node subscribes")
    camera.infer()
    before = camera.counts
    camera.begin()
    camera.send(5)
    camera.finish()
    assert camera.since(before) == {"received": 6, "left": 4, "used": 2, "dropped": 4}


def test_the_time_in_the_middleware_is_no_age_of_the_stamp(rig: Rig, camera: Camera):
    node = rig.start()
    camera.settle()
    camera.begin()
    pixels = np.zeros((*INPUT, 3), np.uint8)
    stamp = START + (camera.sent + 1) * PERIOD
    ahead = node.get_clock().now().nanoseconds - stamp  # of all stamps of the test
    rig.images.publish(image_message(header(stamp, CAMERA), pixels))
    time.sleep(3.0)
    camera.finish()
    age = float(rig.wait_for_diagnostics("stamp age")["stamp age [s]"])
    assert age - ahead * 1e-9 < 2.0, "it was as old when it came, and waited for three seconds"


def test_events_that_nobody_waits_for_do_not_keep_the_thread_busy(
    rig: Rig, camera: Camera, monkeypatch: pytest.MonkeyPatch
):
    waits = []

    class Counting:
        def __init__(self, *sizes: object):
            self._set = rclpy_implementation.WaitSet(*sizes)

        def __getattr__(self, name: str) -> object:
            if name == "wait":
                waits.append(name)
            return getattr(self._set, name)

    counting = SimpleNamespace(WaitSet=Counting)
    monkeypatch.setattr("vggt_ros.ros.subscriptions.receiver.rclpy_implementation", counting)
    rig.start()
    camera.settle()
    camera.infer()
    rig.peer.destroy_publisher(rig.images)
    another = rig.peer.create_publisher(Image, "/image", 10)  # an event, and no message
    rig.wait_until(another.get_subscription_count, "the node hears it")
    time.sleep(0.5)
    before = len(waits)
    time.sleep(1.0)
    assert before and len(waits) - before < 20


def test_a_node_that_is_destroyed_leaves_the_graph(rig: Rig, camera: Camera):
    node = rig.start()
    camera.settle()
    rig.closing = True
    gc.disable()  # what is not destroyed would be kept by it
    try:
        assert node.close(TIMEOUT)
        rig.executors[-1].shutdown()
        rig.threads[-1].join(TIMEOUT)
        node.destroy_node()
        rig.wait_until(lambda: not rig.peer.count_subscribers("/image"), "it has left")
    finally:
        gc.enable()


ONE = Matched(1, 1)
CASES = {  # number, publishers, losses reported with it: messages left and lost before it
    "reported early": [(1, ONE, 0, (0, 0)), (4, ONE, 3, (0, 2)), (9, ONE, 3, (3, 1))],
    "reported for ever": [(1, ONE, 7, (0, 0)), (4, ONE, 8, (1, 1)), (9, ONE, 8, (4, 0))],
    "as they come": [(1, ONE, 0, (0, 0)), (2, ONE, 0, (0, 0)), (3, ONE, 0, (0, 0))],
    "late to the topic": [(700, ONE, 0, (0, 0)), (703, ONE, 0, (2, 0))],
    "lost and left": [(1, ONE, 0, (0, 0)), (11, ONE, 4, (5, 4)), (12, ONE, 4, (0, 0))],
    "lost before the first": [(5, ONE, 4, (0, 0)), (8, ONE, 4, (2, 0))],
    "another publisher": [(9, ONE, 0, (0, 0)), (12, Matched(2, 1), 0, (0, 0)),
                          (14, Matched(2, 1), 0, (1, 0))],
    "two publishers": [(9, ONE, 0, (0, 0)), (12, Matched(2, 2), 0, (0, 0)),
                       (15, Matched(2, 2), 0, (0, 0)), (18, Matched(2, 1), 0, (0, 0)),
                       (20, Matched(2, 1), 0, (1, 0))],
    "numbers that begin again": [(9, ONE, 0, (0, 0)), (1, ONE, 0, (0, 0)), (4, ONE, 0, (2, 0))],
    "numbers at their end": [(2**64 - 1, ONE, 0, (0, 0)), (0, ONE, 0, (0, 0)), (2, ONE, 0, (1, 0))],
    "other numbers": [(1, ONE, 0, (0, 0)), (MAX_LEFT + 3, ONE, 0, (0, 0))],
    "no numbers": [(None, ONE, 0, (0, 0)), (None, ONE, 3, (0, 0))],
    "nothing is said of publishers": [(1, None, 0, (0, 0)), (9, None, 3, (0, 0))],
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_messages_that_were_left_are_told_by_numbers(case: str):
    numbering = Numbering()
    for number, matched, lost, expected in CASES[case]:
        assert numbering.add(number, matched, lost) == expected, number
        known = number is not None and matched is not None and matched.current == 1
        assert numbering.is_known == known
