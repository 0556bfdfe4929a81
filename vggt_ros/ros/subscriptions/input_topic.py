# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A topic that the node reads: subscribed as its publishers offer it, and watched.

A subscription that requests more than a publisher offers receives nothing from it, and one that
requests less loses large messages.  Publishers may come later or change, so the graph is read
periodically, and a subscription that no longer fits is replaced.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo

from vggt_ros.errors import sentence
from vggt_ros.ros.messages import stamp_ns
from vggt_ros.ros.subscriptions.arrivals import Arrivals
from vggt_ros.ros.subscriptions.delivery import TAKEN_AT_ONCE, Delivery, Info
from vggt_ros.ros.subscriptions.graph_names import is_remapped, listed, publishing
from vggt_ros.ros.subscriptions.qos import Reliability, is_kept, is_reliable, offered, overridden
from vggt_ros.ros.subscriptions.receiver import Receiver
from vggt_ros.ros.subscriptions.topic_types import mismatch, type_name
from vggt_ros.ros.subscriptions.traffic import Traffic

POLICIES = [QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH]  # beside reliability, which may be auto
MIN_ARRIVED = 0.6  # share of the images below which it is a warning

Warn = Callable[[str, str], object]  # subject and text; an empty text ends the warning


class Source(NamedTuple):
    """What an input may be read from."""

    kind: type
    topic: str


class InputTopic:
    """One topic, subscribed; `name` is the node's name for it, `topic` what it is remapped to."""

    def __init__(
        self,
        node: Node,
        name: str,
        receive: Callable[..., Any],
        sources: Sequence[Source],
        warn: Warn,
        receiver: Receiver,
        *,
        depth: int,
        reliability: Reliability,
        watched: bool = False,
        kept: bool = False,
    ):
        """`sources` are alternatives: the first whose topic carries its type is read.

        Users may override QoS by parameters (`UserError` for one that is no reliability). If it is
        `watched`, losses are counted by stamps, and with `kept` what was published before the start
        is read too.
        """
        self._node, self._receive, self._sources, self._depth = node, receive, sources, depth
        self._receiver, self._policies = receiver, POLICIES
        self._warn, self._failed = warn, 0  # messages in a row that could not be taken in
        self.name, self.arrivals = name, Arrivals()
        self.kind, self.topic = sources[0]
        self.publishers: list[TopicEndpointInfo] = []  # of any type, on one of the topics
        self._heard = self.topic  # where they are
        self._watched, self._asks_for_kept = watched, kept
        self.traffic = Traffic(time.monotonic)
        self._asked = overridden(node, self.topic, reliability)
        self.is_reliable = self._asked == "reliable"
        self._read_graph()
        self._live: Subscription | None = None
        self._kept: Subscription | None = None
        self._subscribed_as: tuple[object, ...] = ()

    def switch(self, *, is_on: bool) -> None:
        """Subscribe, or end that."""
        if is_on:
            self._read_graph()
            self._live = self._subscribe()
            return
        for subscription in (self._live, self._kept):
            if subscription is not None:
                self._end(subscription)
        self._live = self._kept = None
        self.arrivals = Arrivals()

    @property
    def is_remapped(self) -> bool:
        """Whether the user gave it a topic."""
        return is_remapped(self._node, self.name)

    @property
    def matching(self) -> list[TopicEndpointInfo]:
        """Publishers of the right type."""
        return [p for p in self.publishers if p.topic_type == type_name(self.kind)]

    @property
    def mismatch(self) -> str:
        """What is published instead, and what to do; empty where nothing else is."""
        if self.matching or not self.publishers:
            return ""
        return mismatch(self.name, type_name(self.kind), self._heard, self.publishers)

    @property
    def unmatched(self) -> str:
        """Publishers that offer less than this subscription asks for; empty where none does."""
        weak = [p for p in self.matching if not is_reliable(p)] if self.is_reliable else []
        if not weak:
            return ""
        return (
            f"{self.name} is subscribed as reliable, and of {', '.join(map(offered, weak))} on"
            f" {self.topic} nothing arrives: have it published as reliable, or set"
            f" qos_overrides.{self._sources[0].topic}.subscription.reliability to best_effort"
        )

    @property
    def silence(self) -> str:
        """That a topic that the user has named has no publisher; empty where it has one."""
        if self.publishers or not self.is_remapped:
            return ""
        others = listed(publishing(self._node, self.kind))
        return (
            f"{self.name} is remapped to {self.topic}, which has no publisher; topics of"
            f" {type_name(self.kind)} with one: {others or 'none'}"
        )

    @property
    def losses(self) -> str:
        """How many messages do not arrive, and what to do; empty where most do."""
        found = self.arrivals.found
        if found is None or found.count >= MIN_ARRIVED * found.sent or not self.matching:
            return ""
        if len(self.matching) > 1:  # their stamps interleave, and say nothing of losses
            nodes = ", ".join(sorted(p.node_name for p in self.matching))
            return (
                f"{self.name} has {len(self.matching)} publishers on {self.topic} ({nodes}), whose"
                " messages are mixed: end all but one, or remap them to topics of their own"
            )
        offered = all(is_reliable(p) for p in self.matching)
        if self.is_reliable:
            cure = (
                "the driver, the network or this computer loses them: lower the camera's rate or"
                " size, or set image_transport to compressed"
            )
        elif offered:
            cure = "their publisher is reliable: set image_reliability to auto"
        else:
            cure = (
                "have them published as reliable, or give the publisher's process the Fast DDS"
                " profile config/fastdds.xml"
            )
        return (
            f"{self.name} is received in part: {found.count} of {found.sent} messages arrived on"
            f" {self.topic}, by their stamps ({found.period_ns * 1e-6:.0f} ms apart); {cure}"
        )

    @property
    def _settings(self) -> tuple[object, ...]:
        """Those of the live subscription."""
        return self.kind, self.topic, self.is_reliable, self._depth

    def follow(self) -> None:
        """Read who publishes, and subscribe again where something else is offered now."""
        before = self._subscribed_as
        self._read_graph()
        if self._live is not None and before != self._settings:
            self._end(self._live)
            self._live = self._subscribe()
            if self._kept is not None and before[1] != self.topic:
                self._end(self._kept)
                self._kept = None
            if before[:2] != (self.kind, self.topic):
                log = self._node.get_logger()
                log.info(f"{self.name} is read from {self.topic}, a {type_name(self.kind)}")
        if self._asks_for_kept:
            self._follow_kept()

    def _read_graph(self) -> None:
        """Which topic to read, and how, by who publishes."""
        topics = dict.fromkeys(source.topic for source in self._sources)
        found = {topic: self._node.get_publishers_info_by_topic(topic) for topic in topics}
        types = {topic: {p.topic_type for p in there} for topic, there in found.items()}
        fits = (s for s in self._sources if type_name(s.kind) in types[s.topic])
        heard = (topic for topic in topics if found[topic])
        self.kind, self.topic = next(fits, (self.kind, self.topic))
        self._heard = self.topic if found[self.topic] else next(heard, self.topic)
        self.publishers = found[self._heard]
        if self._asked == "auto" and self.matching:
            self.is_reliable = all(is_reliable(p) for p in self.matching)

    def _follow_kept(self) -> None:
        """A second subscription beside the live one while a publisher offers kept messages.

        It alone gets those, and nothing from other publishers.  What is published while both
        exist arrives twice.
        """
        offered = any(is_kept(p) and is_reliable(p) for p in self.matching)
        if offered and self._kept is None:
            self._kept = self._subscribe(DurabilityPolicy.TRANSIENT_LOCAL)
        elif not offered and self._kept is not None:
            self._end(self._kept)
            self._kept = None

    def _subscribe(self, durability=DurabilityPolicy.VOLATILE) -> Subscription:
        kept = durability == DurabilityPolicy.TRANSIENT_LOCAL
        policies = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT
        reliability = policies[0] if kept or self.is_reliable else policies[1]
        if not kept:
            self._subscribed_as = self._settings
        subscription = self._node.create_subscription(
            self.kind,
            self.topic,
            self._on_message,
            QoSProfile(depth=self._depth, reliability=reliability, durability=durability),
            callback_group=self._receiver.group,
            qos_overriding_options=QoSOverridingOptions(self._policies),
            # What does not match is replaced here, or a warning of this file's.
            event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
        )
        self._receiver.add(subscription, self._on_message, self._events_of(subscription))
        return subscription

    def _events_of(self, subscription: Subscription) -> Callable[[], object] | None:  # noqa: ARG002
        """How its events are read, if it has any."""
        return None

    def _end(self, subscription: Subscription) -> None:
        self._receiver.remove(subscription)
        self._node.destroy_subscription(subscription)

    def _on_message(self, msg: Any, info: Info | None = None) -> None:
        """Take a message in; one that nothing here expects costs itself, not the node."""
        before, fault = self._failed, ""
        try:
            self._take_in(msg, info or {})
        except Exception as error:
            fault = sentence(error)
        self._failed = self._failed + 1 if fault else 0
        if fault or before:
            text = f"the last {self._failed} messages on {self.topic} are not used: {fault}"
            self._warn(f"messages on {self.name}", text if fault else "")

    def _take_in(self, msg: Any, info: Info) -> None:  # noqa: ARG002
        self._count(msg, TAKEN_AT_ONCE)
        self._receive(msg)

    def _count(self, msg: Any, delivery: Delivery) -> None:
        self.traffic.add(delivery)
        if self._watched:
            self.arrivals.add(stamp_ns(msg.header.stamp), delivery)
