# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A subscription that no executor waits for: its messages are taken when they are needed."""

from collections.abc import Iterator

from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions

from vggt_ros.ros.subscriptions.qos import offered, settings, unmet
from vggt_ros.ros.subscriptions.receiver import NeverExecuted


class PolledSubscription:
    """Serialized messages of a topic, kept by the middleware until `take`."""

    def __init__(self, node: Node, kind: type, topic: str, qos: QoSProfile):
        self._kind = kind
        # The node holds groups weakly.
        self._group = NeverExecuted()
        self._subscription = node.create_subscription(
            kind,
            topic,
            lambda _: None,
            qos,
            callback_group=self._group,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            raw=True,
        )
        self._node, self.topic = node, self._subscription.topic_name
        self.taken = 0  # messages so far

    @property
    def unmatched(self) -> str:
        """Publishers that offer less than is asked for, of which nothing arrives; empty: none."""
        publishers = self._node.count_publishers(self.topic)
        if publishers == self._subscription.get_publisher_count():
            return ""
        asked = self._subscription.qos_profile
        weak = unmet(asked, self._node.get_publishers_info_by_topic(self.topic))
        if not weak:
            return ""
        return (
            f"of {', '.join(map(offered, weak))} on {self.topic} nothing arrives: it is read as"
            f" {settings(asked)}, as by other nodes; have it published so"
        )

    def take(self) -> Iterator[bytes]:
        """The messages that arrived since, oldest first."""
        handle = self._subscription.handle
        while True:
            with handle:  # it may be destroyed between two of them
                found = handle.take_message(self._kind, True)
            if found is None:
                return
            self.taken += 1
            yield found[0]
