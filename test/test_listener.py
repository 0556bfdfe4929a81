# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The listener of `vggt demo` closes without an error, whatever arrives meanwhile."""

import threading
import time
from collections.abc import Iterator

import pytest
from rclpy.context import Context
from rclpy.executors import Executor
from rclpy.node import Node
from vggt_ros.msg import PointTracks

from vggt_ros.ros.harness.listener import Listener

pytestmark = pytest.mark.ros


@pytest.fixture
def flood() -> Iterator[None]:
    """Tracks, one right after the other."""
    context = Context()
    context.init()
    node = Node("flood", context=context)
    publisher = node.create_publisher(PointTracks, "vggt/tracks", 10)
    ended = threading.Event()

    def publish() -> None:
        while not ended.wait(1e-4):
            publisher.publish(PointTracks())

    thread = threading.Thread(target=publish)
    thread.start()
    yield
    ended.set()
    thread.join()
    node.destroy_node()
    context.shutdown()


def test_a_listener_that_is_closed_while_messages_arrive_raises_nothing(flood, monkeypatch):
    errors: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", errors.append)
    plain = Executor.get_nodes

    def slowly(self: Executor) -> list[Node]:
        """Stretches the moment between rclpy's look at its context and its use of it."""
        time.sleep(0.01)
        return plain(self)

    monkeypatch.setattr(Executor, "get_nodes", slowly)
    for _ in range(4):
        with Listener() as listener:
            while not listener.received().counts["~/tracks"]:
                time.sleep(0.001)
        assert not [t for t in threading.enumerate() if t.name == "vggt_listener"]
    assert [repr(error.exc_value) for error in errors] == []
