# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which way is up, by an IMU at rest: the reaction to gravity, in the camera's frame."""

from collections import deque

import numpy as np
from jaxtyping import Float
from sensor_msgs.msg import Imu

from vggt_ros.ros.frame_names import FrameNames
from vggt_ros.ros.health.source_health import PATIENCE_NS, SourceHealth, Warnings
from vggt_ros.ros.messages import stamp_ns
from vggt_ros.ros.subscriptions.input_topics import InputTopics
from vggt_ros.ros.tf.tf_cache import Frames

MEASUREMENTS = 50  # of acceleration that are averaged
AT_REST = 8.0, 11.5  # m/s^2: the mean acceleration of a robot that hardly moves
LIKE_G = 0.8, 1.2  # the same in g
HARDEST = 1e6  # m/s^2; what is beyond is no measurement


class Gravity:
    """The last accelerations by `imu`.  The callback stores; `up_in` runs in the worker's thread.

    By REP 145 an IMU publishes m/s^2 and leaves gravity in; one that does not is named.
    """

    def __init__(self, inputs: InputTopics, frames: Frames | None, warnings: Warnings):
        self._frames = frames
        # Frame, up in it, and stamp.
        self._up: deque[tuple[str, np.ndarray, int]] = deque(maxlen=MEASUREMENTS)
        self._unusable = ""  # why the last message was not taken
        self._names = FrameNames(warnings.notify)
        topic = inputs.subscribe(Imu, "imu", self._on_imu, 50, reliability="best_effort")
        self._asked = topic.is_remapped
        advice = "check the name that it is remapped to"
        self._health = SourceHealth("imu", f"'{topic.topic}'", advice, warnings)

    @property
    def samples(self) -> int:
        """How many measurements are kept."""
        return len(self._up)

    @property
    def heard(self) -> int:
        """How many messages came."""
        return self._health.heard

    def _on_imu(self, msg: Imu) -> None:
        force = msg.linear_acceleration
        up = np.array([force.x, force.y, force.z])
        if msg.linear_acceleration_covariance[0] == -1.0:
            self._unusable = "it says that it does not measure acceleration (covariance -1)"
        elif not (np.abs(up) < HARDEST).all():
            self._unusable = f"its acceleration is not finite, or beyond {HARDEST:.0e} m/s^2"
        else:
            self._unusable = ""
            frame = self._names.of("imu", msg.header.frame_id)
            self._up.append((frame, up, stamp_ns(msg.header.stamp)))
        self._health.hear(stamp_ns(msg.header.stamp))

    def forget_from(self, ns: int) -> None:
        """Time went back to this stamp: the robot stood otherwise at those from it on."""
        self._up = deque([each for each in tuple(self._up) if each[2] < ns], MEASUREMENTS)

    def up_in(self, camera: str, ns: int) -> Float[np.ndarray, "3"] | None:
        """The mean acceleration in the camera; None, and a warning that lasts, where of no use.

        What an IMU measured before it fell silent is forgotten: the robot may stand otherwise now.
        """
        if silent := self._health.is_silent(ns):
            self._up.clear()
        measured, up = tuple(self._up), self._unusable
        if measured and not up:
            up = self._mean(measured, camera, ns)
        if isinstance(up, str):
            needed = bool(up) or self._asked or self.heard > 0
            if up:
                up += "; the first camera is taken to be level"
            patience = 0 if silent else PATIENCE_NS
            self._health.check(ns, served=not needed, fault=up, patience_ns=patience)
            return None
        self._health.check(ns, served=True)
        return up

    def not_needed(self, ns: int) -> None:
        """The world is level without it."""
        self._health.check(ns, served=True)

    def _mean(
        self, measured: tuple[tuple[str, np.ndarray, int], ...], camera: str, ns: int
    ) -> Float[np.ndarray, "3"] | str:
        """Up in the camera's frame, or why there is none."""
        imu = measured[-1][0]
        mean = np.mean([up for frame, up, _ in measured if frame == imu], axis=0)
        size, (low, high) = float(np.linalg.norm(mean)), AT_REST
        if not low < size < high:
            reason = "the robot accelerates"
            if LIKE_G[0] < size < LIKE_G[1]:
                reason = "its unit seems to be g; publish m/s^2 (REP 145)"
            elif size < low / 2:
                reason = "gravity seems to be taken out; publish the raw acceleration (REP 145)"
            return (
                f"its mean acceleration is {size:.2f} m/s^2, {low:.1f} to {high:.1f} are allowed:"
                f" {reason}"
            )
        if imu == camera:
            return mean
        found = self._frames.lookup(camera, imu, ns) if self._frames else None
        if found is None:
            return f"gravity is not used: /tf does not connect '{imu}' and '{camera}'"
        return found[:3, :3] @ mean
