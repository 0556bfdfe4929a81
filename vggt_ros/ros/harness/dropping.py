# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What images cost that are dropped: the node while its network is busy, and a camera beside it.

`python -m vggt_ros.ros.harness.dropping WIDTH HEIGHT RATE` is that camera.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from threading import enumerate as threads
from typing import Any, NamedTuple

import numpy as np
import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from vggt_ros.engine.interface import InferenceResult
from vggt_ros.errors import UserError
from vggt_ros.ros import receiver
from vggt_ros.ros.harness.timing import START, TIMEOUT, InstantEngine
from vggt_ros.ros.messages import header, image_message
from vggt_ros.ros.node import VggtNode


class Dropping(NamedTuple):
    """Of images of one size: how many came, and CPU time of the process and its callbacks."""

    width: int
    height: int
    rate: float  # images a second
    core: float  # share of a core that the process took
    milliseconds: float  # of the threads that receive and that spin, for each image


class BusyEngine(InstantEngine):
    """A network whose first inference does not end before `free` is set."""

    def __init__(self, width: int):
        super().__init__(width)
        self.inside, self.free = Event(), Event()

    def infer(self, *args: Any, **named: Any) -> InferenceResult:
        self.inside.set()
        self.free.wait()
        return super().infer(*args, **named)


def dropping(width: int, height: int, rate: float, seconds: float = 5.0) -> Dropping:
    """Measure for some seconds; raises `UserError` where no image arrives."""
    engine = BusyEngine(518)
    with _spun(engine) as (node, thread), _camera(width, height, rate):
        if not engine.inside.wait(TIMEOUT):
            raise UserError("no image of the camera arrived; is the ROS domain in use?")
        both = (thread, *(t for t in threads() if t.name == receiver.NAME))
        callbacks = [time.pthread_getcpuclockid(t.ident or 0) for t in both]

        def clocks() -> tuple[float, float, float, int]:
            received = node.health.snapshot().counts["received"]
            own = sum(map(time.clock_gettime, callbacks))
            return time.perf_counter(), time.process_time(), own, received

        time.sleep(1.0)  # what is done once: subscriptions, the first second of diagnostics
        before = clocks()
        time.sleep(seconds)
        wall, process, own, count = (b - a for a, b in zip(before, clocks(), strict=True))
        engine.free.set()
    return Dropping(width, height, count / wall, process / wall, 1e3 * own / max(count, 1))


@contextmanager
def _spun(engine: BusyEngine) -> Iterator[tuple[VggtNode, Thread]]:
    """A node on a context of its own, and the thread of its callbacks."""
    context = Context()
    context.init()
    overrides = [Parameter("cache_dir", value="")]
    node = VggtNode(open_engine=lambda *_: engine, context=context, parameter_overrides=overrides)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def spin() -> None:
        try:
            executor.spin()
        except ExternalShutdownException:
            pass

    thread = Thread(target=spin, daemon=True)
    thread.start()
    try:
        yield node, thread
    finally:
        engine.free.set()
        node.close(TIMEOUT)
        executor.shutdown()
        thread.join(TIMEOUT)
        node.destroy_node()
        context.shutdown()


@contextmanager
def _camera(width: int, height: int, rate: float) -> Iterator[None]:
    command = [sys.executable, "-m", "vggt_ros.ros.harness.dropping"]
    process = subprocess.Popen([*command, *map(str, (width, height, rate))])
    try:
        yield
    finally:
        process.kill()  # rclpy's spin can miss a signal
        process.wait()


def publish(width: int, height: int, rate: float) -> None:
    """Publish images of this size until the process is ended."""
    rclpy.init()
    node = rclpy.create_node("camera")
    publisher = node.create_publisher(Image, "/image", QoSProfile(depth=2))
    message = image_message(header(START, "camera"), np.zeros((height, width, 3), np.uint8))
    began, count = time.monotonic(), 0
    while True:
        stamp = time.time_ns()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
        publisher.publish(message)
        count += 1
        time.sleep(max(began + count / rate - time.monotonic(), 0.0))


if __name__ == "__main__":
    publish(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
