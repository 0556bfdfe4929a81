# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What is said of a rig: where its cameras stand, by the robot's description and by the images."""

import shlex
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.geometry import quaternion_from_rotation

LAUNCH_FILE = "static_transforms.launch.py"  # that `launch_file` is kept in


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
    words = _arguments(parent, child, parent_from_child)
    return f"ros2 run tf2_ros static_transform_publisher {shlex.join(words)}"


def _arguments(parent: str, child: str, parent_from_child: Float[np.ndarray, "4 4"]) -> list[str]:
    """Of static_transform_publisher."""
    numbers = [f"{value:.5f}" for value in parent_from_child[:3, 3]]
    quaternion = quaternion_from_rotation(parent_from_child[:3, :3])
    numbers += [f"{value:.6f}" for value in np.asarray(quaternion)]
    names = ("--x", "--y", "--z", "--qx", "--qy", "--qz", "--qw")
    words = [word for pair in zip(names, numbers, strict=True) for word in pair]
    return [*words, "--frame-id", parent, "--child-frame-id", child]


def launch_file(report: RigReport) -> str:
    """A launch file that publishes where the images say that cameras stand which /tf does not have.

    Empty where there is none whose place is held.
    """
    reference = next(c for c in report.cameras if c.name == report.reference)
    nodes, not_metric = [], False
    for camera in report.cameras:
        if not camera.held or camera.mounted is not None or camera is reference:
            continue
        if camera.estimated is None or not (reference.optical_frame and camera.optical_frame):
            continue
        not_metric |= not camera.metric
        given = _arguments(reference.optical_frame, camera.optical_frame, camera.estimated)
        nodes.append(
            f"        # {camera.name}: measured in {camera.windows} windows\n"
            '        Node(package="tf2_ros", executable="static_transform_publisher",\n'
            f"             arguments={given!r}),\n"
        )
    if not nodes:
        return ""
    units = "Lengths are metres."
    if not_metric:
        units = "LENGTHS ARE NOT METRES, but units of the map: multiply --x --y --z by its scale."
    return (
        f'"""Where the images say that cameras stand, seen from {reference.name}.\n\n'
        f'{units}\n"""\n\n'
        "from launch import LaunchDescription\nfrom launch_ros.actions import Node\n\n\n"
        "def generate_launch_description():\n    return LaunchDescription([\n"
        f"{''.join(nodes)}    ])\n"
    )
