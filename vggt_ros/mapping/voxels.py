# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The map as a cloud: one averaged point per voxel in bounded memory.

The voxels live in a hash table with linear probing, all in NumPy: all points of a
frame probe their slot at once, and the few that collide probe the next one.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from vggt_ros.geometry import transform, unproject

EMPTY = np.int64(-1)
MAX_CELL = 1 << 20  # voxels to either side of the origin that a key can name
SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: scatters keys (Knuth 6.4)
MAX_PIXELS = 26_000  # of one view that are added; at 518 x 392 every third row and column
EDGE = 0.08  # relative step of depth to a neighbour beyond which a pixel mixes two surfaces


class Cloud(NamedTuple):
    """Coloured points in the world."""

    points: Float32[np.ndarray, "p 3"]
    colours: UInt8[np.ndarray, "p 3"]
    confidence: Float32[np.ndarray, "p"]


class VoxelMap:
    """Coloured points of many views, averaged per voxel: each view has one vote in each.

    When more than `capacity` voxels are taken, their side doubles: far or near, nothing is
    dropped, only stored more coarsely. Memory stays at about 90 bytes times `capacity`.
    """

    def __init__(self, voxel: float = 0.05, capacity: int = 500_000):
        self.voxel = voxel
        self.capacity = capacity
        self._slots = 1 << (2 * capacity - 1).bit_length()
        self.clear()

    def __len__(self) -> int:
        return self._taken

    def clear(self) -> None:
        """Forget every point."""
        self._taken = 0
        self._keys = np.full(self._slots, EMPTY)
        self._owner = np.zeros(self._slots, np.int32)
        # Sums over the views of a voxel: offset from its centre and colour (by weight), weight, 1.
        self._sums = np.zeros((self._slots, 8), np.float32)

    def add_view(
        self,
        depth: Float[np.ndarray, "h w"],
        rgb: UInt8[np.ndarray, "h w 3"],
        confidence: Float[np.ndarray, "h w"],
        intrinsics: Float[np.ndarray, "3 3"],
        world_from_camera: Float[np.ndarray, "4 4"],
        min_confidence: float = 0.0,
    ) -> int:
        """Add one view; its depth is NaN or 0 where unknown. Returns how many voxels are new."""
        step = max(1, int(np.ceil((depth.size / MAX_PIXELS) ** 0.5)))
        thin = np.ascontiguousarray(depth[::step, ::step], np.float32)
        limit = EDGE * thin
        sound = np.zeros(thin.shape, bool)  # False at the rim, which has no neighbour
        sound[:-1, :-1] = np.abs(thin[:-1, 1:] - thin[:-1, :-1]) < limit[:-1, :-1]
        sound[:-1, :-1] &= np.abs(thin[1:, :-1] - thin[:-1, :-1]) < limit[:-1, :-1]
        sound &= (thin > 0) & (confidence[::step, ::step] >= min_confidence)
        coarse = np.diag([1.0 / step, 1.0 / step, 1.0]) @ intrinsics
        points = unproject(thin, coarse.astype(np.float32))[sound]
        points = transform(world_from_camera.astype(np.float32), points)
        return self.add(points, rgb[::step, ::step][sound], confidence[::step, ::step][sound])

    def add(
        self,
        points: Float[np.ndarray, "p 3"],
        colours: UInt8[np.ndarray, "p 3"],
        confidence: Float[np.ndarray, "p"],
    ) -> int:
        """Add points, without those beyond what a key can name. Returns how many voxels are new."""
        weight = np.maximum(confidence - 1.0, 1e-3).astype(np.float32)
        votes = np.empty((len(weight), 8), np.float32)
        votes[:, 3:6] = weight[:, None] * colours
        votes[:, 6], votes[:, 7] = weight, 1.0
        return self._insert(np.asarray(points, np.float32), votes)

    def cloud(self) -> Cloud:
        """All points: the mean of each voxel."""
        taken = self._keys != EMPTY
        sums = self._sums[taken]
        weight = sums[:, 6:7]
        points = self._centres(self._keys[taken]) + sums[:, :3] / weight
        colours = np.clip(np.rint(sums[:, 3:6] / weight), 0, 255).astype(np.uint8)
        return Cloud(points.astype(np.float32), colours, 1.0 + sums[:, 6] / sums[:, 7])

    def rescale(self, factor: float, about: Float[np.ndarray, "3"]) -> None:
        """Multiply every distance; the point `about` stays, and the voxel keeps its size."""
        self._rebuild(self.voxel, factor, about - factor * about)

    def _rebuild(
        self, voxel: float, factor: float = 1.0, shift: Float[np.ndarray, "3"] | float = 0.0
    ) -> None:
        taken = self._keys != EMPTY
        sums = self._sums[taken]
        points = self._centres(self._keys[taken]) + sums[:, :3] / sums[:, 6:7]
        self.voxel = voxel
        self.clear()
        self._insert((factor * points + shift).astype(np.float32), sums)

    def _insert(self, points: Float32[np.ndarray, "p 3"], votes: Float32[np.ndarray, "p 8"]) -> int:
        """Add the votes of points; of several points in one voxel, one votes."""
        cell = np.floor(points * np.float32(1.0 / self.voxel))
        named = (np.abs(cell) < MAX_CELL).all(axis=1)  # False for NaN as well
        if not named.all():
            points, votes, cell = points[named], votes[named], cell[named]
        x, y, z = cell.astype(np.int64).T + MAX_CELL
        before = self._taken
        slot = self._find((x << 42) | (y << 21) | z)
        index = np.arange(len(slot), dtype=np.int32)
        self._owner[slot] = index
        chosen = self._owner[slot] == index
        slot, votes = slot[chosen], votes[chosen]
        offset = points[chosen] - (cell[chosen] + np.float32(0.5)) * np.float32(self.voxel)
        votes[:, :3] = votes[:, 6:7] * offset
        self._sums[slot] += votes
        new = self._taken - before
        if self._taken > self.capacity:
            self._rebuild(2.0 * self.voxel)
        return new

    def _find(self, keys: Int[np.ndarray, "p"]) -> Int[np.ndarray, "p"]:
        """The slot of every key; those not yet in the table take one."""
        mask = self._slots - 1
        shift = np.uint64(65 - self._slots.bit_length())
        slot = ((keys.astype(np.uint64) * SPREAD) >> shift).astype(np.int64)
        pending = np.arange(len(keys))
        while len(pending):
            here = self._keys[slot[pending]]
            free = pending[here == EMPTY]
            if len(free):
                self._owner[slot[free]] = free
                first = free[self._owner[slot[free]] == free]
                self._keys[slot[first]] = keys[first]
                self._taken += len(first)
                here = self._keys[slot[pending]]
            pending = pending[here != keys[pending]]
            slot[pending] = (slot[pending] + 1) & mask
        return slot

    def _centres(self, keys: Int[np.ndarray, "p"]) -> Float[np.ndarray, "p 3"]:
        low = (1 << 21) - 1
        cells = np.stack([keys >> 42, (keys >> 21) & low, keys & low], axis=1) - MAX_CELL
        return (cells + 0.5) * self.voxel
