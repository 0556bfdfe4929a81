# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What is said of a rig: where its cameras stand, by the robot's description and by the images."""

import shlex
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.geometry import quaternion_from_rotation


class RigCamera(NamedTuple):
    """One camera of the rig; poses are `reference_from_camera`."""

    name: str
    optical_frame: str = ""  # frame_id of its images; empty before the first
    present: bool = False  # it has an image in the newest instant
    mounted: Float[np.ndarray, "4 4"] | None = None  # by the description, metres; None: not said
    estimated: Float[np.ndarray, "4 4"] | None = None  # by the images; None: no window yet
    metric: bool = False  # the unit of `estimated` is the metre, else that of the world
    held: bool = False  # the estimate is in use, and held constant from now on
    windows: int = 0  # that the estimate rests on
    turned_degrees: float = 0.0  # between the axes by the images and by the description
    aside_degrees: float = 0.0  # between the directions to the camera, likewise
    fault: str = ""  # what the user should know of it, with figures; empty: nothing


class RigReport(NamedTuple):
    """All cameras of a rig, the reference first."""

    reference: str  # name
    cameras: tuple[RigCamera, ...]

    @property
    def fault(self) -> str:
        """The faults of all cameras; empty: none."""
        return "; ".join(camera.fault for camera in self.cameras if camera.fault)


def about(camera: RigCamera, reference: str) -> str:
    """How a camera's place is known, in one line."""
    if camera.name == reference:
        return "reference"
    measured = "not measured yet"
    if camera.estimated is not None:
        measured = f"measured in {camera.windows} windows"
    if camera.mounted is not None:
        aside = f", {camera.aside_degrees:.1f} aside" if camera.aside_degrees else ""
        off = f": {camera.turned_degrees:.1f} degrees turned{aside}" if camera.windows else ""
        return f"by TF, {measured}{off}"
    if camera.held:
        return f"no TF, {measured} and held{'' if camera.metric else ', not in metres'}"
    return f"no TF, {measured}"


def static_line(parent: str, child: str, parent_from_child: Float[np.ndarray, "4 4"]) -> str:
    """The line that publishes a measured transform."""
    numbers = [f"{value:.5f}" for value in parent_from_child[:3, 3]]
    quaternion = quaternion_from_rotation(parent_from_child[:3, :3])
    numbers += [f"{value:.6f}" for value in np.asarray(quaternion)]
    names = ("--x", "--y", "--z", "--qx", "--qy", "--qz", "--qw")
    words = [word for pair in zip(names, numbers, strict=True) for word in pair]
    words += ["--frame-id", parent, "--child-frame-id", child]
    return f"ros2 run tf2_ros static_transform_publisher {shlex.join(words)}"
