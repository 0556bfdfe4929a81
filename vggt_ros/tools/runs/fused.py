# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The cloud of a run, and frames whose depth is moved to one surface (`mapping/consensus`)."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from vggt_ros.geometry import transform, unproject
from vggt_ros.mapping.cloud.agreement import DepthView
from vggt_ros.mapping.cloud.consensus import consensus, enlarged, nearest, thinned
from vggt_ros.tools.runs.format import Cloud, Run, RunFrame

NEIGHBOURS = 32  # views that each is compared with; with 24 walls are a third thicker
ROUNDS = 3  # in which all views move at once; a fourth changes nothing to speak of


class Fusion(NamedTuple):
    """What becomes of a frame's depth, for every so manieth row and column."""

    factor: Float32[np.ndarray, "h w"]
    is_seen: Float32[np.ndarray, "h w"]  # 1: by half of the frames that might see it, else 0

    def apply(self, frame: RunFrame) -> RunFrame:
        """The frame with depth on the surface that the others see, NaN where they see none."""
        shape = frame.depth.shape
        depth = frame.depth * enlarged(self.factor, shape)
        seen = enlarged(self.is_seen, shape) >= 0.5
        return frame._replace(depth=np.where(seen, depth, np.float32(np.nan)))


def fuse(frames: Iterable[RunFrame], advance: Callable[[], object] = lambda: None) -> list[Fusion]:
    """How the depth of each frame is to move so that all see one surface.

    It costs about 0.03 s a frame; frames that no other overlaps stay as they are.  `advance()` is
    called `ROUNDS` times for each.
    """
    views = [thinned(f.depth, f.intrinsics, f.world_from_camera) for f in frames]
    first = [view.depth.copy() for view in views]
    seen = [np.ones(depth.shape, bool) for depth in first]
    known = [np.median(depth[np.isfinite(depth)]) for depth in first if np.isfinite(depth).any()]
    scene_depth = float(np.median(known)) if known else 1.0
    beside = [nearest(i, views, NEIGHBOURS, scene_depth) for i in range(len(views))]
    for _ in range(ROUNDS):
        moved = []
        for i, view in enumerate(views):
            found = consensus(view, [views[j] for j in beside[i]])
            depth = view.depth * np.exp(found.log_shift)
            seen[i] = found.seen
            moved.append(DepthView.of(depth, view.intrinsics, view.world_from_camera))
            advance()
        views = moved
    return [
        Fusion(np.nan_to_num(view.depth / depth, nan=1.0), is_seen.astype(np.float32))
        for view, depth, is_seen in zip(views, first, seen, strict=True)
    ]


class FusedRun(Run):
    """A run whose frames, of those that were fused, have their depth on one surface."""

    fusions: dict[int, Fusion]

    @classmethod
    def of(
        cls, run: Run, frames: Sequence[int], advance: Callable[[], object] = lambda: None
    ) -> "FusedRun":
        """The run with these frames fused with each other; for `advance` see `fuse`."""
        made = cls(*run)
        made.fusions = dict(zip(frames, fuse(map(run.frame, frames), advance), strict=True))
        return made

    def frame(self, index: int) -> RunFrame:
        """As `Run.frame`."""
        frame = super().frame(index)
        return self.fusions[index].apply(frame) if index in self.fusions else frame


def sample_cloud(run: Run, chosen: Sequence[int], share: float) -> Cloud:
    """World points of this share of the frames' valid pixels; a fixed seed makes the choice."""
    draw = np.random.default_rng(0)
    parts = [
        Cloud(np.empty((0, 3), np.float32), np.empty((0, 3), np.uint8), np.empty(0, np.float32))
    ]
    for frame in map(run.frame, chosen):
        valid = np.flatnonzero(np.isfinite(frame.depth))
        kept = np.unravel_index(
            draw.choice(valid, int(len(valid) * min(share, 1)), replace=False), frame.depth.shape
        )
        camera_points = unproject(frame.depth.astype(np.float64), frame.intrinsics)[kept]
        points = transform(frame.world_from_camera, camera_points).astype(np.float32)
        parts.append(Cloud(points, frame.image[kept], frame.confidence[kept]))
    return Cloud(*(np.concatenate(field) for field in zip(*parts, strict=True)))
