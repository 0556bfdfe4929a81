# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Timers that go on while the thread of the callbacks waits for another one."""

from rclpy.exceptions import InvalidHandle
from rclpy.node import Node


def run_due(node: Node) -> None:
    """Call the node's timers that are due, as its executor would.

    Called by a callback that waits, in its thread: heartbeats, transforms that are sent again and
    reports must not stop for as long as it does.
    """
    for timer in tuple(node.timers):
        try:
            with timer.handle:
                if not timer.is_ready():
                    continue
                call = getattr(timer.handle, "call_timer_with_info", None)  # since Kilted
                (call or timer.handle.call_timer)()
        except InvalidHandle:  # it was just destroyed
            continue
        timer.callback()
