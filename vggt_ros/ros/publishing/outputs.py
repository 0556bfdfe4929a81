# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Publishers of an update; a message without subscribers is not built."""

from collections.abc import Callable

from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import OccupancyGrid, Odometry, Path
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from sensor_msgs.msg import LaserScan, PointCloud2
from visualization_msgs.msg import MarkerArray

from vggt_ros.frames import Update, View
from vggt_ros.mapping.cloud.voxels import OwnedCloud
from vggt_ros.mapping.corrections import KeyframePoses
from vggt_ros.mapping.map_files import LoadedMap
from vggt_ros.msg import MapStatus, PointTracks
from vggt_ros.ros import messages
from vggt_ros.ros.clouds import WindowCloud
from vggt_ros.ros.health.status_output import initial_status, status_message, status_text
from vggt_ros.ros.health.view_health import ViewHealth
from vggt_ros.ros.live_parameters import LiveParameters
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.publishing.depth_output import Surface
from vggt_ros.ros.publishing.flat_outputs import OccupancyOutput, ScanOutput
from vggt_ros.ros.publishing.following import Change, MapFollower
from vggt_ros.ros.publishing.keyframes_output import keyframes_message, no_keyframes_message
from vggt_ros.ros.publishing.map_output import MapOutput
from vggt_ros.ros.publishing.output import Output
from vggt_ros.ros.publishing.path_output import PathOutput
from vggt_ros.ros.publishing.pose_output import PoseOutput
from vggt_ros.ros.publishing.surface import SurfaceFilter
from vggt_ros.ros.publishing.view_outputs import ViewOutputs
from vggt_ros.ros.rig.body import body_of
from vggt_ros.ros.sensors.robot import Robot
from vggt_ros.ros.tf.transforms import Transforms
from vggt_ros.ros.tf.when_lost import is_located

GREETING_PERIOD = 0.02  # seconds between two parts of a grid that a new subscriber waits for


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
        self._parameters, self.transforms = parameters, transforms
        self._world = parameters.now.world_frame
        self._follower, self.surface = MapFollower(), SurfaceFilter()
        self._poses = PoseOutput(parameters.now, robot.base_from_camera)
        self._newest: tuple[Update, int] | None = None  # and the segment that is shown
        self._is_cleared = False  # whether there was, or may have been, another map before
        self._keyframes_sent_ns = 0
        self._newest_shown: int | None = None  # keyframe, of a map that is not extended
        self.view_health = ViewHealth()
        self.map = MapOutput(parameters)
        self.path = PathOutput(self._world)
        self._window = WindowCloud()
        names = parameters.now.camera_names or ("",)
        self._reference = names[0]
        self._views = {name: ViewOutputs(node, name) for name in names}
        self._window_points = Output(node, PointCloud2, "~/window_points")
        self._pose = Output(node, PoseStamped, "~/pose")
        # A late subscriber of these latched topics gets them at once.
        self._path = Output(node, Path, "~/path", lambda: call_soon(self._send_path_if_any))
        self._tracks = Output(node, PointTracks, "~/tracks")
        self._odometry = Output(node, Odometry, "~/odometry")
        self._map = Output(
            node, PointCloud2, "~/map_points", lambda: call_soon(self._send_map_if_any)
        )
        self._status = Output(
            node, MapStatus, "~/status", lambda: call_soon(self._send_status_if_any)
        )
        self._keyframes = Output(
            node, MarkerArray, "~/keyframes", lambda: call_soon(self._send_keyframes_if_any)
        )
        self.scan = ScanOutput(robot.base_from_camera)
        self.occupancy = OccupancyOutput(robot.base_from_camera, self.map)
        self._scan = Output(node, LaserScan, "~/scan")
        self._occupancy = Output(
            node, OccupancyGrid, "~/occupancy", lambda: call_soon(self._greet_with_occupancy)
        )
        self._greeting = node.create_timer(
            GREETING_PERIOD,
            lambda: call_soon(self._continue_occupancy),
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )
        self._greeting.cancel()
        self._all = [output for views in self._views.values() for output in views.all]
        self._all += [output for output in vars(self).values() if isinstance(output, Output)]

    @property
    def seconds(self) -> dict[str, float]:
        """Time to build and publish the last message, by topic."""
        return {output.name: output.seconds for output in self._all}

    @property
    def unserved(self) -> dict[str, str]:
        """From any thread: by topic, subscribers that ask for more than is offered, or nothing."""
        return {output.name: output.unserved for output in self._all}

    def publish(self, update: Update) -> None:
        """Publish all that is new; transforms first, so that depth never waits for one."""
        parameters = self._parameters.now
        fresh = update.views[len(update.views) - update.fresh :]
        body = body_of(update, self._reference)
        self.transforms.send(body)
        change = self._follower.follow(update)
        self.surface.update(update, change)
        for view in fresh:
            if view.depth is not None:
                self.view_health.update(view, parameters.min_confidence)
                self._publish_view(view, update, parameters)
        if parameters.intrinsics != "model":
            self.view_health.focal.add(update)
        self._publish_poses(body, change, parameters.path_length)
        self._publish_window(update, parameters)
        self._status.send(lambda _: status_message(body, parameters.world_frame))
        self._publish_map(update, body, change)
        if update.tracks is not None:
            tracks, newest = update.tracks, update.views[-1]
            head = messages.header(newest.stamp_ns, newest.camera)
            self._tracks.send(
                lambda _: messages.tracks_message(
                    head, tracks, update.window_id, update.registration.segment
                )
            )

    def switch(self, *, is_on: bool) -> None:
        """Publish from now on, first what late subscribers wait for; or no more.

        Updates that are published meanwhile reach path and cloud, and no topic.
        """
        for output in (*self._all, self.transforms):
            output.is_on = is_on
        if is_on:
            self._send_latched()

    def reset(self) -> None:
        """Start an empty map and an empty path, which are published."""
        self._clear()
        self._send_latched()

    def load(self, loaded: LoadedMap) -> None:
        """Start with the cloud of a saved map, which is published."""
        self._clear()
        self.map.load(loaded)
        ids = loaded.store.ids
        fixed = len(ids) > 0 and not self._parameters.now.mapping
        self._newest_shown = int(ids[-1]) if fixed else None
        self._send_latched()

    def _clear(self) -> None:
        self._newest, self._is_cleared = None, True
        self._follower.reset()
        self.surface.reset()
        self.path.clear()
        self.map.reset()
        self.occupancy.reset()
        self._poses.reset()
        self.transforms.reset()

    def cloud_at(self, keyframes: KeyframePoses) -> OwnedCloud | None:
        """The cloud of the map, once path and cloud have followed its keyframes."""
        change = self._follower.settle(keyframes)
        self.path.follow(change)
        self.map.follow(change)
        return self.map.owned_cloud

    # Latched topics, also to late subscribers. What shows that a map was cleared is sent to each of
    # them: its middleware may still have the last message of the map before.

    def _send_latched(self) -> None:
        self._send_path_if_any()
        self._send_map_if_any()
        self._send_keyframes_if_any()
        self._send_status_if_any()
        self._send_unknown_if_cleared()

    def _send_path_if_any(self) -> None:
        if self._is_cleared or not self.path.is_empty:
            self._path.send(lambda _: self.path.message())

    def _send_map_if_any(self) -> None:
        if self.map.size or (self._is_cleared and self.map.voxel):
            self._map.send(lambda _: self.map.message())

    def _send_status_if_any(self) -> None:
        if self._newest is not None:
            update = self._newest[0]
            self._status.send(lambda _: status_message(update, self._world))
        elif self._is_cleared:
            self._status.send(lambda _: initial_status(self._world))

    def _send_keyframes_if_any(self) -> None:
        if self._newest is not None:
            update, segment = self._newest
            ns, newest = update.views[-1].stamp_ns, self._newest_shown
            self._keyframes.send(
                lambda _: keyframes_message(
                    update.keyframes, segment, ns, self._world, newest, status_text(update)
                )
            )
        elif self._is_cleared:
            self._keyframes.send(lambda _: no_keyframes_message(self._world))

    def _send_unknown_if_cleared(self) -> None:
        if self._is_cleared and self._newest is None:
            self._occupancy.send_if_any(
                lambda: self.occupancy.unknown_message(self._parameters.now)
            )

    def _greet_with_occupancy(self) -> None:
        """Make a grid also where no image comes any more."""
        self._send_unknown_if_cleared()
        if not self.occupancy.is_making:
            self.occupancy.begin(self._parameters.now)
        self._greeting.reset()

    def _continue_occupancy(self) -> None:
        """One more part of the grid; it is sent once it is complete."""
        now = self._parameters.now
        self._occupancy.send_if_any(lambda: self.occupancy.next_message(now))
        if not self.occupancy.is_making:
            self._greeting.cancel()

    def _publish_view(self, view: View, update: Update, parameters: Parameters) -> None:
        output = self._views[view.camera_name].publish(view, parameters, self._surface(parameters))
        self.scan.warning = ""  # but for a subscriber
        self._scan.send_if_any(
            lambda: self.scan.message(view, output.surface, parameters, metric=update.metric)
        )

    def _surface(self, parameters: Parameters) -> Surface | None:
        if parameters.min_agreement == 0:
            return None
        return lambda view: self.surface.surface(view, parameters)

    def _publish_poses(self, update: Update, change: Change, max_length: int) -> None:
        self.path.update(update, change, max_length)
        if update.fresh and (pose := self._poses.pose(update)) is not None:
            self._pose.send(lambda _: pose)
        if self.path.has_changed:
            self._path.send(lambda _: self.path.message())
        self._odometry.send(lambda _: self._poses.odometry(update))

    def _publish_map(self, update: Update, body: Update, change: Change) -> None:
        """Cloud, grid and keyframes, every `map_period` seconds; an update sends one of them."""
        self._newest = update, change.segment
        self.map.update(update, change)
        self.occupancy.update(body, change)  # heights are those of the reference camera's mount
        if not self._occupancy.has_subscribers:
            self.occupancy.abandon()
        if self._map.has_subscribers and (message := self.map.next_message()) is not None:
            self._map.send(lambda _: message)
        elif self._keyframes.has_subscribers and self._are_keyframes_due(update):
            self._send_keyframes_if_any()
        elif self._occupancy.has_subscribers:
            now = self._parameters.now
            if not self.occupancy.is_making and self.occupancy.is_due(now):
                self.occupancy.begin(now)
            self._continue_occupancy()

    def _are_keyframes_due(self, update: Update) -> bool:
        stamp, period = update.views[-1].stamp_ns, round(1e9 * self._parameters.now.map_period)
        is_due = not 0 <= stamp - self._keyframes_sent_ns < period
        if is_due:
            self._keyframes_sent_ns = stamp
        return is_due

    def _publish_window(self, update: Update, parameters: Parameters) -> None:
        if not is_located(update) and parameters.tf_when_lost != "predict":
            return
        head = messages.header(update.views[-1].stamp_ns, self._world)

        def build(kept: PointCloud2 | None) -> PointCloud2:
            records = self._window.records(
                update.views, parameters.min_confidence, parameters.window_points_step
            )
            return messages.records_message(head, records, into=kept)

        if any(view.depth is not None for view in update.views):
            self._window_points.send(build)
