# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""An update goes out on its topics; nothing is built that nobody subscribes to."""

import time
from collections import deque
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
from vggt_ros.ros.depth_output import Shown
from vggt_ros.ros.map_output import MapCloud
from vggt_ros.ros.parameters import LiveParameters, Parameters
from vggt_ros.ros.robot import Robot
from vggt_ros.ros.transforms import Transforms


class Output:
    """A topic that asks for its message only when somebody listens."""

    def __init__(
        self,
        node: Node,
        kind: type,
        topic: str,
        on_listener: Callable[[], None] | None = None,
    ):
        """Reliable: both kinds of subscribers match.  Latched where late ones are greeted."""
        # A profile of its own for each topic: rclpy writes overrides into the one it is given.
        qos = QoSProfile(depth=5)
        if on_listener is not None:
            qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        greet = None if on_listener is None else lambda _: on_listener()
        self._publisher = node.create_publisher(
            kind,
            topic,
            qos,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            event_callbacks=PublisherEventCallbacks(matched=greet),
        )
        self.name = topic.removeprefix("~/")
        self.seconds = 0.0  # that the last message took, built and published
        self._kept: Any = None

    @property
    def wanted(self) -> bool:
        return self._publisher.get_subscription_count() > 0

    def send(self, build: Callable[[Any], Any]) -> None:
        """Publish `build(kept)`; `kept` is this topic's last message, to be filled again."""
        began = time.perf_counter()
        if self.wanted:
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
        later: Callable[[Callable[[], None]], None],
    ):
        self._parameters, self.transforms, self._robot = parameters, transforms, robot
        self._world = parameters.now.map_frame
        self.map = MapCloud(parameters)
        self._poses: deque[PoseStamped] = deque()
        self._segments: deque[int] = deque()  # of the map, for each pose
        self._window = WindowCloud()
        self._depth = Output(node, Image, "~/depth/image")
        self._depth_info = Output(node, CameraInfo, "~/depth/camera_info")
        self._confidence = Output(node, Image, "~/depth/confidence")
        self._rgb = Output(node, Image, "~/rgb/image_rect_color")
        self._rgb_info = Output(node, CameraInfo, "~/rgb/camera_info")
        self._points = Output(node, PointCloud2, "~/points")
        self._window_points = Output(node, PointCloud2, "~/window_points")
        self._pose = Output(node, PoseStamped, "~/pose")
        # Somebody who comes late gets the path at once: that is what latched topics are for.
        self._path = Output(node, Path, "~/path", lambda: later(self._greet))
        self._tracks = Output(node, PointTracks, "~/tracks")
        self._odometry = Output(node, Odometry, "~/odometry")
        self._map = Output(node, PointCloud2, "~/map_points", lambda: None)
        self._all = [output for output in vars(self).values() if isinstance(output, Output)]

    @property
    def seconds(self) -> dict[str, float]:
        """What each topic's last message cost, built and published."""
        return {output.name: output.seconds for output in self._all}

    def publish(self, update: Update) -> None:
        """Send all that is new; transforms first, so that nobody waits for one."""
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
        if self._map.wanted and self.map.is_due():
            self._map.send(lambda _: self.map.message())
        if update.tracks is not None:
            tracks, newest = update.tracks, update.views[-1]
            head = messages.header(newest.stamp_ns, newest.camera)
            self._tracks.send(
                lambda _: messages.tracks_message(
                    head, tracks, update.window_id, update.join.segment
                )
            )

    def reset(self) -> None:
        """The path begins anew, and says so to whoever shows it."""
        self._forget_poses()
        self.map.reset()
        self.transforms.reset()
        self._send_path()

    def _greet(self) -> None:
        if self._poses:
            self._send_path()

    def _publish_view(self, view: View, parameters: Parameters) -> None:
        shown = Shown(
            view,
            min_confidence=parameters.min_confidence,
            on_input_grid=parameters.depth_resolution == "input",
        )
        head = messages.header(view.stamp_ns, view.camera)
        height, width = shown.rgb.shape[:2]

        def camera_info(_: CameraInfo | None) -> CameraInfo:
            return messages.camera_info_message(head, shown.intrinsics, width=width, height=height)

        self._depth_info.send(camera_info)
        self._depth.send(lambda kept: messages.image_message(head, shown.depth, into=kept))
        self._confidence.send(
            lambda kept: messages.image_message(head, shown.confidence, into=kept)
        )
        self._rgb_info.send(camera_info)
        self._rgb.send(lambda kept: messages.image_message(head, shown.rgb, into=kept))
        self._points.send(
            lambda kept: messages.cloud_message(
                head, shown.points, shown.rgb, shown.confidence, into=kept
            )
        )

    def _publish_poses(self, update: Update, fresh: Sequence[View], length: int) -> None:
        if update.fresh == len(update.views):
            self._forget_poses()  # nothing ties these views to the ones before
        if update.rescaled != 1.0:
            self._rescale_poses(update)
        for view in fresh:
            head = messages.header(view.stamp_ns, self._world)
            self._poses.append(messages.pose_message(head, view.world_from_camera))
            self._segments.append(update.join.segment)
        while len(self._poses) > length:
            self._poses.popleft()
            self._segments.popleft()
        if fresh:
            self._pose.send(lambda _: self._poses[-1])
        self._send_path()

    def _rescale_poses(self, update: Update) -> None:
        """A segment took up its scale: its past follows, and what hangs on the first one's."""
        segment, factor, about = update.join.segment, update.rescaled, update.about
        for kept, its in zip(self._poses, self._segments, strict=True):
            if segment in (0, its):
                at = kept.pose.position
                moved = about + factor * (np.array([at.x, at.y, at.z]) - about)
                at.x, at.y, at.z = moved.tolist()

    def _forget_poses(self) -> None:
        self._poses.clear()
        self._segments.clear()

    def _send_path(self) -> None:
        head = self._poses[-1].header if self._poses else messages.header(0, self._world)
        self._path.send(lambda _: messages.path_message(head, list(self._poses)))

    def _publish_odometry(self, update: Update) -> None:
        """Pose and velocity of the body (of the camera, where its place on it is not known)."""
        newest, parameters = update.views[-1], self._parameters.now

        def build(_: Odometry | None) -> Odometry:
            mount = self._robot.base_from_camera(newest.camera, newest.stamp_ns)
            return messages.odometry_message(
                messages.header(newest.stamp_ns, self._world),
                newest.camera if mount is None else parameters.base_frame,
                newest.world_from_camera,
                np.eye(4) if mount is None else inverse_rigid(mount),
                update.covariance,
                update.motion,
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
