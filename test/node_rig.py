# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node in this process on a planar engine, and a peer that publishes to it and subscribes."""

import time
from collections.abc import Callable
from threading import Thread
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from fakes.planar_engine import SIZE, PlanarEngine
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Path
from rclpy.context import Context
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage
from vggt_ros.msg import MapStatus, PointTracks, QueryPoints

from vggt_ros.ros.health.diagnostics import Health
from vggt_ros.ros.messages import camera_info_message, header, image_message
from vggt_ros.ros.node import VggtNode

INPUT = (48, 64)  # camera pixels, height and width
CAMERA = "camera_optical"
START = 1_700_000_000_123_456_789
PERIOD = 100_000_000
TIMEOUT = 60.0  # seconds; generous, and only ever waited for by a test that fails
DIAGNOSTICS_PERIOD = 0.02  # seconds; most tests wait for a report
K = np.array([[60.0, 0, 33], [0, 62, 25], [0, 0, 1]])  # of the camera's image

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
    "/vggt/status": MapStatus,
    "/vggt/tracks": PointTracks,
    "/tf": TFMessage,
}


class Rig:
    """Node and peer on one context, each spun by a thread of its own."""

    def __init__(self) -> None:
        self.context = Context()
        self.context.init()
        self.executors: list[SingleThreadedExecutor] = []
        self.threads: list[Thread] = []
        self.engine = PlanarEngine()
        self.engine.confidence[:, : SIZE[1] // 2] = 2.0  # the right half has 4
        self.failures: list[BaseException] = []
        self.closing = False
        self.received: dict[str, list[Any]] = {}
        self.deliveries: list[tuple[int, str, Any]] = []  # time of publication, topic, message
        self.peer = Node("peer", context=self.context)
        self.node: VggtNode | None = None
        self.images = self.peer.create_publisher(Image, "/image", 10)
        self.camera_infos = self.peer.create_publisher(CameraInfo, "/camera_info", 10)
        self.queries = self.peer.create_publisher(QueryPoints, "/vggt/query_points", 10)
        self.subscribe("/diagnostics", DiagnosticArray)
        self._spin(self.peer)

    def start(
        self, *, arguments: tuple[str, ...] = (), engine: Any = None, **parameters
    ) -> VggtNode:
        """The node on this or another engine, with parameters and command line arguments."""
        node = self.open(arguments=arguments, engine=engine, **parameters)
        self.wait_until(lambda: self.images.get_subscription_count() == 1, "the node subscribes")
        return node

    def open(
        self, *, arguments: tuple[str, ...] = (), engine: Any = None, **parameters
    ) -> VggtNode:
        """The same, without waiting for anything: a node that may fail at once."""
        parameters = {"image_reliability": "reliable", "cache_dir": "", **parameters}
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        self.node = VggtNode(
            open_engine=engine or (lambda _parameters, _progress: self.engine),
            on_failure=self.failures.append,
            diagnostics_period=DIAGNOSTICS_PERIOD,
            context=self.context,
            parameter_overrides=overrides,
            cli_args=["--ros-args", *arguments] if arguments else None,
        )
        self._spin(self.node)
        return self.node

    def _spin(self, node: Node) -> None:
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(node)

        def spin() -> None:
            while True:
                try:
                    return executor.spin()
                except ExternalShutdownException:
                    return
                except (AttributeError, InvalidHandle):  # rclpy's, of an executor that is shut down
                    if self.closing:
                        return
                    if node is not self.peer:
                        raise
                    # A test has destroyed what the peer was about to wait for: it spins on.

        self.executors.append(executor)
        self.threads.append(Thread(target=spin, daemon=True))
        self.threads[-1].start()

    def close(self) -> None:
        """End both nodes."""
        self.closing = True
        self.engine.gate.set()
        if self.node is not None:
            assert self.node.close(TIMEOUT)
        for executor, thread in zip(self.executors, self.threads, strict=True):
            executor.shutdown()
            thread.join(TIMEOUT)
        for node in (self.node, self.peer):
            if node is not None:
                node.destroy_node()
        self.context.shutdown()

    # ---- inputs

    def publish(self, i: int, **changes: Any) -> Image:
        """Publish frame `i` and wait until it arrives; `changes` set fields of the message."""
        msg = image_message(
            header(START + i * PERIOD, CAMERA), np.full((*INPUT, 3), i % 251, np.uint8)
        )
        for field, value in changes.items():
            setattr(msg, field, value)
        arrived = self.count("received")
        self.images.publish(msg)
        self.wait_until(lambda: self.count("received") > arrived, f"frame {i} arrives")
        return msg

    def infer(self, *frames: int) -> None:
        """Publish frames one by one, each after the inference of the one before."""
        for i in frames:
            done = self.count("inferences")
            self.publish(i)
            self.wait_until(lambda n=done: self.count("inferences") > n, f"inference {i}")

    def publish_repeatedly(self, image: np.ndarray, stamp: int, count: int) -> None:
        """Publish an image several times, each time after the outcome of the one before."""

        def outcomes() -> int:
            return self.count("inferences") + self.count("waiting for a program") + self.refused

        for i in range(count):
            done = outcomes()
            self.images.publish(image_message(header(stamp + i, CAMERA), image))
            self.wait_until(lambda n=done: outcomes() > n, "the image is used, refused or waits")

    def publish_camera_info(
        self, intrinsics: np.ndarray = K, width: int = INPUT[1], height: int = INPUT[0], **changes
    ) -> None:
        """Publish a calibration and wait for it; `changes` set fields of the message."""
        assert self.node is not None
        msg = camera_info_message(header(START, CAMERA), intrinsics, width=width, height=height)
        for field, value in changes.items():
            setattr(msg, field, value)
        self.camera_infos.publish(msg)
        camera = self.node.inference.camera  # type: ignore[attr-defined]

        def arrived() -> bool:
            known = camera.calibration
            return known is not None and (known.width, known.height) == (width, height)

        self.wait_until(arrived, "the calibration arrives")

    def call(self, service: str) -> Trigger.Response:
        """Call a service of the node and wait for its response."""
        client = self.peer.create_client(Trigger, f"/vggt/{service}")
        assert client.wait_for_service(TIMEOUT)
        future = client.call_async(Trigger.Request())
        self.wait_until(future.done, f"{service} answers")
        response = future.result()
        assert response is not None
        return response

    # ---- outputs

    def subscribe(self, topic: str, kind: type, *, latched: bool = False) -> list[Any]:
        """Collect every message of a topic, and when it was published."""
        messages = self.received[topic] = []

        def receive(msg: Any, info: dict[str, int]) -> None:
            messages.append(msg)
            self.deliveries.append((info["source_timestamp"], topic, msg))

        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        qos = QoSProfile(depth=100, durability=durability)
        self.peer.create_subscription(kind, topic, receive, qos)
        return messages

    def subscribe_matched(self, topic: str, kind: type, *, latched: bool = False) -> list[Any]:
        """The same, once the started node's publisher has this subscriber."""
        messages = self.subscribe(topic, kind, latched=latched)
        self.wait_until(lambda: self.publisher(topic).get_subscription_count(), f"match {topic}")
        return messages

    def subscribe_to_outputs(self) -> None:
        """Collect every message of all outputs."""
        for topic, kind in TOPICS.items():
            self.subscribe(topic, kind)
        for topic in TOPICS:
            self.wait_until(
                lambda t=topic: self.publisher(t).get_subscription_count(), f"match {topic}"
            )

    def publisher(self, topic: str):
        """The node's publisher of a topic."""
        assert self.node is not None
        return next(p for p in self.node.publishers if p.topic_name == topic)

    def count(self, event: str) -> int:
        """A counter of the node's diagnostics."""
        assert self.node is not None
        return self.node.health.snapshot().counts[event]

    @property
    def refused(self) -> int:
        """How many refusals the node has counted."""
        assert self.node is not None
        return self.node.health.snapshot().refusals.total()

    def diagnostics(self) -> dict[str, str]:
        """Every value of the newest report, and each status' message under its name."""
        newest = self.received["/diagnostics"][-1]
        values = {pair.key: pair.value for status in newest.status for pair in status.values}
        return values | {status.name: status.message for status in newest.status}

    def level(self, name: str) -> bytes:
        """Of that status in the newest report."""
        (status,) = [s for s in self.received["/diagnostics"][-1].status if s.name == name]
        return status.level

    def status(self, part: str) -> DiagnosticStatus:
        """That of a part of the node, such as `input`, in the newest report."""
        newest = self.received["/diagnostics"][-1].status
        (status,) = [s for s in newest if s.name == f"/vggt: {part}"]
        return status

    def wait_for_status(
        self, part: str, met: Callable[[DiagnosticStatus], object]
    ) -> DiagnosticStatus:
        """Wait for a report in which the status of a part is as it should be."""
        self.wait_until(lambda: self.received["/diagnostics"], "a report")

        def reported() -> DiagnosticStatus | None:
            return found if met(found := self.status(part)) else None

        return self.wait_until(reported, f"the status of {part}")

    def wait_for_diagnostics(self, *words: str, **values: str) -> dict[str, str]:
        """Wait for a report in which all these words occur and these keys have these values."""

        def reported() -> dict[str, str] | None:
            if not self.received["/diagnostics"]:
                return None
            report = self.diagnostics()
            lines = [f"{key} {value}" for key, value in report.items()]
            is_it = values.items() <= report.items() and all(
                any(word in line for line in lines) for word in words
            )
            return report if is_it else None

        return self.wait_until(reported, f"diagnostics report {words} and {values}")

    def wait_until(self, met: Callable[[], Any], what: str, within: float = TIMEOUT) -> Any:
        """Wait for a condition, and return it; fails with the name of what did not happen."""
        end = time.monotonic() + within
        while not (found := met()):
            assert not self.failures, self.failures
            assert time.monotonic() < end, f"not within {within:.0f} s: {what}"
            time.sleep(0.002)
        return found


def log_of_warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collects the warnings that a node started from now on logs."""
    lines: list[str] = []
    monkeypatch.setattr(
        "vggt_ros.ros.node.Health", lambda clock, _, inform: Health(clock, lines.append, inform)
    )
    return lines
