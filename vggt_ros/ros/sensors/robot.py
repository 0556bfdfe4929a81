# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The robot's sensors and frames at an image's stamp: odometry, mount, gravity, other depth.

Subscriptions only keep the newest messages; the worker's thread reads them for each frame.
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from nav_msgs.msg import Odometry as OdometryMessage

from vggt_ros.frames import Frame, Needs, Observation
from vggt_ros.mapping.metric.comparisons import KEPT_NS as LATE_NS
from vggt_ros.mapping.metric.odometry import KEPT_NS, OdometryBuffer
from vggt_ros.mapping.metric.scale import parse_sources
from vggt_ros.ros.frame_names import FrameNames
from vggt_ros.ros.health.source_health import PATIENCE_NS, SourceHealth, Warnings
from vggt_ros.ros.messages import stamp_ns
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.sensors.depth_sensor import DepthSensor
from vggt_ros.ros.sensors.gravity import Gravity
from vggt_ros.ros.sensors.masks import MaskInput
from vggt_ros.ros.sensors.mounts import Mounts, turned
from vggt_ros.ros.sensors.second_camera import SecondCamera
from vggt_ros.ros.subscriptions.input_topics import InputTopics
from vggt_ros.ros.tf.tf_cache import Frames
from vggt_ros.ros.tf.tf_messages import NO_POSE, pose_of

ASSUMED = "assumption: the first camera is level"


class Robot:
    """The robot's sensors and frames.  Callbacks store; `observe` runs in the worker's thread."""

    def __init__(
        self, inputs: InputTopics, parameters: Parameters, frames: Frames | None, warnings: Warnings
    ):
        self._parameters, self.frames, self._warnings = parameters, frames, warnings
        self._names = FrameNames(warnings.notify)
        self.masks = {  # by the camera's name, which only those of a rig have
            name: MaskInput(inputs, parameters.mask_wait, f"{name}/mask" if name else "mask")
            for name in parameters.camera_names or ("",)
        }
        self._sources = parse_sources(parameters.scale_source)
        self._odometry = OdometryBuffer()
        self._refused = ""  # why the last message of odometry was
        self._mounts = Mounts(parameters, frames, warnings)
        self._mounted: set[str] = set()  # cameras that /tf connected with the base so far
        self.levelled_by = ASSUMED  # what makes the world's z point up
        odom = inputs.subscribe(  # an old measurement is of no use, so it need not be reliable
            OdometryMessage, "odom", self._on_odometry, 50, reliability="best_effort"
        )
        self._odom_asked = "odometry" in self._sources or odom.is_remapped
        self._odometry_health = SourceHealth(
            "odometry", f"'{odom.topic}'", "remap odom to the robot's odometry", warnings
        )
        self.gravity = Gravity(inputs, frames, warnings)
        self.depth = DepthSensor(inputs, frames, warnings) if "depth" in self._sources else None
        self.second_camera = (
            SecondCamera(inputs, parameters, frames, warnings)
            if "baseline" in self._sources and not parameters.camera_names
            else None
        )

    def observe(self, frame: Frame, needs: Needs, *, is_first: bool = True) -> Observation:
        """The frame and what the robot measured at its stamp, as far as the pipeline needs it.

        Of the frames of an instant it is measured for the first one.
        """
        ns, up, extra = frame.stamp_ns, None, None
        mount = self._mounts.of(frame, begins=needs.level)
        masks = self.masks[frame.camera_name]
        if not is_first:
            return Observation(
                frame, None if mount is None else mount.base_from_camera, mask=masks.mask_at(ns)
            )
        if mount is None:
            up = self.gravity.up_in(frame.camera, ns)
        else:
            self.gravity.not_needed(ns)
        self._note_level(frame.camera, mount=mount is not None, imu=up is not None, needs=needs)
        if needs.level and (text := turned(mount, up, self._parameters.base_frame)):
            self._warnings.notify(text)
        self._check_odometry(ns)
        if self.second_camera is not None and needs.extra_view:
            extra = self.second_camera.view_at(frame)
        if self.depth is not None:
            self.depth.expect(frame)
        return Observation(
            frame,
            base_from_camera=None if mount is None else mount.base_from_camera,
            world_from_base=None if mount is None else mount.world_from_base,
            odom_from_base=self._odometry,
            up_in_camera=up,
            extra_view=extra,
            depth_source=self.depth,
            mask=masks.mask_at(ns),
        )

    @property
    def mount(self) -> Float[np.ndarray, "4 4"] | None:
        """`base_from_camera` of the camera, or of the first one of a rig; None: not known."""
        return self._mounts.reference

    def base_from_camera(self, camera: str, ns: int) -> Float[np.ndarray, "4 4"] | None:
        """Where the camera is mounted; None where /tf does not connect it with `base_frame`.

        In the sender's thread.  A camera that was connected before may move on the robot, and is
        waited for.
        """
        if self.frames is None:
            return None
        find = self.frames.wait_for if camera in self._mounted else self.frames.lookup
        found = find(self._parameters.base_frame, camera, ns)
        if found is not None:
            self._mounted.add(camera)
        return found

    # In the worker's thread.

    def _note_level(self, camera: str, *, mount: bool, imu: bool, needs: Needs) -> None:
        """What levels the world is what is known when the map begins; later is too late."""
        how = ASSUMED
        if mount:
            how = f"mount: {self._parameters.base_frame} -> {camera} on /tf"
        elif imu:
            how = f"imu: mean of {self.gravity.samples} measurements"
        late = ""
        if needs.level:
            self.levelled_by = how
        elif self.levelled_by == ASSUMED and how != ASSUMED:
            late = (
                "the world is level by assumption alone: when the map began there was no"
                f" {how.partition(':')[0]}, and now there is; call ~/reset to use it"
            )
        self._warnings.set("level", late)

    def _check_odometry(self, ns: int) -> None:
        """Whether odometry has poses of images that are not older than `LATE_NS`."""
        while self._odometry.notices:  # another thread may add to them
            self._warnings.notify(self._odometry.notices.popleft())
        health = self._odometry_health
        if not (self._odom_asked or health.heard):
            return
        first, latest = self._odometry.earliest_ns, self._odometry.latest_ns
        apart, fault = None, ""
        if first is not None and latest is not None:
            apart = latest - ns if latest < ns - LATE_NS else max(first - ns, 0)
            if apart > KEPT_NS:  # poses as old as a late image are still kept
                fault = f"it is {apart * 1e-9:.0f} s ahead of the images; give both one clock"
        if apart != 0 and self._refused:
            fault = f"its messages are refused: {self._refused}"
        patience = 0 if apart is not None and apart < 0 else PATIENCE_NS  # it is that late already
        health.check(
            ns,
            served=apart == 0,
            apart_ns=apart,
            allowed_ns=LATE_NS,
            patience_ns=patience,
            fault=fault,
        )

    # Callbacks.

    def forget_from(self, ns: int) -> None:
        """Time went back to this stamp: what came with it or a later one was of another time."""
        self._odometry.forget_from(ns)
        for source in (*self.masks.values(), self.gravity, self.depth, self.second_camera):
            if source is not None:
                source.forget_from(ns)
        if self.frames is not None:
            self.frames.tree.forget_from(ns)

    def _on_odometry(self, msg: Any) -> None:
        stamp = stamp_ns(msg.header.stamp)
        self._odometry_health.hear(stamp)
        pose = pose_of(msg.pose.pose.position, msg.pose.pose.orientation)
        child = self._names.of("odom", msg.child_frame_id)
        if pose is None:
            self._refused = f"its pose {NO_POSE}"
        elif child not in ("", self._parameters.base_frame):
            self._refused = (
                f"it places '{child}', not base_frame '{self._parameters.base_frame}'; set"
                " base_frame to what it places, or remap odom"
            )
        else:  # a refusal of the buffer is a notice of its own
            taken = self._odometry.add(
                stamp, pose, self._names.of("odom", msg.header.frame_id), child
            )
            self._refused = "" if taken else self._odometry.refusal
            return
        self._warnings.notify(f"odometry is refused: {self._refused}")
