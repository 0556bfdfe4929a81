# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The thread that waits for messages, apart from rclpy's executor.

For each message an executor lists all that the node has and builds what it waits for again: a
millisecond or more in a node with twenty subscriptions and services, at the rate of the camera, its
calibration, odometry and an IMU. Here only the subscriptions are waited for, and what is waited for
is built when they change. Services, timers and parameters stay with the executor.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from threading import RLock, Thread
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.exceptions import InvalidHandle
from rclpy.guard_condition import GuardCondition
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.subscription import Subscription

from vggt_ros.ros.subscriptions.delivery import Info

Receive = Callable[[Any, Info], object]
NAME = "vggt_inputs"  # of the thread


class NeverExecuted(CallbackGroup):
    """Executors leave its members out of what they wait for."""

    def can_execute(self, entity) -> bool:  # noqa: ARG002
        return False

    def beginning_execution(self, entity) -> bool:  # noqa: ARG002
        return False

    def ending_execution(self, entity) -> None:
        """Nothing was begun."""


class Receiver:
    """Takes messages of subscriptions, one at a time, in a thread of its own.

    Messages are taken, and callbacks run, under `lock`; others hold it for what they share with
    those. Subscriptions that are added belong to `group`. `fail` is called with an error that ends
    the thread.
    """

    def __init__(self, node: Node, fail: Callable[[BaseException], object]):
        self.lock: AbstractContextManager[Any] = RLock()
        self.group = NeverExecuted()
        self._context, self._fail = node.context, fail
        self._receive: dict[Subscription, Receive] = {}
        self._read_events: dict[Subscription, Callable[[], object]] = {}
        self._held: dict[Subscription, float] = {}  # and until when, by the steady clock
        self._changed, self._stopping = GuardCondition(None, None, node.context), False
        self._thread: Thread | None = None
        node.context.on_shutdown(self._wake)

    def add(
        self,
        subscription: Subscription,
        receive: Receive,
        read_events: Callable[[], object] | None = None,
    ) -> None:
        """Have `receive` called with each message from now on.

        In Fast DDS an event of a subscription ends each wait for it until the event is read: so
        `read_events` is called where a wait brought no message.
        """
        with self.lock:
            if read_events is not None:
                self._read_events = {**self._read_events, subscription: read_events}
            self._receive = {**self._receive, subscription: receive}
            if self._thread is None and not self._stopping:
                self._thread = Thread(target=self._run, name=NAME, daemon=True)
                self._thread.start()
        self._wake()

    def remove(self, subscription: Subscription) -> None:
        """No message of it is received once this returns."""
        with self.lock:
            self._receive = {s: r for s, r in self._receive.items() if s is not subscription}
            self._read_events.pop(subscription, None)
            self._release(subscription)
        self._wake()

    def hold(self, subscription: Subscription, seconds: float) -> None:
        """Take none of its messages for so long, or until `fetch`; called under the lock."""
        self._held = {**self._held, subscription: time.monotonic() + seconds}

    def fetch(self, subscription: Subscription) -> None:
        """Take a message of it in this thread, if there is one; held no longer, unless by that."""
        with self.lock:
            if subscription not in self._receive or self._stopping or not self._context.ok():
                return
            was_held = self._release(subscription)
            self._take(subscription)
            if was_held and subscription not in self._held:
                self._wake()

    def _release(self, subscription: Subscription) -> bool:
        if subscription not in self._held:
            return False
        self._held = {s: until for s, until in self._held.items() if s is not subscription}
        return True

    def stop(self, timeout: float) -> bool:
        """End the thread; True if it ended within `timeout` seconds."""
        self._stopping = True
        self._wake()
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _wake(self) -> None:
        try:
            self._changed.trigger()
        except InvalidHandle:  # the context is gone
            pass

    def _run(self) -> None:
        try:
            while not self._stopping and self._context.ok():
                self._receive_from(self._receive)
        except BaseException as error:  # of rclpy: those of callbacks are theirs
            self._fail(error)

    def _receive_from(self, known: dict[Subscription, Receive]) -> None:
        """Take messages of these subscriptions, until there are others."""
        with ExitStack() as used:
            handles: dict[Subscription, Any] = {}
            for subscription in known:
                try:
                    used.enter_context(subscription.handle)
                    handles[subscription] = subscription.handle
                except InvalidHandle:  # it was destroyed
                    self.remove(subscription)
            used.enter_context(self._changed.handle)
            used.enter_context(self._context.handle)
            wait_set = rclpy_implementation.WaitSet(
                len(handles), 1, 0, 0, 0, 0, self._context.handle
            )
            while known is self._receive and not self._stopping and self._context.ok():
                held, now = self._held, time.monotonic()
                wait_set.clear_entities()
                for subscription, handle in handles.items():
                    if held.get(subscription, now) <= now:
                        wait_set.add_subscription(handle)
                wait_set.add_guard_condition(self._changed.handle)
                ends = [until - now for until in held.values() if until > now]
                wait_set.wait(int(min(ends) * 1e9) + 1 if ends else -1)
                ready = wait_set.get_ready_entities("subscription")
                for subscription, handle in handles.items():
                    if handle.pointer in ready:
                        self._take_unless_held(subscription)
                if not ready:
                    with self.lock:
                        for read in self._read_events.values():
                            read()

    def _take_unless_held(self, subscription: Subscription) -> None:
        with self.lock:
            until = self._held.get(subscription)
            if until is not None and until > time.monotonic():
                return  # since it was waited for
            self._release(subscription)
            self._take(subscription)

    def _take(self, subscription: Subscription) -> None:
        """Under the lock: so whoever fetches waits for what is being taken."""
        receive = self._receive.get(subscription)
        if receive is None:
            return
        try:
            with (handle := subscription.handle):
                found = handle.take_message(subscription.msg_type, subscription.raw)
        except InvalidHandle:  # it was destroyed
            return
        if found is not None:
            receive(*found)
