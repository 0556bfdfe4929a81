# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One topic that is published: its message is built only for subscribers."""

import time
from collections.abc import Callable
from typing import Any

from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions

from vggt_ros.ros.subscriptions.qos import offered, settings, unserved


def open_publisher(
    node: Node,
    kind: type,
    topic: str,
    qos: QoSProfile,
    matched: Callable[[Any], object] | None = None,
) -> Publisher:
    """A publisher whose QoS users may override; `matched` is called as subscribers come and go.

    Without rclpy's default events, for which the executor would wait at every wake-up.
    """
    return node.create_publisher(
        kind,
        topic,
        qos,
        qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        event_callbacks=PublisherEventCallbacks(matched=matched, use_default_callbacks=False),
    )


class Output:
    """A publisher whose message is built only for subscribers."""

    def __init__(
        self,
        node: Node,
        kind: type,
        topic: str,
        on_subscriber: Callable[[], None] | None = None,
    ):
        """Reliable: both kinds of subscribers match.  Latched if `on_subscriber` is given."""
        # A profile of its own for each topic: rclpy writes overrides into the one it is given.
        qos = QoSProfile(depth=5)
        if on_subscriber is not None:
            qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        matched = None if on_subscriber is None else lambda _: on_subscriber()
        self._publisher = open_publisher(node, kind, topic, qos, matched)
        self._node = node
        self.name = topic.removeprefix("~/")
        self.is_on = True  # while the node is active
        self.seconds = 0.0  # to build and publish the last message
        self._kept: Any = None

    @property
    def has_subscribers(self) -> bool:
        return self.is_on and self._publisher.get_subscription_count() > 0

    @property
    def unserved(self) -> str:
        """Subscribers that ask for more than is offered, and how to cure it; empty: none."""
        topic = self._publisher.topic_name
        if self._node.count_subscribers(topic) == self._publisher.get_subscription_count():
            return ""
        found = unserved(self._publisher, self._node.get_subscriptions_info_by_topic(topic))
        if not found:
            return ""
        return (
            f"nothing of {topic} arrives at {', '.join(map(offered, found))}: it is published as"
            f" {settings(self._publisher.qos_profile)}; subscribe with no more than that"
        )

    def send(self, build: Callable[[Any], Any]) -> None:
        """Publish `build(kept)`; `kept` is this topic's last message, to be reused."""
        began = time.perf_counter()
        if self.has_subscribers:
            self._kept = build(self._kept)
            self._publisher.publish(self._kept)
        self.seconds = time.perf_counter() - began

    def send_if_any(self, build: Callable[[], Any]) -> None:
        """Publish `build()`, unless that is None."""
        began = time.perf_counter()
        if self.has_subscribers and (msg := build()) is not None:
            self._publisher.publish(msg)
        self.seconds = time.perf_counter() - began
