# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Large images stay in the middleware while they would only be dropped.

Taking a raw 4K image copies its 25 MB twice, within rclpy, for nothing if the network is busy and a
newer one comes. So one image is taken when the worker can use it, and the next not before that:
the middleware keeps the newest, and its publisher's numbers tell how many it has replaced. Fast DDS
reports what was lost on the way to it, but not what a reliable publisher itself has discarded: that
is counted as left.
"""

import time
from collections.abc import Callable
from typing import Any

from rclpy.event_handler import QoSSubscriptionEventType, UnsupportedEventTypeError
from rclpy.exceptions import InvalidHandle
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.qos import HistoryPolicy, QoSPolicyKind
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image

from vggt_ros.ros.subscriptions.delivery import (
    TAKEN_AT_ONCE,
    Delivery,
    Info,
    Matched,
    Numbering,
)
from vggt_ros.ros.subscriptions.input_topic import InputTopic

LARGE = 4_000_000  # bytes of an image; of fewer the copies cost less than all that is done here
LONGEST_HOLD = 2.5  # seconds; then one is taken: silence, and the end of a rate, are those of 3 s


class HeldTopic(InputTopic):
    """A topic of images; `receive` is called with each and its `Delivery`, as `Images.receive`.

    Where it returns True, and the image is large, no other one is taken until `fetch`. Images that
    are compressed or small, of several publishers, of a queue that the user has made longer, or of
    a middleware that does not number them, are taken as they come.
    """

    _events: "_Events | None" = None
    _numbering: Numbering
    _held_since: float | None = None  # seconds of the steady clock; None: not since the last image

    def fetch(self) -> None:
        """Take the newest image now: it can be used.  Any thread."""
        if (live := self._live) is not None and self._depth == 1:
            self._receiver.fetch(live)

    def _events_of(self, subscription: Subscription) -> Callable[[], object] | None:
        self._held_since, self._numbering = None, Numbering()
        if self._depth > 1:
            return None
        self._events = _Events(subscription)
        return self._events.read

    def _end(self, subscription: Subscription) -> None:
        self.close()
        super()._end(subscription)

    def close(self) -> None:
        """Let go of the subscription, which is being destroyed."""
        events, self._events = self._events, None
        if events is not None:
            events.destroy()

    def _take_in(self, msg: Any, info: Info) -> None:
        delivery = self._delivery(info)
        self._count(msg, delivery)
        waits = self._receive(msg, delivery)
        if not isinstance(msg, Image) or len(msg.data) < LARGE:
            return
        self._shorten()
        if waits and self._live is not None and self._is_countable(self._live):
            self._held_since = time.monotonic()
            self._receiver.hold(self._live, LONGEST_HOLD)

    def _shorten(self) -> None:
        """A queue of one, else old images would be taken first; `follow` subscribes again."""
        # The parameter has what the user asks for, else what was the depth first.
        asked = f"qos_overrides.{self.topic}.subscription.depth"
        if self._depth > 1 and self._node.get_parameter(asked).value == self._depth:
            self._depth, self._policies = 1, [QoSPolicyKind.HISTORY]

    def _is_countable(self, live: Subscription) -> bool:
        qos = live.qos_profile
        is_short = qos.history == HistoryPolicy.KEEP_LAST and qos.depth == 1
        return is_short and self._numbering.is_known

    def _delivery(self, info: Info) -> Delivery:
        """How this message came, and the account of those before it begins again."""
        if self._events is None:
            return TAKEN_AT_ONCE
        number = info.get("publication_sequence_number")
        left, lost = self._numbering.add(number, *self._events.read())
        since, self._held_since = self._held_since, None
        if since is None:  # what is missing was lost, here or elsewhere
            return TAKEN_AT_ONCE
        came = info.get("received_timestamp") or 0  # by the system's clock, which may be set
        waited = min((time.time_ns() - came) * 1e-9, time.monotonic() - since)
        return Delivery(left, lost, max(waited, 0.0))


class _Events:
    """What the middleware reports of one subscription."""

    def __init__(self, subscription: Subscription):
        kinds = QoSSubscriptionEventType
        self._matched = _event(subscription, kinds.RCL_SUBSCRIPTION_MATCHED)
        self._lost = _event(subscription, kinds.RCL_SUBSCRIPTION_MESSAGE_LOST)

    def read(self) -> tuple[Matched | None, int]:
        """Its publishers, if the middleware says so, and how many messages were ever lost."""
        matched, lost = _taken(self._matched), _taken(self._lost)
        return (
            None if matched is None else Matched(matched.total_count, matched.current_count),
            0 if lost is None else lost.total_count,
        )

    def destroy(self) -> None:
        """They keep the subscription, and with it the node, in the graph."""
        for event in (self._matched, self._lost):
            if event is not None:
                event.destroy_when_not_in_use()


def _event(subscription: Subscription, kind: Any) -> Any:
    try:
        with (handle := subscription.handle):
            return rclpy_implementation.EventHandle(handle, kind)
    except UnsupportedEventTypeError:
        return None


def _taken(event: Any) -> Any:
    if event is None:
        return None
    try:
        with event:
            return event.take_event()
    except InvalidHandle:  # it was destroyed
        return None
