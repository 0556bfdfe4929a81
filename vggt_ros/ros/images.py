# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Images of a single camera as they arrive: judged by their stamps, and left for the worker."""

import time
from collections.abc import Callable

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from vggt_ros.errors import FrameError
from vggt_ros.ros.health.diagnostics import Health
from vggt_ros.ros.messages import stamp_ns
from vggt_ros.ros.subscriptions.delivery import TAKEN_AT_ONCE, Delivery
from vggt_ros.ros.tasks import Task
from vggt_ros.timeline import RateLimit, StreamGate


class Images:
    """Used under the lock of the inputs.

    `put` leaves an image for the worker, and returns whether it replaced one; `restart` is called
    with the reason and the stamp when the camera's time goes back. `max_rate` is in Hz, 0: all.
    """

    def __init__(
        self,
        node: Node,
        health: Health,
        max_rate: Callable[[], float],
        put: Callable[[Task], bool],
        restart: Callable[[str, int], object],
    ):
        self._node, self._health, self._max_rate = node, health, max_rate
        self._put, self._restart = put, restart
        self._stream, self._rate, self._stamp_age = StreamGate(), RateLimit(), 0.0

    def begin(self) -> None:
        """The node is active from now on."""
        self.reset()

    def reset(self) -> None:
        """Stamps may be any from now on."""
        self._stream.reset()
        self._rate.reset()

    def discard(self) -> None:
        """The image that was put last will not be taken."""
        self._health.count("discarded")

    def receive(self, msg: Image | CompressedImage, delivery: Delivery = TAKEN_AT_ONCE) -> bool:
        """One more image; True if it waits for the worker, so that a newer one would replace it."""
        ns, left = stamp_ns(msg.header.stamp), delivery.left
        try:
            change = self._stream.check(ns, msg.header.frame_id.lstrip("/"), left=left)
        except FrameError as error:  # a stray message says nothing about the camera's clock
            self._health.image_arrived(self._stamp_age, delivery)
            self._count_left(left, ns)
            self._health.refuse_image(str(error))
            return False
        age = (self._node.get_clock().now().nanoseconds - ns) * 1e-9
        self._stamp_age = age - delivery.waited
        self._health.image_arrived(self._stamp_age, delivery)
        self._count_left(left, ns)
        if change.clock_set_back:
            self._rate.reset()
            self._restart(change.notice, ns)
        elif change.notice and not change.starts_map:  # else the pipeline says it
            self._health.notice(change.notice)
        if not self._rate.is_due(ns, self._max_rate()):
            self._health.count("skipped")
            return False
        if self._put(Task(msg, time.monotonic() - delivery.waited)):
            self._health.count("dropped")
        return True

    def _count_left(self, left: int, ns: int) -> None:
        """What became of the images before this stamp that were left in the middleware.

        A newer one took their place; of a limited rate most of them would not have been used.
        """
        if not left:
            return
        max_rate = self._max_rate()
        dropped = min(self._rate.missed(ns, max_rate), left) if max_rate > 0 else left
        self._health.count("dropped", dropped)
        self._health.count("skipped", left - dropped)
