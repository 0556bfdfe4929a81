# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node's outputs as plain arrays, for callers without ROS messages.

Outputs of one stamp are put together, and the messages of each topic are counted.
"""

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from jaxtyping import Float, Float32, Float64, UInt8, UInt32
from nav_msgs.msg import Path
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage

from vggt_ros.geometry import rotation_from_quaternion
from vggt_ros.msg import PointTracks, QueryPoints
from vggt_ros.ros.messages import stamp_ns

OUTPUTS = {
    "~/depth/image": Image,
    "~/depth/camera_info": CameraInfo,
    "~/depth/confidence": Image,
    "~/rgb/image_rect_color": Image,
    "~/rgb/camera_info": CameraInfo,
    "~/points": PointCloud2,
    "~/window_points": PointCloud2,
    "~/pose": PoseStamped,
    "~/path": Path,
    "~/tracks": PointTracks,
    "/tf": TFMessage,
    "/diagnostics": DiagnosticArray,
}
INPUT = "camera_info"  # comes with every image and is small: its messages are counted as images
MAX_INCOMPLETE = 16  # stamps of which some outputs have not arrived yet


class ReceivedView(NamedTuple):
    """The outputs of one stamp, on one pixel grid."""

    stamp_ns: int
    frame_id: str
    rgb: UInt8[np.ndarray, "h w 3"]
    depth: Float32[np.ndarray, "h w"]  # NaN where invalid
    confidence: Float32[np.ndarray, "h w"]
    intrinsics: Float64[np.ndarray, "3 3"]
    world_from_camera: Float64[np.ndarray, "4 4"]


class ReceivedTracks(NamedTuple):
    """The newest tracks of the queried points."""

    ids: UInt32[np.ndarray, " n"]
    uv: Float32[np.ndarray, "s n 2"]
    visibility: Float32[np.ndarray, "s n"]


class Received(NamedTuple):
    """A summary of the messages since the start."""

    frames: int  # images that were published
    counts: dict[str, int]  # messages by topic
    points: int  # finite ones in the newest cloud
    latency_s: float  # from the newest depth's stamp to its arrival; NaN before it
    input_size: tuple[int, int]  # width and height of the camera's image; zeros before it
    diagnostics: dict[str, str]  # of all statuses of the node
    tracks: ReceivedTracks | None
    problem: str = ""  # what the newest summary says is wrong

    @property
    def missing_topics(self) -> list[str]:
        """Topics of `OUTPUTS` without a message."""
        return [topic for topic in OUTPUTS if not self.counts.get(topic)]


class Listener:
    """Subscribes to all outputs of a node, in a thread of its own, which calls `on_view`."""

    def __init__(
        self,
        node_name: str = "vggt",
        *,
        on_view: Callable[[ReceivedView], None] = lambda view: None,
    ):
        self._context = Context()
        self._context.init()
        self._node = Node("vggt_listener", context=self._context)
        self._on_view = on_view
        self._lock = threading.Lock()
        self._ended = False
        self._counts: Counter[str] = Counter()
        self._parts: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._points, self._latency = 0, float("nan")
        self._input_size = (0, 0)
        self._diagnostics: dict[str, str] = {}
        self._problem = ""
        self._name = node_name
        self._tracks: ReceivedTracks | None = None
        self._path = Path()
        self._subscribe(node_name)
        self._queries = self._node.create_publisher(QueryPoints, f"{node_name}/query_points", 1)
        self._reset = self._node.create_client(Trigger, f"{node_name}/reset")
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="vggt_listener", daemon=True)

    def __enter__(self) -> "Listener":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # First the thread, by a task that wakes it: rclpy raises an RCLError where a context ends
        # while a wait on it begins, and so may an executor that is shut down during one.
        self._ended = True
        self._executor.create_task(lambda: None)
        self._thread.join(5)
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def received(self) -> Received:
        """What has arrived so far."""
        with self._lock:
            counts = {topic: self._counts[topic] for topic in OUTPUTS}
            return Received(
                self._counts[INPUT],
                counts,
                self._points,
                self._latency,
                self._input_size,
                dict(self._diagnostics),
                self._tracks,
                self._problem,
            )

    def path(self) -> dict[int, Float64[np.ndarray, "4 4"]]:
        """world_from_camera of the registered frames by their stamps, where the map has them.

        Of the last segment that was at least half as long as the one before.
        """
        with self._lock:
            poses = self._path.poses
        return {stamp_ns(pose.header.stamp): _matrix(pose) for pose in poses}

    def query(self, uv: Float[np.ndarray, "n 2"]) -> None:
        """Have these pixels of the newest image tracked; their ids count from 0."""
        ids = range(len(uv))
        u, v = (uv[:, axis].astype(float).tolist() for axis in range(2))
        self._queries.publish(QueryPoints(ids=list(ids), u=u, v=v))

    def reset(self, timeout_s: float) -> bool:
        """Call ~/reset; False if no answer comes in time."""
        deadline = time.monotonic() + timeout_s
        if not self._reset.wait_for_service(timeout_sec=timeout_s):
            return False
        answer = self._reset.call_async(Trigger.Request())
        while not answer.done() and time.monotonic() < deadline:
            time.sleep(0.01)
        result = answer.result() if answer.done() else None
        return result is not None and result.success

    def _spin(self) -> None:
        while not self._ended:
            self._executor.spin_once()

    # ---- messages

    def _subscribe(self, node_name: str) -> None:
        # Best effort matches publishers of either kind.
        qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        topics = {topic: topic.replace("~", node_name) for topic in OUTPUTS} | {INPUT: INPUT}
        for topic, name in topics.items():
            kind = OUTPUTS.get(topic, CameraInfo)
            self._node.create_subscription(kind, name, self._callback(topic), qos)

    def _callback(self, topic: str) -> Callable[[Any], None]:
        convert = {
            "~/depth/image": self._on_depth,
            "~/depth/camera_info": lambda msg: self._add_part(msg, "k", np.reshape(msg.k, (3, 3))),
            "~/depth/confidence": lambda msg: self._add_part(msg, "confidence", _floats(msg)),
            "~/rgb/image_rect_color": lambda msg: self._add_part(msg, "rgb", _rgb(msg)),
            "~/pose": lambda msg: self._add_part(msg, "pose", _matrix(msg)),
            "~/points": self._on_points,
            "~/tracks": self._on_tracks,
            "~/path": self._on_path,
            "/diagnostics": self._on_diagnostics,
            INPUT: self._on_input,
        }.get(topic, lambda msg: None)

        def receive(msg: Any) -> None:
            with self._lock:
                self._counts[topic] += 1
            convert(msg)

        return receive

    def _on_input(self, msg: CameraInfo) -> None:
        with self._lock:
            self._input_size = msg.width, msg.height

    def _on_depth(self, msg: Image) -> None:
        with self._lock:
            self._latency = (time.time_ns() - stamp_ns(msg.header.stamp)) / 1e9
        self._add_part(msg, "depth", _floats(msg))

    def _on_points(self, msg: PointCloud2) -> None:
        xyz = np.frombuffer(msg.data, np.uint8).reshape(-1, msg.point_step)[:, :4].view("<f4")
        with self._lock:
            self._points = int(np.isfinite(xyz).sum())

    def _on_path(self, msg: Path) -> None:
        with self._lock:  # not that of a segment that has just begun
            if 2 * len(msg.poses) >= len(self._path.poses):
                self._path = msg

    def _on_tracks(self, msg: PointTracks) -> None:
        shape = (len(msg.stamps), len(msg.ids))
        u, v, visibility = (
            np.array(field, np.float32).reshape(shape) for field in (msg.u, msg.v, msg.visibility)
        )
        tracks = ReceivedTracks(np.array(msg.ids, np.uint32), np.stack([u, v], -1), visibility)
        with self._lock:
            self._tracks = tracks

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        with self._lock:
            for status in msg.status:
                name, _, part = status.name.removeprefix("/").partition(": ")
                if name != self._name:
                    continue
                self._diagnostics.update((pair.key, pair.value) for pair in status.values)
                if not part:  # the summary
                    self._problem = status.message if status.level != DiagnosticStatus.OK else ""

    def _add_part(self, msg: Any, part: str, value: Any) -> None:
        """Keep one output of a stamp; pass all of them on when the last has arrived."""
        stamp = stamp_ns(msg.header.stamp)
        parts = self._parts.setdefault(stamp, {})
        parts[part] = value
        if part == "depth":
            parts["frame_id"] = msg.header.frame_id
        if {"rgb", "depth", "confidence", "k", "pose"} <= parts.keys():
            del self._parts[stamp]
            self._on_view(
                ReceivedView(
                    stamp,
                    parts["frame_id"],
                    parts["rgb"],
                    parts["depth"],
                    parts["confidence"],
                    np.asarray(parts["k"], np.float64),
                    parts["pose"],
                )
            )
        while len(self._parts) > MAX_INCOMPLETE:
            self._parts.popitem(last=False)


def _floats(msg: Image) -> Float32[np.ndarray, "h w"]:
    return np.frombuffer(msg.data, np.float32).reshape(msg.height, msg.width)


def _rgb(msg: Image) -> UInt8[np.ndarray, "h w 3"]:
    return np.frombuffer(msg.data, np.uint8).reshape(msg.height, msg.width, 3)


def _matrix(msg: PoseStamped) -> Float64[np.ndarray, "4 4"]:
    quaternion, position = msg.pose.orientation, msg.pose.position
    xyzw = [quaternion.x, quaternion.y, quaternion.z, quaternion.w]
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_from_quaternion(np.array(xyzw))
    matrix[:3, 3] = position.x, position.y, position.z
    return matrix
