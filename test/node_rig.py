# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node in process, a network that knows the truth, and a robot that publishes and listens."""

import time
from collections.abc import Callable
from threading import Event, Thread
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Path
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage
from vggt_ros.msg import PointTracks, QueryPoints

from vggt_ros.engine.interface import Compiling, Look
from vggt_ros.ros.messages import camera_info_message, header, image_message
from vggt_ros.ros.node import VggtNode

SIZE = (42, 56)  # network pixels, height and width
INPUT = (48, 64)  # camera pixels
STEP = 0.1  # true metres that the camera moves to its right between frames
DEPTH = 2.0  # a wall straight ahead
START = 1_700_000_000_123_456_789
PERIOD = 100_000_000
DEADLINE = 60.0  # seconds; generous, and only ever waited for by a test that fails

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
    "/vggt/tracks": PointTracks,
    "/tf": TFMessage,
}


class Wall:
    """A network that is right up to scale: a camera slides along a wall, one step a frame."""

    name, device, dtype, random_weights = "wall", "pencil", "float32", False
    default_width = SIZE[1]

    def __init__(self) -> None:
        self.looks: list[tuple[int, ...]] = []
        self.prepared: list[tuple[tuple[int, int], int]] = []
        self.missing: set[tuple[int, int]] = set()  # sizes that are still being compiled
        self.compiling: tuple[str, ...] = ()
        self.largest = 99  # frames that a look may cover
        self.resets = 0
        self.gate = Event()  # closed, a look takes for ever
        self.gate.set()
        self.inside = Event()
        self.confidence = 4.0

    def prepare(self, size, window_size, *, depth_frames, guests=0) -> None:
        self.prepared.append((size, window_size))
        if size in self.missing:
            raise Compiling(f"compiling for {size[1]}x{size[0]}; images wait")

    def close(self, timeout) -> bool:
        return True

    def look(self, frame_ids, images, *, depth_frames, queries=None, query_frame=0) -> Look:
        self.inside.set()
        assert self.gate.wait(DEADLINE)
        frame_ids = frame_ids[-self.largest :]
        depth_frames = min(depth_frames, self.largest)
        self.looks.append(frame_ids)
        encoding = np.zeros((len(frame_ids), 9), np.float32)
        encoding[:, 0] = [-STEP * (i - frame_ids[0]) for i in frame_ids]
        encoding[:, 6] = 1.0
        encoding[:, 7:] = 2 * np.arctan(0.5)  # focal length = image size
        depth = np.full((depth_frames, *SIZE), DEPTH, np.float32)
        confidence = np.full_like(depth, self.confidence)
        confidence[:, :, : SIZE[1] // 2] /= 2  # the left half is trusted half as much
        if queries is None:
            return Look(encoding, depth, confidence)
        shift = [-STEP / DEPTH * SIZE[1] * (i - frame_ids[query_frame]) for i in frame_ids]
        tracks = queries[None] + np.array(shift, np.float32)[:, None, None] * np.float32([1, 0])
        ones = np.ones(tracks.shape[:2], np.float32)
        return Look(encoding, depth, confidence, tracks, ones, ones)

    def reset(self) -> None:
        self.resets += 1


class Rig:
    """Node and robot on one context, each spun by a thread of its own."""

    def __init__(self) -> None:
        self.context = Context()
        self.context.init()
        self.executors: list[SingleThreadedExecutor] = []
        self.spinners: list[Thread] = []
        self.wall = Wall()
        self.deaths: list[BaseException] = []
        self.heard: dict[str, list[Any]] = {}
        self.sent: list[tuple[int, str, Any]] = []  # when it was published, where, and what
        self.robot = Node("robot", context=self.context)
        self.node: VggtNode | None = None
        self.pictures = self.robot.create_publisher(Image, "/image", 10)
        self.infos = self.robot.create_publisher(CameraInfo, "/camera_info", 10)
        self.queries = self.robot.create_publisher(QueryPoints, "/vggt/query_points", 10)
        self.listen("/diagnostics", DiagnosticArray)
        self._spin(self.robot)

    def start(
        self, *, arguments: tuple[str, ...] = (), engine: Any = None, **parameters
    ) -> VggtNode:
        """The node on the wall or another engine, with parameters and command line arguments."""
        parameters = {"image_reliability": "reliable", "cache_dir": "", **parameters}
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        self.node = VggtNode(
            open_engine=engine or (lambda _parameters, _progress: self.wall),
            on_death=self.deaths.append,
            context=self.context,
            parameter_overrides=overrides,
            cli_args=["--ros-args", *arguments] if arguments else None,
        )
        self._spin(self.node)
        self.until(lambda: self.pictures.get_subscription_count() == 1, "the node subscribes")
        return self.node

    def listen(self, topic: str, kind: type, *, latched: bool = False) -> None:
        """Collect every message of a topic, and when it was published."""
        box = self.heard[topic] = []

        def take(msg: Any, info: dict[str, int]) -> None:
            box.append(msg)
            self.sent.append((info["source_timestamp"], topic, msg))

        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        self.robot.create_subscription(
            kind, topic, take, QoSProfile(depth=100, durability=durability)
        )

    def listen_to_all(self) -> None:
        for topic, kind in TOPICS.items():
            self.listen(topic, kind)
        self.until(
            lambda: all(p.get_subscription_count() for p in self._outputs()),
            "listeners are matched",
        )

    def _outputs(self):
        assert self.node is not None
        return [p for p in self.node.publishers if p.topic_name in TOPICS]

    def show(self, i: int, **changes: Any) -> Image:
        """Publish frame `i` and wait until it arrives; `changes` set fields of the message."""
        picture = np.full((*INPUT, 3), i % 251, np.uint8)
        msg = image_message(header(START + i * PERIOD, "camera_optical"), picture)
        for field, value in changes.items():
            setattr(msg, field, value)
        arrived = self.count("received")
        self.pictures.publish(msg)
        self.until(lambda: self.count("received") > arrived, f"frame {i} arrives")
        return msg

    def show_and_wait(self, *frames: int) -> None:
        """Publish frames one by one, each after the look at the one before."""
        for i in frames:
            done = self.count("looks")
            self.show(i)
            self.until(lambda n=done: self.count("looks") > n, f"a look at frame {i}")

    def publish_in_turn(self, picture: np.ndarray, stamp: int, count: int) -> None:
        """Several of one picture, each once the node is done with the one before."""

        def outcomes() -> int:
            assert self.node is not None
            refused = self.node.health._refused.counts.total()
            return self.count("looks") + self.count("waiting for a program") + refused

        for i in range(count):
            done = outcomes()
            head = header(stamp + i, "camera_optical")
            self.pictures.publish(image_message(head, picture))
            self.until(lambda n=done: outcomes() > n, "the picture is used, refused or waits")

    def inform(self, intrinsics: np.ndarray, width: int = INPUT[1], height: int = INPUT[0]) -> None:
        head = header(START, "camera_optical")
        self.infos.publish(camera_info_message(head, intrinsics, width=width, height=height))

    def count(self, what: str) -> int:
        assert self.node is not None
        return self.node.health._counts[what]

    def call_reset(self) -> Trigger.Response:
        return self.call("reset")

    def call(self, service: str) -> Trigger.Response:
        client = self.robot.create_client(Trigger, f"/vggt/{service}")
        assert client.wait_for_service(DEADLINE)
        future = client.call_async(Trigger.Request())
        self.until(future.done, f"{service} answers")
        answer = future.result()
        assert answer is not None
        return answer

    def diagnostics(self) -> dict[str, str]:
        """Every value of the newest report, and each status' message under its name."""
        newest = self.heard["/diagnostics"][-1]
        values = {pair.key: pair.value for status in newest.status for pair in status.values}
        return values | {status.name: status.message for status in newest.status}

    def level(self, name: str) -> bytes:
        """Of that status in the newest report."""
        (status,) = [s for s in self.heard["/diagnostics"][-1].status if s.name == name]
        return status.level

    def until_diagnosed(self, *words: str) -> dict[str, str]:
        """Wait for a report in which all these words occur."""

        def said() -> bool:
            return bool(self.heard["/diagnostics"]) and all(
                any(word in f"{key} {value}" for key, value in self.diagnostics().items())
                for word in words
            )

        self.until(said, f"diagnostics say {words}")
        return self.diagnostics()

    def until(self, met: Callable[[], object], what: str) -> None:
        end = time.monotonic() + DEADLINE
        while not met():
            assert not self.deaths, self.deaths
            assert time.monotonic() < end, f"not within {DEADLINE:.0f} s: {what}"
            time.sleep(0.005)

    def _spin(self, node: Node) -> None:
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(node)

        def spin() -> None:
            try:
                executor.spin()
            except ExternalShutdownException:
                pass

        self.executors.append(executor)
        self.spinners.append(Thread(target=spin, daemon=True))
        self.spinners[-1].start()

    def close(self) -> None:
        self.wall.gate.set()
        if self.node is not None:
            assert self.node.close(DEADLINE)
        for executor, spinner in zip(self.executors, self.spinners, strict=True):
            executor.shutdown()
            spinner.join(DEADLINE)
        for node in (self.node, self.robot):
            if node is not None:
                node.destroy_node()
        self.context.shutdown()
