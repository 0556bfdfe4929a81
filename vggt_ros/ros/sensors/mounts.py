# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Where cameras are mounted on the robot, by /tf: found when a map begins, and compared after."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.frames import Frame
from vggt_ros.geometry import inverse_rigid, rotation_angle
from vggt_ros.ros.health.source_health import Warnings
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.tf.tf_cache import Frames

RENEWED_NS = 1_000_000_000  # between two comparisons of what is known already
MAX_MOVED = 0.01  # metres, and
MAX_TURNED = 1.0  # degrees by which the transforms of a rigid mount differ at most
TURNED = 60.0  # degrees about the axis of view, from which an image is not upright
SLOPE = 0.9  # cosine of the angle between view and vertical, above which no image is upright
UPRIGHT = float(np.cos(np.deg2rad(2.0)))  # of the angle between two axes that are meant as one

Pose = Float[np.ndarray, "4 4"]


class Mount(NamedTuple):
    """Where a camera is mounted on the robot, and where its map starts."""

    camera: str
    base_from_camera: Pose
    world_from_base: Pose


class Mounts:
    """The mounts of one camera or of a rig's.  Used in the worker's thread."""

    def __init__(self, parameters: Parameters, frames: Frames | None, warnings: Warnings):
        """`frames`: None where there is no /tf."""
        self._parameters, self._frames, self._warnings = parameters, frames, warnings
        self._known: dict[str, Mount] = {}  # by the camera's frame
        self._reference = ""  # the camera's frame, or that of the first camera of a rig
        self._compared_ns = -RENEWED_NS

    @property
    def reference(self) -> Pose | None:
        """`base_from_camera` of the camera, or of the first one of a rig; None: not known."""
        mount = self._known.get(self._reference)
        return None if mount is None else mount.base_from_camera

    def of(self, frame: Frame, *, begins: bool) -> Mount | None:
        """That of the frame's camera; None where /tf does not have it.

        It is looked up until the map has begun (`begins`: it has not), and stays what it was then.
        """
        camera, is_single = frame.camera, not frame.camera_name
        if is_single and camera not in self._known:
            self._known.clear()  # another camera starts another map
        if frame.camera_name in ("", *self._parameters.camera_names[:1]):
            self._reference = camera
        if begins or camera not in self._known:
            if (found := self._find(frame)) is not None:
                self._known[camera] = found
                if is_single:
                    self._warnings.set("mount", _body_axes(found, self._parameters.base_frame))
        elif is_single:  # those of a rig are compared with each other, see rig/mounts.py
            self._compare(self._known[camera], frame.stamp_ns)
        return self._known.get(camera)

    def _find(self, frame: Frame) -> Mount | None:
        """The camera's mount, from the robot's description."""
        if self._frames is None:
            return None
        needed = self._parameters.tf_mode in ("odom_to_base", "map_to_odom")
        lookup = self._frames.wait_for if needed else self._frames.lookup
        found = lookup(self._parameters.base_frame, frame.camera, frame.stamp_ns)
        if found is None:
            return None
        return Mount(frame.camera, found, self._world_from_base(frame.stamp_ns))

    def _world_from_base(self, ns: int) -> Pose:
        """In mode map_to_odom a map starts where odometry is, so that both agree; else at zero."""
        found = None
        if self._parameters.tf_mode == "map_to_odom" and self._frames is not None:
            odom, base = self._parameters.odom_frame, self._parameters.base_frame
            found = self._frames.wait_for(odom, base, ns)
        return np.eye(4) if found is None else found

    def _compare(self, known: Mount, ns: int) -> None:
        """Whether the mount still is what the map began with."""
        if self._frames is None or 0 <= ns - self._compared_ns < RENEWED_NS:
            return
        self._compared_ns = ns
        base = self._parameters.base_frame
        pose = self._frames.lookup(base, known.camera, ns)
        if pose is None:
            return
        text = _body_axes(known, base)
        if apart := difference(known.base_from_camera, pose):
            text = (
                f"'{base}' -> '{known.camera}' on /tf differs by {apart} from what it was when the"
                " map began, by which the world is levelled and odometry compared: if it was"
                " corrected, call ~/reset to use it; of a camera that moves on the robot, take no"
                " scale from odometry or height"
            )
        self._warnings.set("mount", text)


def difference(known: Pose, pose: Pose) -> str:
    """How far a transform is from another one, for the user; empty: as far as a rigid one is."""
    apart = inverse_rigid(known) @ pose
    moved = float(np.linalg.norm(apart[:3, 3]))
    turned = float(np.degrees(rotation_angle(apart[:3, :3])))
    if moved <= MAX_MOVED and turned <= MAX_TURNED:
        return ""
    return f"{moved:.3f} m and {turned:.1f} degrees"


def turned(mount: Mount | None, up: Float[np.ndarray, "3"] | None, base: str) -> str:
    """That images are upside down or on their side, by the mount, else by an IMU's `up`.

    Up is in the camera's frame. Empty: they are upright, it is not known, or the camera faces up or
    down.
    """
    by, doubt = "an IMU", " (or its acceleration has the other sign: by REP 145 +9.8 m/s^2 is up)"
    if mount is not None:
        up, by, doubt = mount.base_from_camera[2, :3], f"'{base}' -> '{mount.camera}' on /tf", ""
    if up is None or abs(up[2]) > SLOPE * float(np.linalg.norm(up)):
        return ""
    angle = float(np.degrees(np.arctan2(up[0], -up[1])))
    if abs(angle) <= TURNED:
        return ""
    how = "upside down" if abs(angle) > 180.0 - TURNED else "on their side"
    return (
        f"images are {how}: by {by} they are turned by {angle:.0f} degrees{doubt}; networks are"
        " trained on upright ones, and mask_sky begins at the upper rim: have the driver turn them,"
        " with their camera_info, and the camera's frame with them"
    )


def _body_axes(mount: Mount, base: str) -> str:
    """That the camera's frame has the axes of a body (x ahead, z up), not those of an image.

    REP 103 gives images a frame of their own, whose z is ahead. A camera that really faces the
    ceiling has the same transform, so that a frame which is named optical is believed.
    """
    if "optical" in mount.camera or mount.base_from_camera[2, 2] < UPRIGHT:
        return ""
    return (
        f"by /tf the camera faces straight up: z of '{mount.camera}' is z of '{base}'; if that is"
        " the frame of its housing (x ahead), let the driver stamp images with an optical frame (z"
        " ahead, x right, REP 103), such as"
        f" '{mount.camera.removesuffix('_link').removesuffix('_frame')}_optical_frame'"
    )
