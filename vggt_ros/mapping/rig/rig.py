# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Where the cameras of a rig stand: as the robot's description says, else as the images say.

The motion between every two cameras is measured in every window (`relative`). Cameras that the
description contradicts are named, and stand where the images say until it is corrected. So do
cameras of which it says nothing; after some windows the shape that they form is held constant.

Where views share too little, the network places a camera anywhere, another way in each window. Such
measurements are known by their spread: they contradict nothing, and count little.

Everything is told from one camera, the anchor: the first of those that agree with the description,
or the reference. Lengths are in world units and follow the map's corrections.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from vggt_ros.mapping.metric.baseline import CameraPair
from vggt_ros.mapping.metric.scale_sources import MIN_BASELINE
from vggt_ros.mapping.rig.agreement import (
    UNSURE,
    Deviation,
    agreeing,
    exchanged,
    fault,
    unmeasured,
)
from vggt_ros.mapping.rig.body import held_together
from vggt_ros.mapping.rig.measured import Measured
from vggt_ros.mapping.rig.relative import Pose, between, relative_poses, scaled
from vggt_ros.mapping.rig.report import RigCamera, RigReport
from vggt_ros.mapping.window import WindowGeometry

HELD = 20  # windows after which a place that the images alone say is held
SURE = 5  # windows after which a camera that stands otherwise is named
USUAL = float(np.deg2rad(1.5))  # spread of measurements at which a camera counts half


class Rig:
    """The cameras of one map.  Not thread-safe."""

    def __init__(self, names: Sequence[str]):
        """`names`: of the cameras, the reference first."""
        self.names = tuple(names)
        self._described: dict[str, Pose] = {}  # rig_from_camera, metres
        self._optical_frames: dict[str, str] = {}
        self._measured = Measured(self.names)
        self._held: dict[str, Pose] = {}  # anchor_from_camera
        self._agreeing: list[str] = []
        self._anchor = self.names[0]
        self._least = 0.0  # world units: shorter baselines have no direction

    def describe(self, mounts: Mapping[str, Pose], optical_frames: Mapping[str, str]) -> None:
        """`mounts`: rig_from_camera in metres, of the cameras that a description is known of."""
        self._described |= {name: pose for name, pose in mounts.items() if name in self.names}
        self._optical_frames |= optical_frames

    # ---- one window ---------------------------------------------------------------------------

    def hold(
        self, window: WindowGeometry, unit: float, metres: float | None, scene_depth: float
    ) -> WindowGeometry:
        """The window with the cameras of each instant held together, as they stand.

        `unit`: world units per window unit; `metres` per world unit, None: not known;
        `scene_depth` in window units. What it measures is kept by `keep`.
        """
        self._measured.see(window, unit)
        self._least = MIN_BASELINE * scene_depth * unit
        self._solve()
        mounts = {name: scaled(pose, 1.0 / unit) for name, pose in self.mounts(metres).items()}
        return held_together(window, mounts, self._trust(), scene_depth)

    def keep(self, factor: float = 1.0) -> None:
        """The window was registered, its unit being so many times what `hold` was told."""
        self._measured.keep(factor)
        mounts = self.mounts(None)
        for name in self.names:
            known = self._measured.count(self._anchor, name)
            unsure = self._measured.spread(self._anchor, name) > UNSURE
            if name not in self._described and name in mounts and known >= HELD and not unsure:
                self._held.setdefault(name, mounts[name])

    def drop(self) -> None:
        """The window was refused: it measured nothing."""
        self._measured.drop()
        self._solve()

    def move(self, factor: float) -> None:
        """The world was rescaled."""
        if factor != 1.0:
            self._measured.scale(factor)
            self._held = {name: scaled(pose, factor) for name, pose in self._held.items()}

    def restart(self) -> None:
        """Another part of the map begins, whose unit is not the last one's."""
        if self._described:  # else the places that are known are all that there is
            self._measured.clear()

    def pairs(self, window: WindowGeometry) -> tuple[CameraPair, ...]:
        """Every two cameras that stand as described, in every instant, as the network has them.

        Weights are such that all pairs count as one measurement: those of n cameras as n - 1, and
        those of several instants of a window, whose errors are alike, as one instant.
        """
        usable = set(self._agreeing)
        instants = [
            {
                pair: pose
                for pair, pose in poses.items()
                if usable.issuperset(pair) and self._measured.spread(*pair) < UNSURE
            }
            for poses in relative_poses(window)
        ]
        instants = [poses for poses in instants if poses]
        found = []
        for poses in instants:
            cameras = len({name for pair in poses for name in pair})
            weight = float(np.sqrt(2.0 / (cameras * len(instants))))
            for pair, pose in poses.items():
                found.append(CameraPair(pose, between(self._described, *pair), weight))
        return tuple(found)

    # ---- where they stand ---------------------------------------------------------------------

    def mounts(self, metres: float | None) -> dict[str, Pose]:
        """anchor_from_camera in world units, of every camera whose place is known.

        `metres` per world unit; None: as the images have it, by the baselines that are described
        (1 before there is any).
        """
        metres = metres or self._metres_by_images() or 1.0
        grown = self._growth()
        mounts = {self._anchor: np.eye(4)}
        for name in self._agreeing:
            mounts[name] = scaled(between(self._described, self._anchor, name), 1.0 / metres)
        for name in self.names:
            if name in mounts:
                continue
            if name in self._held and name not in self._described:
                mounts[name] = scaled(self._held[name], grown)
                continue
            seen = ((known, self._measured.mean(known, name)) for known in tuple(mounts))
            for known, pose in seen:
                if pose is not None:
                    mounts[name] = mounts[known] @ pose
                    break
        return mounts

    def reference_from(self, name: str, metres: float | None) -> Pose:
        """Where a camera stands, in world units; the identity where that is not known."""
        mounts = self.mounts(metres)
        if name == self.names[0] or not {name, self.names[0]} <= mounts.keys():
            return np.eye(4)
        return between(mounts, self.names[0], name)

    def report(self, present: Sequence[str], metres: float | None) -> RigReport:
        """`present`: cameras of the newest instant; `metres` per world unit, None: not known."""
        unit, mounts = metres or 1.0, self.mounts(metres)
        cameras = []
        for name in self.names:
            seen = self._from_reference(name)
            known = name == self.names[0] or {name, self.names[0]} <= self._described.keys()
            off, text = self._judged(name, mounts)
            cameras.append(
                RigCamera(
                    name,
                    self._optical_frames.get(name, ""),
                    name in present,
                    self._mounted(name) if known and self._described else None,
                    None if seen is None else scaled(seen, unit),
                    metres is not None,
                    name in self._held and name not in self._described,
                    max(self._measured.count(name, other) for other in self.names),
                    float(np.rad2deg(off.turned)),
                    float(np.rad2deg(off.aside)),
                    text,
                )
            )
        return RigReport(self.names[0], tuple(cameras))

    def _judged(self, name: str, mounts: Mapping[str, Pose]) -> tuple[Deviation, str]:
        """How far a camera is from where it should be, and the text for the user."""
        anchor, seen = self._anchor, self._measured.mean(self._anchor, name)
        described = {name, anchor} <= self._described.keys()
        spread, count = self._measured.spread(anchor, name), self._measured.count(anchor, name)
        if not (described or name in self._held) and count >= SURE:
            return Deviation(0.0, 0.0), unmeasured(name, anchor, spread)
        if name == anchor or seen is None or not (described or name in self._held):
            return Deviation(0.0, 0.0), ""
        should = between(self._described, anchor, name) if described else self._held[name]
        off = Deviation.between(seen, should, self._least)
        if count < SURE or spread > UNSURE:
            return off, ""
        text = fault(name, anchor, seen, should, off, described=described)
        if text and described:
            others = [each for each in self._described if each not in (name, anchor)]
            other = exchanged(
                name, others, anchor, self._described, self._measured.mean, self._least
            )
            other = other or (anchor if len(self.names) == 2 else "")
            text += f" (are the images of {name} and {other} exchanged?)" if other else ""
        return off, text

    # ---- measurements -------------------------------------------------------------------------

    def _solve(self) -> None:
        """Which cameras stand as described, by all measurements."""
        self._agreeing = agreeing(
            self._described, self.names, self._measured.sure_mean, self._least
        )
        anchor = self._agreeing[0] if self._agreeing else self.names[0]
        if anchor != self._anchor:  # what is held is told from the anchor
            self._anchor, self._held = anchor, {}

    def _trust(self) -> dict[str, float]:
        """Weight of each camera in the pose of the body: by how well its place is measured."""
        spreads = {name: self._measured.spread(self._anchor, name) for name in self.names}
        return {name: 1.0 / (1.0 + (spread / USUAL) ** 2) for name, spread in spreads.items()}

    def _metres_by_images(self) -> float | None:
        """Metres per world unit by the described baselines as the images have them."""
        metres = along = 0.0
        for pair in combinations(self._agreeing, 2):
            seen, known = self._measured.mean(*pair), between(self._described, *pair)
            unsure = self._measured.spread(*pair) > UNSURE
            if seen is not None and not unsure and np.linalg.norm(seen[:3, 3]) > self._least:
                metres += float(known[:3, 3] @ known[:3, 3])
                along += float(seen[:3, 3] @ known[:3, 3])
        return metres / along if along > 0 else None

    def _growth(self) -> float:
        """By how much the held places grew as the images have them: what is held is their shape.

        A map without metres drifts in scale, and they drift along.
        """
        now = before = 0.0
        for name, pose in self._held.items():
            seen = self._measured.mean(self._anchor, name)
            if seen is not None:
                now += float(seen[:3, 3] @ pose[:3, 3])
                before += float(pose[:3, 3] @ pose[:3, 3])
        return now / before if before > 0 and now > 0 else 1.0

    def _mounted(self, name: str) -> Pose:
        return between(self._described, self.names[0], name)

    def _from_reference(self, name: str) -> Pose | None:
        """Where a camera stands by the images alone: seen from the reference, or by way of one."""
        found = self._measured.mean(self.names[0], name)
        for other in self.names:
            if found is None:
                first, second = (
                    self._measured.mean(self.names[0], other),
                    self._measured.mean(other, name),
                )
                found = None if first is None or second is None else first @ second
        return found


def rig_of(names: Sequence[str]) -> Rig | None:
    """None for a single camera."""
    return Rig(names) if len(names) > 1 else None


def describe(
    rig: Rig | None, mounts: Mapping[str, Pose], optical_frames: Mapping[str, str]
) -> None:
    """See `Rig.describe`."""
    if rig is not None:
        rig.describe(mounts, optical_frames)
