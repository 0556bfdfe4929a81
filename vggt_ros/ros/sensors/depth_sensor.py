# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Another sensor of depth, for scale source depth: its message of an image, on that image's pixels.

Callbacks keep the last messages, and those that fit an image of the last seconds: a depth camera
publishes after the image that it belongs to. The worker's thread converts what the map asks for.
"""

from collections import deque
from threading import Lock
from typing import Any

import numpy as np
from jaxtyping import Float, Float32
from sensor_msgs.msg import Image, PointCloud2

from vggt_ros.errors import UserError, sentence
from vggt_ros.frames import Frame
from vggt_ros.geometry import transform
from vggt_ros.imaging.calibration import Calibration, is_rectified
from vggt_ros.imaging.grid import Grid
from vggt_ros.mapping.metric.comparisons import KEPT_NS
from vggt_ros.mapping.metric.scale_sources import sparse_depth
from vggt_ros.ros.frame_names import FrameNames
from vggt_ros.ros.health.source_health import SourceHealth, Warnings
from vggt_ros.ros.messages import stamp_ns
from vggt_ros.ros.sensors.camera_infos import CameraInfos
from vggt_ros.ros.sensors.depth_messages import depth_from_image, points_from
from vggt_ros.ros.sensors.depth_view import DepthView
from vggt_ros.ros.subscriptions.input_topics import InputTopics
from vggt_ros.ros.tf.tf_cache import Frames
from vggt_ros.ros.waiting import before

SAME_TIME_NS = 50_000_000  # between an image and another sensor's measurement
RECENT = 20  # messages that are kept for images to come

Message = Image | PointCloud2


class _Expected:
    """An image of the last seconds, and the message that is nearest to it so far."""

    def __init__(self, ns: int):
        self.ns = ns
        self.apart_ns: int | None = None
        self.msg: Message | None = None  # only one that is near enough

    def offer(self, msg: Message) -> None:
        apart = stamp_ns(msg.header.stamp) - self.ns
        if self.apart_ns is None or abs(apart) < abs(self.apart_ns):
            self.apart_ns = apart
            self.msg = msg if abs(apart) <= SAME_TIME_NS else None


class DepthSensor:
    """Messages on `scale_depth` and `scale_points`, by the images that they belong to."""

    def __init__(self, inputs: InputTopics, frames: Frames | None, warnings: Warnings):
        self._frames = frames
        self._lock = Lock()
        self._recent: deque[Message] = deque(maxlen=RECENT)
        self._expected: dict[int, _Expected] = {}
        self._newest_ns = 0  # stamp of the last message
        self._fault = ""  # of the last message that was converted
        self._names = FrameNames(warnings.notify)
        depth = inputs.subscribe_to_images("scale_depth", self._on_depth, raw=True).topic
        cloud = inputs.subscribe(PointCloud2, "scale_points", self._on_depth, 5).topic
        self._infos = CameraInfos(inputs, "scale_depth_info", depth, self._names)
        self._is_rectified = is_rectified(depth, "auto")
        self._health = SourceHealth(
            "scale_source depth",
            f"'{depth}' or '{cloud}'",
            "remap scale_depth or scale_points to the sensor's topic",
            warnings,
        )

    @property
    def stamps(self) -> tuple[int, ...]:
        """Stamps of the last messages."""
        with self._lock:
            return tuple(stamp_ns(msg.header.stamp) for msg in self._recent)

    @property
    def heard(self) -> int:
        """How many messages came."""
        return self._health.heard

    @property
    def calibrated(self) -> tuple[str, ...]:
        """Frames whose camera_info came."""
        return self._infos.frames

    # Callbacks.

    def _on_depth(self, msg: Any) -> None:
        ns = stamp_ns(msg.header.stamp)
        with self._lock:
            self._recent.append(msg)
            self._newest_ns = ns
            for expected in self._expected.values():
                expected.offer(msg)
            self._health.hear(ns)

    def forget_from(self, ns: int) -> None:
        """Time went back to this stamp: measurements from it on were of another time."""
        with self._lock:
            self._recent = deque(before(self._recent, ns), RECENT)
            self._expected = {key: each for key, each in self._expected.items() if key < ns}
            self._newest_ns = max((stamp_ns(m.header.stamp) for m in self._recent), default=0)

    # In the worker's thread.

    def expect(self, frame: Frame) -> None:
        """An image that a message may belong to, now or later."""
        ns = frame.stamp_ns
        with self._lock:
            self._expected = {
                key: each for key, each in self._expected.items() if 0 <= ns - key <= KEPT_NS
            }
            expected = self._expected[ns] = _Expected(ns)
            for msg in self._recent:
                expected.offer(msg)
            apart = [e.apart_ns for e in self._expected.values() if e.apart_ns is not None]
        nearest = min(apart, key=abs, default=None)
        self._health.check(
            ns,
            served=nearest is not None and abs(nearest) <= SAME_TIME_NS,
            apart_ns=nearest,
            allowed_ns=SAME_TIME_NS,
            fault=self._fault,
        )

    def depth_at(self, frame: Frame, grid: Grid) -> Float32[np.ndarray, "h w"] | None:
        """As `frames.DepthSource`; a message of no use is a warning that lasts, by name."""
        with self._lock:
            expected = self._expected.get(frame.stamp_ns)
            if expected is None or expected.msg is None or expected.apart_ns is None:
                return None
            if expected.apart_ns < 0 and self._newest_ns < frame.stamp_ns:
                return None  # the next one may be nearer
            msg, expected.msg = expected.msg, None
        try:
            if isinstance(msg, Image):
                found = self._depth_of_image(msg, frame, grid)
            else:
                points = points_from(msg)
                own = self._names.of("scale_points", msg.header.frame_id)
                found = self._on_pixels("scale_points", own, points, frame, grid)
        except Exception as error:  # whatever is wrong with it: the image is used without
            self._fault = sentence(error)
            self._health.fail(self._fault)
            return None
        self._fault = ""
        return found

    def _depth_of_image(self, msg: Image, frame: Frame, grid: Grid) -> Float32[np.ndarray, "h w"]:
        """The depth image as it is where it is registered to the image, else registered here."""
        metres = depth_from_image(msg)
        own, camera = self._names.of("scale_depth", msg.header.frame_id), frame.camera
        size = grid.input_height, grid.input_width
        info = self._infos.of(own)
        view = None if info is None else DepthView(Calibration.of(info), self._is_rectified)
        if own in ("", camera) and metres.shape == size and (view is None or view.is_of(frame)):
            return metres
        if view is None:
            raise UserError(self._not_registered(metres.shape, size, own, camera))
        points = view.points(metres)
        return self._on_pixels("scale_depth", own or camera, points, frame, grid)

    def _not_registered(
        self, shape: tuple[int, ...], size: tuple[int, int], own: str, camera: str
    ) -> str:
        cure = f"use the driver's aligned depth, or publish its camera_info on {self._infos.topics}"
        if own not in ("", camera):
            return (
                f"scale_depth is in '{own}' and the image in '{camera}', so it is not registered to"
                f" the image, and there is no camera_info of it; {cure}"
            )
        return (
            f"scale_depth is {shape[1]}x{shape[0]} but the image {size[1]}x{size[0]}; register it"
            f" to the camera's image: {cure}"
        )

    def _on_pixels(
        self,
        topic: str,
        own: str,
        points: Float[np.ndarray, "p 3"],
        frame: Frame,
        grid: Grid,
    ) -> Float32[np.ndarray, "h w"]:
        """The nearest of the points on each pixel of the image, by /tf and its calibration."""
        if frame.intrinsics is None:
            raise UserError(f"{topic} needs camera_info: it maps points to pixels")
        camera = frame.camera
        camera_from_sensor = np.eye(4) if own == camera else None
        if camera_from_sensor is None and self._frames is not None:
            camera_from_sensor = self._frames.lookup(camera, own, frame.stamp_ns)
        if camera_from_sensor is None:
            raise UserError(f"{topic} is in '{own}', which /tf does not connect with '{camera}'")
        points = transform(camera_from_sensor, points)
        lens, height, width = frame.rectification, grid.input_height, grid.input_width
        bend = None if lens is None else lens.input_from_rectified
        depth = sparse_depth(points, frame.intrinsics, height, width, bend)
        return depth.astype(np.float32)
