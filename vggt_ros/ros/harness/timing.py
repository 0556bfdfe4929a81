# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Time of an inference beside the network: from an Image message to every output, by part.

The node's own code runs with a network that returns at once; another process subscribes to all.
"""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped
from jaxtyping import UInt8
from nav_msgs.msg import OccupancyGrid, Odometry, Path
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image, LaserScan, PointCloud2
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from vggt_ros.errors import UserError
from vggt_ros.msg import MapStatus, PointTracks, QueryPoints
from vggt_ros.ros.harness.instant_engine import InstantEngine, mounts
from vggt_ros.ros.inputs import frame_from
from vggt_ros.ros.interface import OF_A_CAMERA
from vggt_ros.ros.messages import header, image_message, transform_message
from vggt_ros.ros.node import VggtNode
from vggt_ros.ros.rig.cameras import RigTask
from vggt_ros.ros.tasks import Task

TOPICS = {
    "/vggt/depth/image": Image,
    "/vggt/depth/camera_info": CameraInfo,
    "/vggt/depth/confidence": Image,
    "/vggt/rgb/image_rect_color": Image,
    "/vggt/rgb/camera_info": CameraInfo,
    "/vggt/points": PointCloud2,
    "/vggt/window_points": PointCloud2,
    "/vggt/pose": PoseStamped,
    "/vggt/path": Path,
    "/vggt/odometry": Odometry,
    "/vggt/status": MapStatus,
    "/vggt/map_points": PointCloud2,
    "/vggt/keyframes": MarkerArray,
    "/vggt/scan": LaserScan,
    "/vggt/occupancy": OccupancyGrid,
    "/vggt/tracks": PointTracks,
}
RAMP = 12  # inferences before those that count: of a whole window, and with the rig's mounts known
START, PERIOD = 1_700_000_000_000_000_000, 100_000_000  # nanoseconds
TIMEOUT = 30.0  # seconds for the subscribers to appear, and for an update to be published


class Part(NamedTuple):
    """One row: a part of the work, and its median time in milliseconds."""

    name: str
    milliseconds: float


def message_times(
    repeats: int = 40,
    *,
    image_size: tuple[int, int] = (640, 480),
    network_width: int = 518,
    window_size: int = 4,
    queries: int = 16,
    cameras: int = 1,
) -> list[Part]:
    """Medians by part over `repeats` inferences; the last row is their sum for one frame.

    Decoding to geometry run as they are; the rows of topics are the time to build and publish the
    message, where a part that two topics share counts for the first.  `image_size` is width and
    height. Of several `cameras` an inference has one image each; /tf_static says where they stand.
    """
    names = tuple(f"camera_{k}" for k in range(cameras)) if cameras > 1 else ()
    engine = InstantEngine(network_width, cameras)
    with measured_node(engine, window_size, names) as node:
        rng = np.random.default_rng(0)
        image = rng.integers(0, 255, (*reversed(image_size), 3), dtype=np.uint8)
        node.inference.infer(task_at(0, image, names))
        ids = list(range(queries))
        node.inference.query(QueryPoints(ids=ids, u=[50.0 + i for i in ids], v=[40.0 for _ in ids]))
        samples: dict[str, list[float]] = {}
        for i in range(1, repeats + RAMP + 1):
            msg = image_at(i, image)
            began = time.perf_counter()
            for _ in names or ("",):
                frame_from(msg)
            decoded = time.perf_counter()
            node.inference.infer(task_at(i, image, names))
            node.sender.wait_until_idle(TIMEOUT)
            parts = dict(node.health.seconds)
            total = time.perf_counter() - decoded - parts.pop("network")
            parts = {"decode": decoded - began, **parts, "total": total}
            for name, seconds in parts.items() if i > RAMP else ():
                samples.setdefault(name, []).append(1e3 * seconds)
    return [Part(name, median(times)) for name, times in samples.items()]


def image_at(i: int, image: UInt8[np.ndarray, "h w 3"]) -> Image:
    return image_message(header(START + i * PERIOD, "camera"), image)


def task_at(i: int, image: UInt8[np.ndarray, "h w 3"], cameras: tuple[str, ...]) -> Task | RigTask:
    """The image of each camera, or of the one that has no name."""
    if not cameras:
        return Task(image_at(i, image), time.monotonic())
    images: dict[str, Any] = {}
    for name in cameras:
        head = header(START + i * PERIOD, optical_frame(name, cameras))
        images[name] = image_message(head, image)
    return RigTask(images, time.monotonic())


def optical_frame(name: str, cameras: Sequence[str]) -> str:
    """The first camera is its own base."""
    return "camera" if name == cameras[0] else name


def topics_of(cameras: Sequence[str]) -> dict[str, type]:
    """What is subscribed to, of one camera or of a rig."""
    own = {f"/vggt/{name[2:]}" for name in OF_A_CAMERA if name.startswith("~/")}
    topics = {topic: kind for topic, kind in TOPICS.items() if not cameras or topic not in own}
    for name in cameras:
        topics |= {t.replace("/vggt/", f"/vggt/{name}/"): TOPICS[t] for t in own}
    return topics


@contextmanager
def measured_node(
    engine: InstantEngine, window_size: int, cameras: tuple[str, ...] = ()
) -> Iterator[VggtNode]:
    """A node on a context of its own, and a process that subscribes to every topic."""
    context = Context()
    context.init()
    # Metres, and a camera that is its own base: otherwise there would be neither scan nor grid.
    values = {"scale_source": "fixed", "fixed_scale": 1.0, "base_frame": "camera"}
    values |= {"window_size": window_size, "cache_dir": "", "cameras": ",".join(cameras)}
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    node = VggtNode(open_engine=lambda *_: engine, context=context, parameter_overrides=overrides)
    subscriber = subprocess.Popen([sys.executable, "-m", "vggt_ros.ros.harness.timing", *cameras])
    try:
        end = time.monotonic() + TIMEOUT
        while node.health.state != "waiting for the first image" or not all(
            node.count_subscribers(topic) for topic in topics_of(cameras)
        ):
            if time.monotonic() > end or subscriber.poll() is not None:
                raise UserError("the subscribing process did not start; is the ROS domain in use?")
            time.sleep(0.05)
        yield node
    finally:
        subscriber.terminate()
        try:
            subscriber.wait(5.0)
        except subprocess.TimeoutExpired:  # rclpy's spin can miss a signal
            subscriber.kill()
            subscriber.wait()
        node.close(TIMEOUT)
        node.destroy_node()
        context.shutdown()


def _subscribe(cameras: Sequence[str]) -> None:
    """Receive every message as bytes: the subscribers' own work is not part of the timing.

    And say where the cameras of a rig stand.
    """
    rclpy.init()
    node = Node("bench_subscriber")
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    fixed = node.create_publisher(TFMessage, "/tf_static", latched)
    placed = list(zip(cameras, mounts(len(cameras)), strict=True))[1:]
    fixed.publish(TFMessage(transforms=[
        transform_message(header(START, "camera"), optical_frame(name, cameras), pose)
        for name, pose in placed
    ]))  # fmt: skip
    for topic, kind in topics_of(cameras).items():
        node.create_subscription(kind, topic, lambda _: None, QoSProfile(depth=5), raw=True)
    rclpy.spin(node)


if __name__ == "__main__":
    try:
        _subscribe(sys.argv[1:])
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
