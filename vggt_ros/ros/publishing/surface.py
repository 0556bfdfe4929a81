# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Parameter `min_agreement`: which points of a view other views of the map have seen there too."""

from collections import deque

import numpy as np
from jaxtyping import Bool

from vggt_ros.frames import Update, View, corrected
from vggt_ros.mapping.cloud.agreement import DepthView, agreed
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.publishing.following import Change

KEPT = 3  # views that have left the window
TOO_FEW = 0.2  # share of a view's points that agree, below which the cloud is hardly of use
PATIENCE = 5  # views in a row, before that is a warning


class SurfaceFilter:
    """Compares a view with the others of its window, and the last that left it.

    Those follow the map as all that was published does.  Used by the sender's thread alone.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """The next update is of another map."""
        self._views: tuple[View, ...] = ()  # of the newest window
        self._left: deque[View] = deque(maxlen=KEPT)
        self._replaced = False  # is the last of them one that showed nothing new?
        self._known: dict[int, tuple[View, float, DepthView]] = {}  # by frame
        self._poor = 0  # views in a row of which few points agree
        self.state = "not asked for"  # for /diagnostics
        self.warning = ""  # as long as it lasts

    def update(self, update: Update, change: Change) -> None:
        """Every update must be shown, in order."""
        if change.is_other_map:
            self.reset()
        if change.correction.moved or change.correction.heirs:
            moved = [corrected(v, update.keyframes, change.correction) for v in self._left]
            self._left = deque(moved, KEPT)
        here = {view.frame_id for view in update.views}
        gone = [v for v in self._views if v.frame_id not in here and v.depth is not None]
        if update.registration.accepted and gone:
            # Of a robot at rest each newest view replaces the one before: one of them is enough.
            if self._replaced and self._left:
                self._left.pop()
            self._left.extend(gone)
            self._replaced = self._views[-1].frame_id not in here
        self._views = update.views

    def surface(self, view: View, parameters: Parameters) -> Bool[np.ndarray, "h w"]:
        """Pixels of the view whose depth enough of the others agree with."""
        least, needed = parameters.min_confidence, parameters.min_agreement
        others = [v for v in (*self._left, *self._views) if _comparable(v, view)]
        others.sort(key=lambda other: abs(other.frame_id - view.frame_id))
        self._known = {v.frame_id: self._known_depth(v, least) for v in (view, *others)}
        known, *rest = (depth for _, _, depth in self._known.values())
        seen = agreed(known, rest, needed, parameters.agreement_tolerance)
        self._report(seen, known, len(others), needed)
        return seen

    def _known_depth(self, view: View, least: float) -> tuple[View, float, DepthView]:
        """The view's depth as it is compared, computed once."""
        made = self._known.get(view.frame_id)
        if made is not None and made[0] is view and made[1] == least:
            return made
        depth = view.masked_depth(least)
        return view, least, DepthView.of(depth, view.intrinsics, view.world_from_camera)

    def _report(
        self, seen: Bool[np.ndarray, "h w"], known: DepthView, others: int, needed: int
    ) -> None:
        points = max(int(np.isfinite(known.depth).sum()), 1)
        share = int(seen.sum()) / points
        self.state = f"{share:.0%} of the points, by {needed} of {others} views"
        self._poor = self._poor + 1 if share < TOO_FEW else 0
        self.warning = ""
        if self._poor >= PATIENCE:
            self.warning = (
                f"min_agreement is {needed}, and {share:.0%} of the newest view's points are seen"
                f" by that many of {others} other views: lower it, raise agreement_tolerance, or"
                " see the state of the map"
            )


def _comparable(other: View, view: View) -> bool:
    known = other.depth is not None and other.frame_id != view.frame_id
    return known and other.segment == view.segment
