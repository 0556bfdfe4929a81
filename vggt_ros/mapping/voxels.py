# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The map as a cloud: one averaged point per voxel, owned by a keyframe, in bounded memory."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from vggt_ros.geometry import transform, unproject
from vggt_ros.mapping.agreement import is_smooth
from vggt_ros.mapping.corrections import Correction
from vggt_ros.mapping.voxel_table import VoxelTable

MAX_PIXELS = 26_000  # of one view that are added; at 518 x 392 every third row and column
MOVED_AT_ONCE = 20_000  # voxels that one call of `follow` puts into new cells, about
MOVED_SHARE = 0.02  # of all voxels that left their cell, from which they are put into new ones
MAX_ROWS = 4096  # of owners, from which those of removed keyframes are joined
NO_SEGMENTS: Mapping[int, int] = MappingProxyType({})


class Cloud(NamedTuple):
    """Coloured points in the world."""

    points: Float32[np.ndarray, "p 3"]
    colours: UInt8[np.ndarray, "p 3"]
    confidence: Float32[np.ndarray, "p"]


class OwnedCloud(NamedTuple):
    """The same, with the keyframe that each point moves with."""

    points: Float32[np.ndarray, "p 3"]
    colours: UInt8[np.ndarray, "p 3"]
    confidence: Float32[np.ndarray, "p"]
    keyframes: Int[np.ndarray, "p"]


class VoxelMap:
    """Coloured points of many views, averaged per voxel: each view has one vote in each.

    A voxel belongs to the keyframe of the view that first filled it and moves with that keyframe
    (`follow`). `cloud` is true at once, while the voxels are put into their new cells a part at a
    time, so that a correction of the whole map costs each update `MOVED_AT_ONCE` voxels. Until all
    are, two points may lie in one cell. Keyframes of two segments never share a voxel.

    When more than `capacity` voxels are taken, their side doubles: far or near, nothing is dropped,
    only stored more coarsely. It halves again where a correction shrinks the map as much, and is
    never less than `voxel`. Memory stays at about 110 bytes times `capacity`, and at twice that
    while voxels are being moved.
    """

    def __init__(self, voxel: float = 0.05, capacity: int = 500_000):
        self.smallest_voxel = voxel
        self.capacity = capacity
        self.clear()

    def clear(self) -> None:
        """Forget every point."""
        self._table = VoxelTable(self.smallest_voxel, self.capacity)
        self._old: VoxelTable | None = None  # whose voxels are being moved to the other
        self._done = 0  # its slots up to here were moved

    @property
    def voxel(self) -> float:
        """Side of a voxel now."""
        return self._table.voxel

    @property
    def is_moving(self) -> bool:
        """Whether voxels are still to be put into new cells; the cloud is true meanwhile."""
        return self._old is not None

    def __len__(self) -> int:
        return sum(int(table.owners.counts.sum()) for table in self._tables())

    def count(self, segment: int) -> int:
        """Points of one segment of the map."""
        known = [table.owners for table in self._tables()]
        return sum(int(owners.counts[owners.segments == segment].sum()) for owners in known)

    def add_view(
        self,
        depth: Float[np.ndarray, "h w"],
        rgb: UInt8[np.ndarray, "h w 3"],
        confidence: Float[np.ndarray, "h w"],
        intrinsics: Float[np.ndarray, "3 3"],
        world_from_camera: Float[np.ndarray, "4 4"],
        min_confidence: float = 0.0,
        *,
        keyframe: int = -1,
        segment: int = 0,
    ) -> int:
        """Add one view; its depth is NaN or 0 where unknown. Returns how many voxels are new.

        Those move with `keyframe`; -1: with none.
        """
        step = max(1, int(np.ceil((depth.size / MAX_PIXELS) ** 0.5)))
        thin = np.ascontiguousarray(depth[::step, ::step], np.float32)
        sound = is_smooth(thin) & (thin > 0) & (confidence[::step, ::step] >= min_confidence)
        coarse = np.diag([1.0 / step, 1.0 / step, 1.0]) @ intrinsics
        points = unproject(thin, coarse.astype(np.float32))[sound]
        points = transform(world_from_camera.astype(np.float32), points)
        return self.add(
            points,
            rgb[::step, ::step][sound],
            confidence[::step, ::step][sound],
            keyframe=keyframe,
            segment=segment,
        )

    def add(
        self,
        points: Float[np.ndarray, "p 3"],
        colours: UInt8[np.ndarray, "p 3"],
        confidence: Float[np.ndarray, "p"],
        *,
        keyframe: int | Int[np.ndarray, "p"] = -1,
        segment: int = 0,
    ) -> int:
        """Add points, without those beyond what a key can name. Returns how many voxels are new.

        They move with `keyframe`, or each with one of its own.
        """
        weight = np.maximum(confidence - 1.0, 1e-3).astype(np.float32)
        votes = np.empty((len(weight), 8), np.float32)
        votes[:, 3:6] = weight[:, None] * colours
        votes[:, 6], votes[:, 7] = weight, 1.0
        owners, which = np.unique(keyframe, return_inverse=True)
        row_of = self._table.owners.rows([(key, segment) for key in owners.tolist()])
        rows = np.broadcast_to(row_of[which], weight.shape)
        new = self._table.insert(np.asarray(points, np.float32), votes, rows, all_vote=False)
        if len(self) > self.capacity:
            self._finish()
        while len(self) > self.capacity:
            self._begin(2.0 * self.voxel)
            self._finish()
        return new

    def cloud(self, segment: int | None = None) -> Cloud:
        """All points, or those of one segment of the map: the mean of each voxel."""
        return Cloud(*self.owned_cloud(segment)[:3])

    def owned_cloud(self, segment: int | None = None) -> OwnedCloud:
        """The same, with the owner of each point."""
        parts = []
        for table in self._tables():
            slots = slice(self._done, None) if table is self._old else slice(None)
            points, sums, rows = table.read(slots, segment)
            parts.append((points, sums, np.array(table.owners.keyframes, np.int64)[rows]))
        points, sums, keyframes = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        colours = np.clip(np.rint(sums[:, 3:6] / sums[:, 6:7]), 0, 255).astype(np.uint8)
        return OwnedCloud(points, colours, 1.0 + sums[:, 6] / sums[:, 7], keyframes)

    def follow(self, correction: Correction, segments: Mapping[int, int] = NO_SEGMENTS) -> None:
        """Move the voxels of keyframes that moved; to be called once an update.

        `segments`: of each keyframe now, where some may have changed; empty: none did.
        """
        for table in self._tables():
            table.owners.follow(correction, segments)
        if self._old is None:
            owners = self._table.owners
            if len(owners.keyframes) > max(MAX_ROWS, 2 * len(set(owners.keyframes))):
                self._begin(self.voxel)
            elif owners.moved.any():
                left, scale = self._table.sample_motion()
                if len(left) and left.mean() > MOVED_SHARE:
                    self._begin(self._voxel_at(float(np.median(scale))))
        if self._old is not None:
            share = MOVED_AT_ONCE / max(self._old.taken, 1)
            self._advance(max(int(share * self._old.slots), 1))

    def _voxel_at(self, scale: float) -> float:
        """Side of the voxels of a map that was multiplied by `scale`: fine ones need more room."""
        coarser = np.log2(self.voxel / self.smallest_voxel)
        halvings = np.clip(np.floor(-np.log2(scale) + 1e-6), 0.0, coarser)
        return self.voxel / 2.0 ** float(halvings)

    def _tables(self) -> list[VoxelTable]:
        return [self._table] if self._old is None else [self._table, self._old]

    def _begin(self, voxel: float) -> None:
        self._old, self._table = self._table, VoxelTable(voxel, self.capacity)
        self._done = 0

    def _advance(self, slots: int) -> None:
        """Move the voxels of the next slots."""
        assert self._old is not None
        self._old.move_into(self._table, slice(self._done, self._done + slots))
        self._done += slots
        if self._done >= self._old.slots:
            self._old = None

    def _finish(self) -> None:
        if self._old is not None:
            self._advance(self._old.slots)
