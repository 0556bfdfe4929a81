# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Views on their way into the cloud: each is moved to the surface that those before it see.

Those before stay as they are, so a surface is where its first views have it, and the cost of a view
is that of `NEIGHBOURS` comparisons, however large the map is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32

from vggt_ros.mapping.cloud.agreement import DepthView, Projection
from vggt_ros.mapping.cloud.consensus import consensus_of, enlarged, nearest, thinned
from vggt_ros.mapping.corrections import Correction

KEPT = 300  # views, of 40 KB each
NEIGHBOURS = 16
ROUNDS = 2


class FusedView(NamedTuple):
    """What enters the cloud of a view."""

    depth: Float32[np.ndarray, "h w"]  # NaN where it is not known
    is_new: Bool[np.ndarray, "h w"]  # where it shows a surface; elsewhere it only sees through


@dataclass
class _Held:
    """A view that entered the cloud."""

    view: DepthView
    keyframe: int
    segment: int


class FusedViews:
    """The last views that entered the cloud, where the map has them now."""

    def __init__(self) -> None:
        self._held: list[_Held] = []

    def clear(self) -> None:
        """Forget every view."""
        self._held = []

    def follow(self, correction: Correction, segments: Mapping[int, int]) -> None:
        """Move the views with their keyframes; `segments` of those that have another one now."""
        for held in self._held:
            motion = correction.moved.get(held.keyframe)
            if motion is not None:
                view = held.view
                held.view = DepthView(
                    view.rimmed * np.float32(motion.scale),
                    view.intrinsics,
                    motion.apply_to_poses(view.world_from_camera[None])[0],
                )
            held.keyframe = correction.heirs.get(held.keyframe, held.keyframe)
            held.segment = segments.get(held.keyframe, held.segment)

    def add(
        self,
        depth: Float32[np.ndarray, "h w"],
        intrinsics: Float[np.ndarray, "3 3"],
        world_from_camera: Float[np.ndarray, "4 4"],
        keyframe: int,
        segment: int,
        every: int = 1,
    ) -> FusedView:
        """One more view, its `depth` above 0 or NaN, on the surface that those before it see.

        Returned is `every` so manieth row and column of it.
        """
        view = thinned(depth, intrinsics, world_from_camera)
        first, doubted = view.depth.copy(), np.zeros(view.depth.shape, bool)
        known = first[np.isfinite(first)]
        views = [held.view for held in self._held if held.segment == segment]
        if views and known.size:
            beside = nearest(len(views), [*views, view], NEIGHBOURS, float(np.median(known)))
            others, moved = [Projection(view, views[i]) for i in beside], view.depth
            for _ in range(ROUNDS):
                found = consensus_of(moved, others)
                moved = moved * np.exp(found.log_shift)
            view = DepthView.of(moved, view.intrinsics, view.world_from_camera)
            doubted = found.doubted
        self._held = [*self._held[1 - KEPT :], _Held(view, keyframe, segment)]
        factor = np.nan_to_num(view.depth / first, nan=1.0)
        return FusedView(
            depth[::every, ::every] * enlarged(factor, depth.shape, every),
            enlarged(doubted.astype(np.float32), depth.shape, every) < 0.5,
        )
