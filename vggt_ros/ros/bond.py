# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The bond with a manager of the life cycle: each side sends heartbeats and hears the other's.

As package bond has it: messages bond/msg/Status on topic `bond`, shared by all bonds of a system,
where a bond is known by its id, here the node's name, and a side of it by its instance.
"""

import time
import uuid
from collections.abc import Callable

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message

from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.publishing.output import open_publisher
from vggt_ros.ros.subscriptions.polled import PolledSubscription

PERIOD = 0.1  # seconds between two heartbeats; nav2's servers and its manager have the same
FAREWELL = 2.0  # seconds in which the end is repeated until the manager confirms it; as bond's own
TOPIC = "bond"


class Side:
    """One side of a bond, without its topic.  `clock` counts seconds.

    While the node is active it says so; its end is repeated until the manager confirms it.
    """

    def __init__(self, timeout: float, clock: Callable[[], float]):
        self.instance = str(uuid.uuid4())
        self._timeout, self._clock = timeout, clock
        self._other = ""  # instance of the manager's side
        self._heard = 0.0  # when
        self._is_broken = self._is_confirmed = False  # by the other side; by this one then
        self._ended: float | None = None  # when this side has ended

    def hear(self, instance: str, *, active: bool) -> None:
        """A message of this bond; one's own are ignored, and a new manager takes up the bond."""
        if instance == self.instance:
            return
        self._other, self._heard, self._is_broken = instance, self._clock(), not active
        self._is_confirmed = self._is_confirmed and self._is_broken

    def end(self) -> None:
        """This node is active no more."""
        self._ended = self._clock()

    def says(self) -> bool | None:
        """What to send now: that it lives, that it has ended, or nothing.

        The other side's end is confirmed once: repeated, it would break the bond of a new manager.
        """
        if self._is_broken:
            confirms, self._is_confirmed = not self._is_confirmed, True
            return False if confirms else None
        if self._ended is None:
            return True
        return None if self.is_over else False

    @property
    def is_over(self) -> bool:
        """Whether this side has ended, and the other has confirmed it, or will not answer."""
        if self._ended is None:
            return False
        waits = self._other and not self._is_broken
        return not waits or self._clock() - self._ended >= FAREWELL

    @property
    def fault(self) -> str:
        """What is wrong with the manager; empty: nothing."""
        if self._ended is not None or not self._other:
            return ""
        if self._is_broken:
            return "the manager of the life cycle has ended the bond, and the node is still active"
        silence = self._clock() - self._heard
        if silence <= self._timeout:
            return ""
        return (
            f"the manager of the life cycle has sent no heartbeat on {TOPIC} for {silence:.0f} s"
            f" (bond_timeout {self._timeout:g} s): it has crashed, or the network between is down"
        )


class Bond:
    """The topic of the node's side; all of it in the thread of the callbacks.

    Messages of other bonds are many (each server of nav2 and its manager send ten a second), so
    that they do not wake the executor: they are taken when a heartbeat is due.
    """

    def __init__(self, node: Node, kind: type, timeout: float, warn: Callable[[str], object]):
        """`kind` is bond/msg/Status; `warn` is told of faults that last, and of their end."""
        self._node, self._kind, self._timeout, self._warn = node, kind, timeout, warn
        self._publisher = open_publisher(node, kind, TOPIC, QoSProfile(depth=5))
        self._messages = PolledSubscription(node, kind, TOPIC, QoSProfile(depth=100))
        self._side: Side | None = None
        self._timer = node.create_timer(
            PERIOD, self._beat, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._timer.cancel()

    def begin(self) -> None:
        """The node is active."""
        for _ in self._messages.take():
            pass  # of bonds before this one
        self._side = Side(self._timeout, time.monotonic)
        self._timer.reset()
        self._beat()

    def end(self) -> None:
        """The node is active no more."""
        if self._side is not None:
            self._side.end()
            self._send(self._side, active=False)
            self._warn("")

    def _beat(self) -> None:
        if self._side is None:
            return
        for data in self._messages.take():
            message = deserialize_message(data, self._kind)
            if message.id == self._node.get_name():
                self._side.hear(message.instance_id, active=message.active)
        self._warn(self._side.fault)
        if (says := self._side.says()) is not None:
            self._send(self._side, active=says)
        if self._side.is_over:
            self._side = None
            self._timer.cancel()

    def _send(self, side: Side, *, active: bool) -> None:
        message = self._kind()
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.id, message.instance_id, message.active = (
            self._node.get_name(), side.instance, active,
        )  # fmt: skip
        message.heartbeat_timeout, message.heartbeat_period = self._timeout, PERIOD
        self._publisher.publish(message)


def open_bond(node: Node, parameters: Parameters, warn: Callable[[str], object]) -> Bond | None:
    """The bond of a node that waits for a manager; None where none is asked for, or can be."""
    if parameters.autostart or parameters.bond_timeout == 0.0:
        return None
    try:
        from bond.msg import Status
    except ImportError:
        warn(
            "package bond is not installed, and a manager that expects a bond takes this node for"
            " dead: install ros-$ROS_DISTRO-bond, or set bond_timeout to 0.0 here and in the"
            " manager"
        )
        return None
    return Bond(node, Status, parameters.bond_timeout, warn)
