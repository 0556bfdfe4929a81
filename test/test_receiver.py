# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The thread that receives: no executor spins here, so that it alone can take messages."""

import time
from collections.abc import Callable, Iterator
from threading import Event
from threading import enumerate as threads
from typing import Any

import pytest
from rclpy.context import Context
from rclpy.node import Node
from std_msgs.msg import String

from vggt_ros.ros.subscriptions.receiver import NAME, Receiver

pytestmark = pytest.mark.ros

TIMEOUT = 60.0  # seconds; only ever waited for by a test that fails


class Topics:
    """A node that receives, and one that publishes."""

    def __init__(self) -> None:
        self.context = Context()
        self.context.init()
        self.node, self.peer = (Node(name, context=self.context) for name in ("node", "peer"))
        self.failures: list[BaseException] = []
        self.received: list[str] = []
        self.receiver = Receiver(self.node, self.failures.append)
        self._publishers: dict[str, object] = {}

    def subscribe(self, topic: str, receive: Callable[[String, Any], object] | None = None):
        """Receive a topic of a publisher of the peer, once both are matched."""
        receive = receive or (lambda msg, _: self.received.append(msg.data))
        group = self.receiver.group
        found = self.node.create_subscription(String, topic, receive, 10, callback_group=group)
        self.receiver.add(found, receive)
        publisher = self._publishers[topic] = self.peer.create_publisher(String, topic, 10)
        wait_until(publisher.get_subscription_count)
        return found

    def publish(self, topic: str, text: str) -> None:
        self._publishers[topic].publish(String(data=text))  # type: ignore[attr-defined]

    def close(self) -> None:
        self.receiver.stop(TIMEOUT)
        for node in (self.node, self.peer):
            node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def topics() -> Iterator[Topics]:
    found = Topics()
    yield found
    found.close()


def wait_until(met: Callable[[], object]) -> None:
    end = time.monotonic() + TIMEOUT
    while not met():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.002)


def running() -> int:
    """How many such threads there are."""
    return sum(thread.name == NAME for thread in threads())


def test_topics_that_come_later_are_received_too_in_order(topics):
    for topic in ("/one", "/two"):
        topics.subscribe(topic)
        for i in range(5):
            topics.publish(topic, f"{topic} {i}")
        wait_until(lambda last=f"{topic} 4": last in topics.received)
    assert topics.received == [f"{topic} {i}" for topic in ("/one", "/two") for i in range(5)]


def test_nothing_of_a_topic_is_received_once_it_is_removed_and_others_go_on(topics):
    gone, kept = topics.subscribe("/gone"), topics.subscribe("/kept")
    with topics.receiver.lock:  # its messages may have been taken already
        topics.publish("/gone", "late")
        topics.receiver.remove(gone)
    topics.node.destroy_subscription(gone)
    topics.publish("/kept", "here")
    wait_until(lambda: "here" in topics.received)
    wait_until(lambda: not topics.peer.count_subscribers("/gone"))
    assert topics.received == ["here"] and kept in topics.node.subscriptions


def test_a_subscription_that_was_destroyed_costs_itself(topics):
    lost = topics.subscribe("/lost")
    topics.node.destroy_subscription(lost)
    topics.subscribe("/kept")
    topics.publish("/kept", "here")
    wait_until(lambda: topics.received == ["here"])
    assert not topics.failures


def test_whoever_holds_the_lock_meets_no_message(topics):
    taken = Event()
    topics.subscribe("/topic", lambda *_: taken.set())
    with topics.receiver.lock:
        topics.publish("/topic", "one")
        assert not taken.wait(0.2)
    assert taken.wait(TIMEOUT)


def test_an_error_ends_the_thread_and_is_told(topics):
    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    topics.subscribe("/topic", fail)
    topics.publish("/topic", "one")
    wait_until(lambda: topics.failures)
    assert str(topics.failures[0]) == "broken"
    wait_until(lambda: not running())


@pytest.mark.parametrize("end", ["stop", "shutdown of ROS"])
def test_the_thread_ends(topics, end):
    topics.subscribe("/topic")
    assert running() == 1
    if end == "stop":
        assert topics.receiver.stop(TIMEOUT)
    else:
        topics.context.shutdown()
    wait_until(lambda: not running())
    assert not topics.failures
