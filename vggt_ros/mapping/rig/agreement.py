# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Whether cameras stand as the robot's description has them, and what is said if not."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vggt_ros.geometry import rotation_angle
from vggt_ros.mapping.metric.baseline import SAME_DIRECTION, SAME_ORIENTATION
from vggt_ros.mapping.rig.relative import Pose, between
from vggt_ros.mapping.velocity import rigid_logarithm

NAMED_TURN = float(np.deg2rad(5))  # between the axes, from which a camera is named
NAMED_ASIDE = float(
    np.deg2rad(30)
)  # between the directions to it: short ones are measured coarsely

UNSURE = float(np.deg2rad(6))  # spread of single measurements, from which they tell nothing

MeanOf = Callable[[str, str], Pose | None]  # first_from_second by the images; None: not measured


class Deviation(NamedTuple):
    """How a camera stands by the images, against where it should, both seen from another camera."""

    turned: float  # radians between its axes
    aside: float  # radians between the directions to it; 0 where it is too near to say

    @classmethod
    def between(cls, estimated: Pose, expected: Pose, least: float) -> "Deviation":
        """`least`: distance from which a direction counts, in the unit of `estimated`."""
        turned = rotation_angle(estimated[:3, :3].T @ expected[:3, :3])
        length, known = (float(np.linalg.norm(pose[:3, 3])) for pose in (estimated, expected))
        if not (length > least and known > 0):
            return cls(turned, 0.0)
        cosine = float(estimated[:3, 3] @ expected[:3, 3]) / (length * known)
        return cls(turned, float(np.arccos(np.clip(cosine, -1.0, 1.0))))

    @property
    def is_usable(self) -> bool:
        """Whether the camera may be taken to stand where it should."""
        return self.turned < SAME_ORIENTATION and self.aside < SAME_DIRECTION

    @property
    def is_named(self) -> bool:
        """Whether the user should know."""
        return self.turned > NAMED_TURN or self.aside > NAMED_ASIDE


def agreeing(
    described: Mapping[str, Pose], names: Sequence[str], mean: MeanOf, least: float
) -> list[str]:
    """The most cameras that stand to one of them as described; those that nothing contradicts.

    Of several such sets that of the camera which comes first in `names`.
    """
    best: list[str] = []
    for name in (each for each in names if each in described):
        with_it = [name]
        for other in (each for each in names if each in described and each != name):
            seen = mean(name, other)
            expected = between(described, name, other)
            if seen is None or Deviation.between(seen, expected, least).is_usable:
                with_it.append(other)
        if len(with_it) > len(best):
            best = with_it
    return sorted(best, key=list(names).index)


def exchanged(
    name: str, others: Sequence[str], anchor: str, described: Mapping[str, Pose], mean: MeanOf,
    least: float,
) -> str:  # fmt: skip
    """The camera in whose place this one is, and the other way round; empty: none."""
    for other in others:
        found = mean(anchor, name), mean(anchor, other)
        places = between(described, anchor, other), between(described, anchor, name)
        pairs = zip(found, places, strict=True)
        if all(a is not None and Deviation.between(a, b, least).is_usable for a, b in pairs):
            return other
    return ""


def fault(
    name: str, anchor: str, estimated: Pose, expected: Pose, off: Deviation, *, described: bool
) -> str:
    """What the user should know of a camera that stands otherwise; empty: it stands as expected."""
    if not off.is_named:
        return ""
    where = "/tf has it" if described else "it stood while its place was estimated"
    parts = []
    if off.turned > NAMED_TURN:
        parts.append(
            f"turned by {np.rad2deg(off.turned):.0f} degrees ({_turn(estimated, expected)})"
        )
    if off.aside > NAMED_ASIDE:
        parts.append(f"in a direction that is {np.rad2deg(off.aside):.0f} degrees aside")
    remedy = "correct its transform, or its topic" if described else "is it loose?"
    return (
        f"camera {name} does not stand where {where}, seen from {anchor}: by the images it is"
        f" {' and '.join(parts)}; {remedy}"
    )


def unmeasured(name: str, anchor: str, spread: float) -> str:
    """What the user should know of a camera that nothing places; empty: the images do."""
    if spread < UNSURE:
        return ""
    return (
        f"where camera {name} stands is not known: /tf does not say, and by the images it differs"
        f" by {np.rad2deg(spread):.0f} degrees from window to window, seen from {anchor}; describe"
        " it in /tf, or let the cameras overlap"
    )


def _turn(estimated: Pose, expected: Pose) -> str:
    """The turn in words, by the axes of the camera as expected (x right, y down, z ahead)."""
    motion = np.eye(4)
    motion[:3, :3] = expected[:3, :3].T @ estimated[:3, :3]
    pitch, yaw, roll = np.rad2deg(rigid_logarithm(motion)[3:])
    words = [
        f"{abs(yaw):.0f} to the {'right' if yaw > 0 else 'left'}",
        f"{abs(pitch):.0f} {'up' if pitch > 0 else 'down'}",
        f"{abs(roll):.0f} {'clockwise' if roll > 0 else 'counterclockwise'}",
    ]
    return ", ".join(words)
