# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Publishers of an update; a message without subscribers is not built."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry, Path
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from vggt_ros.frames import Update, View
from vggt_ros.geometry import inverse_rigid
from vggt_ros.msg import PointTracks
from vggt_ros.ros import messages
from vggt_ros.ros.clouds import WindowCloud
from vggt_ros.ros.depth_output import DepthOutput
from vggt_ros.ros.map_output import MapOutput
from vggt_ros.ros.parameters import LiveParameters, Parameters
from vggt_ros.ros.path_output import PathOutput
from vggt_ros.ros.robot import Robot
from vggt_ros.ros.transforms import Transforms


class Output:
    """A publisher whose message is built only for subscribers."""

    def __init__(
        self,
        node: Node,
        kind: type,
        topic: str,
        on_subscriber: Callable[[], None] | None = None,
    ):
        """Reliable: both kinds of subscribers match.  Latched if `on_subscriber` is given."""
        # A profile of its own for each topic: rclpy writes overrides into the one it is given.
        qos = QoSProfile(depth=5)
        if on_subscriber is not None:
            qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        matched = None if on_subscriber is None else lambda _: on_subscriber()
        self._publisher = node.create_publisher(
            kind,
            topic,
            qos,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            event_callbacks=PublisherEventCallbacks(matched=matched),
        )
        self.name = topic.removeprefix("~/")
        self.seconds = 0.0  # to build and publish the last message
        self._kept: Any = None

    @property
    def has_subscribers(self) -> bool:
        return self._publisher.get_subscription_count() > 0

    def send(self, build: Callable[[Any], Any]) -> None:
        """Publish `build(kept)`; `kept` is this topic's last message, to be reused."""
        began = time.perf_counter()
        if self.has_subscribers:
            self._kept = build(self._kept)
            self._publisher.publish(self._kept)
        self.seconds = time.perf_counter() - began


class Outputs:
    """Every topic of an update.  Used by the sender's thread alone."""

    def __init__(
        self,
        node: Node,
        parameters: LiveParameters,
        transforms: Transforms,
        robot: Robot,
        call_soon: Callable[[Callable[[], None]], None],
    ):
        self._parameters, self.transforms, self._robot = parameters, transforms, robot
        self._world = parameters.now.map_frame
        self.map = MapOutput(parameters)
        self.path = PathOutput(self._world)
        self._window = WindowCloud()
        self._depth = Output(node, Image, "~/depth/image")
        self._depth_info = Output(node, CameraInfo, "~/depth/camera_info")
        self._confidence = Output(node, Image, "~/depth/confidence")
        self._rgb = Output(node, Image, "~/rgb/image_rect_color")
        self._rgb_info = Output(node, CameraInfo, "~/rgb/camera_info")
        self._points = Output(node, PointCloud2, "~/points")
        self._window_points = Output(node, PointCloud2, "~/window_points")
        self._pose = Output(node, PoseStamped, "~/pose")
        # A late subscriber of these latched topics gets path and map at once.
        self._path = Output(node, Path, "~/path", lambda: call_soon(self._send_path_if_any))
        self._tracks = Output(node, PointTracks, "~/tracks")
        self._odometry = Output(node, Odometry, "~/odometry")
        self._map = Output(
            node, PointCloud2, "~/map_points", lambda: call_soon(self._send_map_if_any)
        )
        self._all = [output for output in vars(self).values() if isinstance(output, Output)]

    @property
    def seconds(self) -> dict[str, float]:
        """Time to build and publish the last message, by topic."""
        return {output.name: output.seconds for output in self._all}

    def publish(self, update: Update) -> None:
        """Publish all that is new; transforms first, so that depth never waits for one."""
        parameters = self._parameters.now
        fresh = update.views[len(update.views) - update.fresh :]
        self.transforms.send(fresh)
        for view in fresh:
            if view.depth is not None:
                self._publish_view(view, parameters)
        self._publish_poses(update, fresh, parameters.path_length)
        self._publish_window(update, parameters)
        self._publish_odometry(update)
        self.map.add(update)
        if self._map.has_subscribers and self.map.is_due():
            self._send_map_if_any()
        if update.tracks is not None:
            tracks, newest = update.tracks, update.views[-1]
            head = messages.header(newest.stamp_ns, newest.camera)
            self._tracks.send(
                lambda _: messages.tracks_message(
                    head, tracks, update.window_id, update.registration.segment
                )
            )

    def reset(self) -> None:
        """Start an empty map and an empty path, which is published."""
        self.path.clear()
        self.map.reset()
        self.transforms.reset()
        self._path.send(lambda _: self.path.message())

    def _send_path_if_any(self) -> None:
        if self.path.poses:
            self._path.send(lambda _: self.path.message())

    def _send_map_if_any(self) -> None:
        if self.map.size:
            self._map.send(lambda _: self.map.message())

    def _publish_view(self, view: View, parameters: Parameters) -> None:
        output = DepthOutput(
            view,
            min_confidence=parameters.min_confidence,
            on_input_grid=parameters.depth_resolution == "input",
        )
        head = messages.header(view.stamp_ns, view.camera)
        height, width = output.rgb.shape[:2]

        def camera_info(_: CameraInfo | None) -> CameraInfo:
            return messages.camera_info_message(head, output.intrinsics, width=width, height=height)

        self._depth_info.send(camera_info)
        self._depth.send(lambda kept: messages.image_message(head, output.depth, into=kept))
        self._confidence.send(
            lambda kept: messages.image_message(head, output.confidence, into=kept)
        )
        self._rgb_info.send(camera_info)
        self._rgb.send(lambda kept: messages.image_message(head, output.rgb, into=kept))
        self._points.send(
            lambda kept: messages.cloud_message(
                head, output.points, output.rgb, output.confidence, into=kept
            )
        )

    def _publish_poses(self, update: Update, fresh: Sequence[View], max_length: int) -> None:
        segment = update.registration.segment
        if update.fresh == len(update.views):
            self.path.clear()  # nothing ties these views to the ones before
        if update.rescaled != 1.0:
            self.path.rescale(segment, update.rescaled, update.about)
        self.path.add(fresh, segment, max_length)
        if fresh:
            self._pose.send(lambda _: self.path.poses[-1])
        self._path.send(lambda _: self.path.message())

    def _publish_odometry(self, update: Update) -> None:
        """Pose and velocity of the robot's base; of the camera, where its mount is not known."""
        newest, parameters = update.views[-1], self._parameters.now

        def build(_: Odometry | None) -> Odometry:
            mount = self._robot.base_from_camera(newest.camera, newest.stamp_ns)
            return messages.odometry_message(
                messages.header(newest.stamp_ns, self._world),
                newest.camera if mount is None else parameters.base_frame,
                newest.world_from_camera,
                np.eye(4) if mount is None else inverse_rigid(mount),
                update.covariance,
                update.velocity,
            )

        self._odometry.send(build)

    def _publish_window(self, update: Update, parameters: Parameters) -> None:
        head = messages.header(update.views[-1].stamp_ns, self._world)

        def build(kept: PointCloud2 | None) -> PointCloud2:
            records = self._window.records(
                update.views, parameters.min_confidence, parameters.window_points_step
            )
            return messages.records_message(head, records, into=kept)

        if any(view.depth is not None for view in update.views):
            self._window_points.send(build)
