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
from jaxtyping import Float32, UInt8
from nav_msgs.msg import OccupancyGrid, Odometry, Path
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image, LaserScan, PointCloud2
from visualization_msgs.msg import MarkerArray

from vggt_ros.engine.interface import InferenceResult
from vggt_ros.errors import UserError
from vggt_ros.msg import MapStatus, PointTracks, QueryPoints
from vggt_ros.ros.inputs import frame_from
from vggt_ros.ros.interface import OF_A_CAMERA
from vggt_ros.ros.messages import header, image_message
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
START, PERIOD = 1_700_000_000_000_000_000, 100_000_000  # nanoseconds
TIMEOUT = 30.0  # seconds for the subscribers to appear, and for an update to be published


class Part(NamedTuple):
    """One row: a part of the work, and its median time in milliseconds."""

    name: str
    milliseconds: float


class InstantEngine:
    """A network that returns at once: a tilted plane, high confidence, all queries visible."""

    name, device, dtype, random_weights = "instant", "none", "float32", False
    fingerprint = "instant"
    compiling, cache_fault = (), ""

    def __init__(self, width: int):
        self.default_width = width

    def prepare(self, *_: Any, **__: Any) -> None: ...

    def reset(self) -> None: ...

    def obstacle(self, *_: Any, **__: Any) -> str:
        return ""

    def close(self, timeout: float) -> bool:
        return True

    def describe(self, frame_id: int) -> Float32[np.ndarray, "2"]:
        return np.array([np.cos(0.1 * frame_id), np.sin(0.1 * frame_id)], np.float32)

    def infer(
        self, frame_ids, images, *, depth_frames: int, queries=None, query_frame: int = 0
    ) -> InferenceResult:
        height, width = images[-1].shape[:2]
        encoding = np.zeros((len(frame_ids), 9), np.float32)
        encoding[:, 0] = [-0.02 * (i - frame_ids[0]) for i in frame_ids]
        encoding[:, 6:] = 1.0
        plane = np.linspace(1, 4, width, dtype=np.float32) + np.zeros((height, 1), np.float32)
        depth = np.broadcast_to(plane, (depth_frames, height, width))
        confidence = np.full_like(depth, 4.0)
        if queries is None:
            return InferenceResult(encoding, depth, confidence)
        tracks = np.broadcast_to(queries, (len(frame_ids), *queries.shape))
        ones = np.ones(tracks.shape[:2], np.float32)
        return InferenceResult(encoding, depth, confidence, tracks, ones, ones)


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
    height. Of several `cameras` an inference has one image each.
    """
    names = tuple(f"camera_{k}" for k in range(cameras)) if cameras > 1 else ()
    with measured_node(InstantEngine(network_width), window_size, names) as node:
        rng = np.random.default_rng(0)
        image = rng.integers(0, 255, (*reversed(image_size), 3), dtype=np.uint8)
        node.inference.infer(task_at(0, image, names))
        ids = list(range(queries))
        node.inference.query(QueryPoints(ids=ids, u=[50.0 + i for i in ids], v=[40.0 for _ in ids]))
        samples: dict[str, list[float]] = {}
        for i in range(1, repeats + window_size + 1):
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
            for name, seconds in parts.items() if i > window_size else ():
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
        head = header(START + i * PERIOD, "camera" if name == cameras[0] else name)
        images[name] = image_message(head, image)
    return RigTask(images, time.monotonic())


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


def _subscribe(topics: dict[str, type]) -> None:
    """Receive every message as bytes: the subscribers' own work is not part of the timing."""
    rclpy.init()
    node = Node("bench_subscriber")
    for topic, kind in topics.items():
        node.create_subscription(kind, topic, lambda _: None, QoSProfile(depth=5), raw=True)
    rclpy.spin(node)


if __name__ == "__main__":
    try:
        _subscribe(topics_of(sys.argv[1:]))
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
