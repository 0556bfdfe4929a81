# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What is said of a rig: where its cameras stand, by the robot's description and by the images."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


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
