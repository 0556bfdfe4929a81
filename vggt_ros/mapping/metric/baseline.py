# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Two cameras of a rig as a source of scale: which pairs count, and when to measure.

Where one stands to the other is measured in the window's unit and known in metres. A rig that is
mapped has its pairs in every window (`rig`); a second camera that is never part of the map, the
path or the tracks is shown in one inference now and then.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vggt_ros.errors import UserError
from vggt_ros.geometry import inverse_rigid, rotation_angle
from vggt_ros.mapping.metric.scale_sources import MIN_BASELINE
from vggt_ros.mapping.window import camera_from_encoding

SAME_TIME_NS = 5_000_000  # between the two images: 5 mm of a robot at a metre a second
PERIOD_NS = 5_000_000_000  # between two measurements, once more of them would add little
MAX_FAILURES = 10  # measurements in a row without a result, before the next one waits as long
SAME_ORIENTATION = float(np.deg2rad(10))  # between the axes as estimated and as mounted
SAME_DIRECTION = float(np.deg2rad(60))  # of the baseline: short ones are estimated coarsely


class CameraPair(NamedTuple):
    """Where one camera of an instant stands, seen from another (camera_from_extra), twice."""

    estimated: Float[np.ndarray, "4 4"]  # in the window's unit
    mounted: Float[np.ndarray, "4 4"]  # in metres
    weight: float = 1.0  # of its baseline among those of a window


def camera_pair(
    extra: Float[np.ndarray, "9"],
    newest: Float[np.ndarray, "9"],
    camera_from_extra: Float[np.ndarray, "4 4"],
) -> CameraPair:
    """Where a second camera stands, by the pose encodings of one window and as mounted."""
    estimated = inverse_rigid(camera_from_encoding(newest)) @ camera_from_encoding(extra)
    return CameraPair(estimated, camera_from_extra)


class BaselineSchedule:
    """When the second camera's image is worth an extra view in an inference."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """A new map: nothing was measured."""
        self._failures, self._last_ns = 0, -PERIOD_NS

    def is_due(self, stamp_ns: int, needed: bool) -> bool:
        """Whether to measure now; `needed`: each measurement still sharpens the scale."""
        waited = not 0 <= stamp_ns - self._last_ns < PERIOD_NS
        return waited or (needed and self._failures < MAX_FAILURES)

    def attempt(self, stamp_ns: int) -> None:
        """A measurement starts; it counts as failed until its pair is accepted by `check`."""
        self._last_ns, self._failures = stamp_ns, self._failures + 1

    def pause(self) -> None:
        """The extra view cost more than one frame: wait before the next attempt."""
        self._failures = MAX_FAILURES

    def check(self, pair: CameraPair, depth: Float[np.ndarray, "h w"]) -> CameraPair | None:
        """The pair if it counts, which ends the failures; None where it is not finite.

        `depth` is the newest camera's in the window's unit. Raises `UserError`, see `check_pair`.
        """
        if not np.isfinite(pair.estimated).all():
            return None
        check_pair(pair, float(np.median(depth[depth > 0])) if (depth > 0).any() else 1.0)
        self._failures = 0
        return pair


def check_simultaneous(offset_ns: int) -> None:
    """Raises `UserError` for a second image taken at another time than the first."""
    if abs(offset_ns) > SAME_TIME_NS:
        raise UserError(
            f"the second image was taken {offset_ns * 1e-6:+.1f} ms from the first;"
            " trigger both cameras together"
        )


def check_pair(pair: CameraPair, scene_depth: float) -> None:
    """Raises `UserError` where the pair is too close, or not mounted as /tf has it.

    `scene_depth` is the newest camera's median depth in the window's unit.
    """
    estimated, mounted, _ = pair
    turned = rotation_angle(estimated[:3, :3].T @ mounted[:3, :3])
    length, metres = (float(np.linalg.norm(pose[:3, 3])) for pose in (estimated, mounted))
    if length < MIN_BASELINE * scene_depth:
        raise UserError(
            "baseline: the cameras are too close together for this scene:"
            f" {length / scene_depth:.1%} of its depth, {MIN_BASELINE:.0%} are needed; nothing is"
            " measured"
        )
    cosine = estimated[:3, 3] @ mounted[:3, 3] / (length * metres)
    direction = float(np.arccos(np.clip(cosine, -1, 1)))
    if turned > SAME_ORIENTATION or direction > SAME_DIRECTION:
        raise UserError(
            "baseline: the images and /tf disagree about the second camera, by"
            f" {np.rad2deg(turned):.0f} degrees in its axes and {np.rad2deg(direction):.0f} in its"
            " direction; are left and right exchanged?"
        )
