# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The map as a cloud: one averaged point per voxel, owned by a keyframe, in bounded memory."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from vggt_ros.geometry import inverse_rigid, transform, unproject
from vggt_ros.mapping.cloud.agreement import is_smooth
from vggt_ros.mapping.cloud.consensus import thinning
from vggt_ros.mapping.cloud.fused_views import FusedView
from vggt_ros.mapping.cloud.voxel_table import VoxelTable
from vggt_ros.mapping.corrections import Correction

MAX_PIXELS = 26_000  # of one view that are added; at 518 x 392 every third row and column
MOVED_AT_ONCE = 20_000  # voxels that one call of `follow` puts into new cells, about
ERASED_AT_ONCE = 1 << 16  # slots of the table for the next move that one call empties
MOVED_SHARE = 0.02  # of all voxels that left their cell, from which they are put into new ones
EXAMINED = 10_000  # voxels that one view is compared with at most, about
TURNS = 4  # views at least, from one comparison of a voxel to its next
SEEN_THROUGH = 0.15  # by which share of its depth a ray must go on beyond a voxel
MAX_TAKEN = 0.7  # of the slots, from which those of cleared voxels are given back
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

    What later rays pass through is not there any more: each view that sees farther at a voxel's
    place halves its votes, and with less than one the voxel is cleared. A view is compared with
    some of the voxels, in turn, so that its cost does not grow with the map.

    When more than `capacity` voxels are taken, their side doubles, also a part at a time: far or
    near, nothing is dropped, only stored more coarsely. It halves again where a correction shrinks
    the map as much, and is never less than `voxel`. Memory stays at about 220 bytes times
    `capacity`, half of it for the cells to which voxels are moved, which are laid out beforehand.
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
        self._spare: VoxelTable | None = None  # to which voxels will be moved
        self._erased = 0  # its slots up to here are empty
        self._examined = 0  # slots up to here were compared with a view, this time round

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
        clearing: bool = True,
        fused: FusedView | None = None,
    ) -> int:
        """Add one view; its depth is NaN or 0 where unknown. Returns how many voxels are new.

        Those move with `keyframe`; -1: with none. With `clearing`, voxels of its segment that it
        sees through lose votes. `fused`: what is added instead of its depth, thinned as that is.
        """
        step = thinning(depth.shape, MAX_PIXELS)
        thin, is_new = (depth[::step, ::step], True) if fused is None else fused
        thin, sure = np.ascontiguousarray(thin, np.float32), confidence[::step, ::step]
        sound = is_new & is_smooth(thin) & (thin > 0) & (sure >= min_confidence)
        coarse = np.diag([1.0 / step, 1.0 / step, 1.0]) @ intrinsics
        if clearing:
            known = np.where(sure >= min_confidence, thin, np.float32(np.nan))
            self._see_through(known, coarse, world_from_camera, segment)
        points = unproject(thin, coarse.astype(np.float32))[sound]
        points = transform(world_from_camera.astype(np.float32), points)
        colours = rgb[::step, ::step][sound]
        return self.add(points, colours, sure[sound], keyframe=keyframe, segment=segment)

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
        which = np.broadcast_to(which, weight.shape)
        points, new = np.asarray(points, np.float32), 0
        # A part at a time, for which the table has room.
        parts = range(0, len(points), self._table.slots // 4)
        for part in (slice(first, first + parts.step) for first in parts):
            row_of = self._table.owners.rows([(key, segment) for key in owners.tolist()])
            new += self._table.insert(
                points[part], votes[part], row_of[which[part]], all_vote=False
            )
            self._make_room()
        return new

    def _make_room(self) -> None:
        """Coarser voxels where there are too many; and give back the slots of cleared ones.

        A part moves at once, the others in `follow`, as long as the table has room meanwhile.
        """
        while True:
            waiting = 0 if self._old is None else int(self._old.owners.counts.sum())
            is_full = self._table.taken + waiting > MAX_TAKEN * self._table.slots
            if self._old is not None and is_full:
                self._advance(self._old.slots)
            elif self._old is None and (is_full or len(self) > self.capacity):
                self._begin(self.voxel * (2.0 if len(self) > self.capacity else 1.0))
                self._advance()
            else:
                return

    def _see_through(
        self,
        depth: Float32[np.ndarray, "h w"],
        intrinsics: Float[np.ndarray, "3 3"],
        world_from_camera: Float[np.ndarray, "4 4"],
        segment: int,
    ) -> None:
        """Contradict the voxels that the next slots hold, where this depth lies behind them.

        That is all of nine pixels, so that what passes beside a thin thing does not clear it; and
        no voxel that is less than a pixel wide.
        """
        table = self._table
        room = table.slots // max(TURNS, table.taken // EXAMINED)
        slots = slice(self._examined, min(self._examined + room, table.slots))
        self._examined = slots.stop % table.slots
        found = table.voxels(slots, segment)
        in_camera = transform(inverse_rigid(world_from_camera), table.read_at(found)[0])
        x, y, z = (in_camera @ intrinsics.T).astype(np.float32).T
        height, width = depth.shape
        with np.errstate(divide="ignore", invalid="ignore"):
            column, row = np.rint(x / z), np.rint(y / z)
        inside = (z > 0) & (z < intrinsics[0, 0] * table.voxel)
        inside &= (column > 0) & (column < width - 1) & (row > 0) & (row < height - 1)
        found, z = found[inside], z[inside]
        place = row[inside].astype(int) * width + column[inside].astype(int)
        least = np.full(len(place), np.inf, np.float32)
        for beside in (-width, 0, width):
            for near in (-1, 0, 1):
                np.minimum(least, depth.ravel()[place + beside + near], out=least)  # NaN stays
        passed = (1.0 - SEEN_THROUGH) * least - table.voxel > z
        table.contradict(found[passed])

    def cloud(self, segment: int | None = None) -> Cloud:
        """All points, or those of one segment of the map: the mean of each voxel."""
        return Cloud(*self.owned_cloud(segment)[:3])

    def owned_cloud(self, segment: int | None = None) -> OwnedCloud:
        """The same, with the owner of each point."""
        parts = [
            _owned(table, slice(self._done, None) if table is self._old else slice(None), segment)
            for table in self._tables()
        ]
        return OwnedCloud(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    @property
    def settled(self) -> VoxelTable | None:
        """The table that has every voxel; None while they are put into new cells."""
        return self._table if self._old is None else None

    def part(self, slots: slice, segment: int) -> OwnedCloud:
        """Points of one segment in these slots of the settled table."""
        assert self._old is None
        return _owned(self._table, slots, segment)

    def follow(self, correction: Correction, segments: Mapping[int, int] = NO_SEGMENTS) -> None:
        """Move the voxels of keyframes that moved; to be called once an update.

        `segments`: of each keyframe now, where some may have changed; empty: none did.
        """
        for table in self._tables():
            table.owners.follow(correction, segments)
        if self._old is not None:
            self._advance()
            return
        owners = self._table.owners
        if len(owners.keyframes) > max(MAX_ROWS, 2 * len(set(owners.keyframes))):
            self._begin(self.voxel)
        elif owners.moved.any():
            left, scale = self._table.sample_motion()
            if len(left) and left.mean() > MOVED_SHARE:
                self._begin(self._voxel_at(float(np.median(scale))))
        if self._old is None and self._table.taken > MOVED_AT_ONCE:
            self._prepare()

    def _prepare(self) -> None:
        """Empty some more slots of the spare table."""
        self._spare = self._spare or VoxelTable(self.voxel, self.capacity)
        if self._erased < self._spare.slots:
            self._spare.erase(slice(self._erased, self._erased + ERASED_AT_ONCE))
            self._erased += ERASED_AT_ONCE

    def _voxel_at(self, scale: float) -> float:
        """Side of the voxels of a map that was multiplied by `scale`: fine ones need more room."""
        coarser = np.log2(self.voxel / self.smallest_voxel)
        halvings = np.clip(np.floor(-np.log2(scale) + 1e-6), 0.0, coarser)
        return self.voxel / 2.0 ** float(halvings)

    def _tables(self) -> list[VoxelTable]:
        return [self._table] if self._old is None else [self._table, self._old]

    def _begin(self, voxel: float) -> None:
        """Voxels of this side from now on."""
        table = self._spare or VoxelTable(voxel, self.capacity)
        if self._spare is not None:
            table.erase(slice(self._erased, None))
        table.reset(voxel)
        self._old, self._table, self._spare = self._table, table, None
        self._done = self._examined = 0

    def _advance(self, slots: int | None = None) -> None:
        """Move the voxels of the next slots; None: of so many that `MOVED_AT_ONCE` are moved."""
        assert self._old is not None
        if slots is None:
            slots = max(int(MOVED_AT_ONCE / max(self._old.taken, 1) * self._old.slots), 1)
        self._old.move_into(self._table, slice(self._done, self._done + slots))
        self._done += slots
        if self._done >= self._old.slots:
            self._old, self._spare, self._erased = None, self._old, 0


def _owned(table: VoxelTable, slots: slice, segment: int | None) -> OwnedCloud:
    """Points with the mean colour and confidence of their voxels."""
    points, sums, rows = table.read(slots, segment)
    weight, colours = np.ascontiguousarray(sums[:, 6]), np.empty((len(sums), 3), np.uint8)
    for i in range(3):
        channel = sums[:, 3 + i] / weight
        colours[:, i] = np.clip(np.rint(channel, out=channel), 0, 255, out=channel)
    keyframes = np.array(table.owners.keyframes, np.int64)[rows]
    return OwnedCloud(points, colours, 1.0 + weight / sums[:, 7], keyframes)
