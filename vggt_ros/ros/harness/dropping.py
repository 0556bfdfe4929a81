# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What messages cost that lead to nothing: images that the busy node drops, and a busy /tf.

`python -m vggt_ros.ros.harness.dropping camera WIDTH HEIGHT RATE TRANSPORT` and `... robot
TRANSFORMS RATE` are the publishers beside the node.
"""

import io
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from threading import enumerate as threads
from typing import Any, NamedTuple

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from geometry_msgs.msg import TransformStamped
from PIL import Image as PillowImage
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image
from tf2_msgs.msg import TFMessage

from vggt_ros.engine.interface import InferenceResult
from vggt_ros.errors import UserError
from vggt_ros.ros.harness.instant_engine import InstantEngine
from vggt_ros.ros.harness.timing import START, TIMEOUT
from vggt_ros.ros.inputs import frame_from
from vggt_ros.ros.messages import header, image_message, time_message
from vggt_ros.ros.node import VggtNode
from vggt_ros.ros.subscriptions import receiver


class Dropping(NamedTuple):
    """Of images of one size: how many came, and CPU time of the process and its callbacks."""

    width: int
    height: int
    rate: float  # images a second
    core: float  # share of a core that the process took
    milliseconds: float  # of the threads that receive and that spin, for each image
    reading: float  # milliseconds that the worker needs to read an image that is used


class BusyEngine(InstantEngine):
    """A network whose first inference does not end before `free` is set."""

    def __init__(self, width: int):
        super().__init__(width)
        self.inside, self.free = Event(), Event()

    def infer(self, *args: Any, **named: Any) -> InferenceResult:
        self.inside.set()
        self.free.wait()
        return super().infer(*args, **named)


def dropping(
    width: int, height: int, rate: float, seconds: float = 5.0, transport: str = "raw"
) -> Dropping:
    """Measure for some seconds; `transport` as the parameter `image_transport`.

    Raises `UserError` where no image arrives.
    """
    engine = BusyEngine(518)
    with (
        _spun(engine, image_transport=transport) as (node, thread),
        _beside("camera", width, height, rate, transport),
    ):
        if not engine.inside.wait(TIMEOUT):
            raise UserError("no image of the camera arrived; is the ROS domain in use?")
        both = (thread, *(t for t in threads() if t.name == receiver.NAME))
        callbacks = [time.pthread_getcpuclockid(t.ident or 0) for t in both]

        def clocks() -> tuple[float, float, float, int]:
            # Those that are left in the middleware are counted by the next one that is not.
            before = received = node.health.snapshot().counts["received"]
            while received == before:
                time.sleep(0.05)
                received = node.health.snapshot().counts["received"]
            own = sum(map(time.clock_gettime, callbacks))
            return time.perf_counter(), time.process_time(), own, received

        # What is done once: subscriptions, also again for large images; the first diagnostics.
        time.sleep(3.0)
        before = clocks()
        time.sleep(seconds)
        wall, process, own, count = (b - a for a, b in zip(before, clocks(), strict=True))
        engine.free.set()
    each = 1e3 * own / max(count, 1)
    reading = _reading(message_of(width, height, transport))
    return Dropping(width, height, count / wall, process / wall, each, reading)


def _reading(message: Image | CompressedImage, times: int = 10) -> float:
    """Milliseconds of CPU time until an image is RGB, the median."""
    spent = []
    for _ in range(times):
        began = time.thread_time()
        frame_from(message)
        spent.append(1e3 * (time.thread_time() - began))
    return float(np.median(spent))


def busy_tf(transforms: int, rate: float, seconds: float = 5.0) -> float:
    """Milliseconds of the process for a message of so many transforms on /tf."""
    with _spun(BusyEngine(518)) as (node, _):

        def process_time() -> float:
            began = time.process_time()
            time.sleep(seconds)
            return time.process_time() - began

        time.sleep(1.0)  # what is done once
        idle = process_time()
        with _beside("robot", transforms, rate):
            end = time.monotonic() + TIMEOUT
            while not (node.count_publishers("/tf") and node.count_subscribers("/tf")):
                if time.monotonic() > end:
                    raise UserError("nothing arrived on /tf; is the ROS domain in use?")
                time.sleep(0.1)
            time.sleep(2.0)  # until both sides are matched
            busy = process_time()
    return 1e3 * (busy - idle) / (rate * seconds)


@contextmanager
def _spun(engine: BusyEngine, **parameters: Any) -> Iterator[tuple[VggtNode, Thread]]:
    """A node on a context of its own, and the thread of its callbacks."""
    context = Context()
    context.init()
    values = {"cache_dir": "", **parameters}
    overrides = [Parameter(name, value=value) for name, value in values.items()]
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
def _beside(*arguments: object) -> Iterator[None]:
    """One of this file's programs, in a process of its own."""
    command = [sys.executable, "-m", "vggt_ros.ros.harness.dropping"]
    process = subprocess.Popen([*command, *map(str, arguments)])
    try:
        yield
    finally:
        process.kill()  # rclpy's spin can miss a signal
        process.wait()


def message_of(width: int, height: int, transport: str) -> Image | CompressedImage:
    """An image as a camera sends it: smooth surfaces with noise, which JPEG hardly compresses."""
    random = np.random.default_rng(0)
    coarse = PillowImage.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), PillowImage.Resampling.BICUBIC), np.int16)
    noise = random.integers(-6, 7, smooth.shape, dtype=np.int16)
    pixels = np.clip(smooth + noise, 0, 255).astype(np.uint8)
    head = header(START, "camera")
    if transport == "raw":
        return image_message(head, pixels)
    file = io.BytesIO()
    PillowImage.fromarray(pixels).save(file, "JPEG", quality=90)
    return CompressedImage(header=head, format="rgb8; jpeg compressed bgr8", data=file.getvalue())


def camera(width: int, height: int, rate: float, transport: str) -> None:
    """Publish images of this size until the process is ended."""
    message = message_of(width, height, transport)
    topic = "/image" if transport == "raw" else "/image/compressed"
    node = rclpy.create_node("camera")
    publisher = node.create_publisher(type(message), topic, QoSProfile(depth=2))

    def publish(stamp: Time) -> None:
        message.header.stamp = stamp
        publisher.publish(message)

    repeat(publish, rate)


def robot(transforms: int, rate: float) -> None:
    """Publish a chain of frames until the process is ended."""
    publisher = rclpy.create_node("robot").create_publisher(TFMessage, "/tf", QoSProfile(depth=100))
    frames = ["odom", *(f"link_{i}" for i in range(transforms))]
    links = [TransformStamped(child_frame_id=child) for child in frames[1:]]
    for link, parent in zip(links, frames, strict=False):
        link.header.frame_id, link.transform.rotation.w = parent, 1.0

    def publish(stamp: Time) -> None:
        for link in links:
            link.header.stamp = stamp
        publisher.publish(TFMessage(transforms=links))

    repeat(publish, rate)


def repeat(publish: Callable[[Time], None], rate: float) -> None:
    """Call it so often a second with the time, for ever."""
    began, count = time.monotonic(), 0
    while True:
        publish(time_message(time.time_ns()))
        count += 1
        time.sleep(max(began + count / rate - time.monotonic(), 0.0))


if __name__ == "__main__":
    rclpy.init()
    program, *arguments = sys.argv[1:]
    if program == "camera":
        camera(int(arguments[0]), int(arguments[1]), float(arguments[2]), arguments[3])
    else:
        robot(int(arguments[0]), float(arguments[1]))
