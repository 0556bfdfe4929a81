# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Voxels in a hash table with linear probing, each with the keyframe that owns it.

All points of a call probe their slot at once, and the few that collide probe the next one. Voxels
are never taken out, which linear probing does not allow: one that is cleared keeps its slot without
votes, and those that moved are copied to another table, a part at a time.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32

from vggt_ros.mapping.corrections import Correction

EMPTY = np.int64(0)  # no cell has this key, since its parts are above 0
MAX_CELL = 1 << 20  # voxels to either side of the origin that a key can name
SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: scatters keys (Knuth 6.4)
SAMPLE = 4096  # voxels that are looked at, about, to see how far they moved


class Owners:
    """Keyframes that own voxels of one table: a row for each, and how it moved since it was filled.

    A keyframe that moved has its next voxels in another row, since those were never elsewhere.
    """

    def __init__(self) -> None:
        self.keyframes: list[int] = []
        self.segments = np.zeros(0, np.int64)
        self.counts = np.zeros(0, np.int64)  # voxels
        self.scale = np.ones(0)
        self.rotation = np.zeros((0, 3, 3))
        self.shift = np.zeros((0, 3))
        self.moved = np.zeros(0, bool)
        self._unmoved: dict[tuple[int, int], int] = {}  # keyframe and segment: its row
        self.changes = 0  # of the rows by keyframe and segment

    def rows(self, owners: Sequence[tuple[int, int]]) -> Int32[np.ndarray, "n"]:
        """The rows of keyframes, each given with its segment, that are in their place now."""
        new = [owner for owner in dict.fromkeys(owners) if owner not in self._unmoved]
        if new:
            first, n = len(self.keyframes), len(new)
            self._unmoved |= {owner: first + i for i, owner in enumerate(new)}
            self.keyframes += [keyframe for keyframe, _ in new]
            self.segments = np.append(self.segments, [segment for _, segment in new])
            self.counts = np.append(self.counts, np.zeros(n, np.int64))
            self.scale = np.append(self.scale, np.ones(n))
            self.rotation = np.concatenate([self.rotation, np.tile(np.eye(3), (n, 1, 1))])
            self.shift = np.concatenate([self.shift, np.zeros((n, 3))])
            self.moved = np.append(self.moved, np.zeros(n, bool))
        return np.array([self._unmoved[owner] for owner in owners], np.int32)

    def follow(self, correction: Correction, segments: Mapping[int, int]) -> None:
        """Compose the motions, then rename removed keyframes; `segments` are those of now."""
        rows = [row for row, key in enumerate(self.keyframes) if key in correction.moved]
        if rows:
            motions = [correction.moved[self.keyframes[row]] for row in rows]
            scale = np.array([motion.scale for motion in motions])
            # Joined, since np.stack takes ten times as long for thousands.
            rotation = np.concatenate([motion.rotation for motion in motions]).reshape(-1, 3, 3)
            shift = np.concatenate([motion.translation for motion in motions]).reshape(-1, 3)
            turned = (rotation @ self.shift[rows][..., None])[..., 0]
            self.shift[rows] = scale[:, None] * turned + shift
            self.rotation[rows] = rotation @ self.rotation[rows]
            self.scale[rows] *= scale
            self.moved[rows] = True
        if correction.heirs:
            self.keyframes = [correction.heirs.get(key, key) for key in self.keyframes]
        if segments:
            now = [
                segments.get(key, segment)
                for key, segment in zip(self.keyframes, self.segments.tolist(), strict=True)
            ]
            self.segments = np.array(now, np.int64)
        if rows or correction.heirs or segments:
            self.changes += 1
            self._unmoved = {
                (key, int(self.segments[row])): row
                for row, key in enumerate(self.keyframes)
                if not self.moved[row]
            }

    def apply(
        self, rows: Int32[np.ndarray, "p"], points: Float[np.ndarray, "p 3"]
    ) -> Float32[np.ndarray, "p 3"]:
        """The points of these rows where they are now."""
        points = points.astype(np.float32, copy=False)
        if not self.moved.any():
            return points
        matrices = (self.scale[:, None, None] * self.rotation).astype(np.float32)
        shift, there = self.shift.astype(np.float32), np.empty_like(points)
        x, y, z = np.ascontiguousarray(points.T)
        place = rows.astype(np.intp)
        for i in range(3):  # as a product of matrices takes twice the time
            a, b, c = np.ascontiguousarray(matrices[:, i].T)
            moved = a.take(place) * x
            moved += b.take(place) * y
            moved += c.take(place) * z
            moved += shift[:, i].take(place)
            there[:, i] = moved
        return there


class VoxelTable:
    """Sums of the votes in each voxel; cells of two segments are two voxels.

    `room` is how many voxels it may hold: it has twice as many slots.
    """

    def __init__(self, voxel: float, room: int):
        self.slots = 1 << (2 * room - 1).bit_length()
        self._keys = np.zeros(self.slots, np.int64)
        self._row = np.zeros(self.slots, np.int32)  # of the owner
        self._claim = np.zeros(self.slots, np.int32)  # scratch: who of several has a slot
        # Sums over the views of a voxel: offset from its centre and colour (by weight), weight, 1.
        self._sums = np.zeros((self.slots, 8), np.float32)
        self.reset(voxel)

    def reset(self, voxel: float) -> None:
        """Voxels of this side, in a table without any."""
        self.voxel = voxel
        self.owners = Owners()
        self._rows_there = np.zeros(0, np.int32)  # in the table to which voxels move; -1: not known
        self._changes = -1  # of the owners when these rows were
        self.taken = 0  # slots, also by voxels that were cleared
        self._cleared = 0  # how many of them

    def erase(self, slots: slice) -> None:
        """Empty these slots.

        Their memory is given by the system when they are written to first: 12,000 pages of a large
        table, which all would be when the first voxels are scattered over it.
        """
        for column in (self._keys, self._row, self._claim, self._sums):
            column[slots] = 0

    def insert(
        self,
        points: Float32[np.ndarray, "p 3"],
        votes: Float32[np.ndarray, "p 8"],
        rows: Int32[np.ndarray, "p"],
        *,
        all_vote: bool,
    ) -> int:
        """Add the votes of points; their columns 0 to 2 are written here. Returns the new voxels.

        Of several points in one voxel all vote, or one.  What a key cannot name is left out.
        """
        cell = np.floor(points * np.float32(1.0 / self.voxel))
        named = (np.abs(cell) < MAX_CELL).all(axis=1)  # False for NaN as well
        if not named.all():
            points, votes, rows, cell = points[named], votes[named], rows[named], cell[named]
        x, y, z = cell.astype(np.int64).T + MAX_CELL
        slot = self._find((x << 42) | (y << 21) | z, rows)
        new = self._fill(slot, rows)
        offset = points - (cell + np.float32(0.5)) * np.float32(self.voxel)
        votes[:, :3] = votes[:, 6:7] * offset
        while len(slot):
            index = np.arange(len(slot), dtype=np.int32)
            self._claim[slot] = index
            chosen = self._claim[slot] == index
            self._sums[slot[chosen]] += votes[chosen]
            if not all_vote or chosen.all():
                break
            slot, votes = slot[~chosen], votes[~chosen]
        return new

    def _fill(self, slot: Int[np.ndarray, "p"], rows: Int32[np.ndarray, "p"]) -> int:
        """Give the slots that have no votes yet to their rows; returns how many these are."""
        empty = np.flatnonzero(self._sums[slot, 7] == 0.0)
        self._claim[slot[empty]] = empty
        first = empty[self._claim[slot[empty]] == empty]
        self._row[slot[first]] = rows[first]
        self.owners.counts += np.bincount(rows[first], minlength=len(self.owners.counts))
        return len(first)

    def _find(
        self, keys: Int[np.ndarray, "p"], rows: Int32[np.ndarray, "p"]
    ) -> Int[np.ndarray, "p"]:
        """The slot of every key in the segment of its row; those not in the table take one."""
        mask, segments = self.slots - 1, self.owners.segments
        shift = np.uint64(65 - self.slots.bit_length())
        slot = ((keys.astype(np.uint64) * SPREAD) >> shift).astype(np.int64)
        pending = np.arange(len(keys))
        while len(pending):
            here = self._keys[slot[pending]]
            free = pending[here == EMPTY]
            if len(free):
                self._claim[slot[free]] = free
                first = free[self._claim[slot[free]] == free]
                self._keys[slot[first]] = keys[first]
                self._row[slot[first]] = rows[first]
                self.taken += len(first)
                here = self._keys[slot[pending]]
            same = here == keys[pending]
            same &= segments[self._row[slot[pending]]] == segments[rows[pending]]
            pending = pending[~same]
            slot[pending] = (slot[pending] + 1) & mask
        return slot

    def read(
        self, slots: slice = slice(None), segment: int | None = None
    ) -> tuple[Float32[np.ndarray, "p 3"], Float32[np.ndarray, "p 8"], Int32[np.ndarray, "p"]]:
        """Mean point where it is now, sums and owner's row of the voxels; of one segment or all."""
        return self.read_at(self.voxels(slots, segment))

    def voxels(
        self, slots: slice = slice(None), segment: int | None = None
    ) -> Int[np.ndarray, "p"]:
        """The slots among these that hold a voxel; of one segment, or all."""
        found = np.flatnonzero(self._keys[slots] != EMPTY) + (slots.start or 0)
        if self._cleared:
            found = found[self._sums[found, 7] > 0.0]
        if segment is not None and len(found):
            is_of_it = self.owners.segments == segment
            if not is_of_it.all():
                found = found[is_of_it.take(self._row.take(found))]
        return found

    def read_at(
        self, slots: Int[np.ndarray, "p"]
    ) -> tuple[Float32[np.ndarray, "p 3"], Float32[np.ndarray, "p 8"], Int32[np.ndarray, "p"]]:
        """`read` of slots that hold a voxel."""
        sums, rows = self._sums.take(slots, axis=0), self._row.take(slots)
        points = np.empty((len(slots), 3), np.float32)
        weight = np.ascontiguousarray(sums[:, 6])
        for i, centre in enumerate(self._centres(self._keys.take(slots))):
            points[:, i] = centre + sums[:, i] / weight
        return self.owners.apply(rows, points), sums, rows

    def contradict(self, slots: Int[np.ndarray, "p"]) -> int:
        """Halve the votes of voxels, and clear those with less than one; returns how many."""
        self._sums[slots] *= np.float32(0.5)
        gone = slots[self._sums[slots, 7] < 1.0]
        self._sums[gone] = 0.0
        self.owners.counts -= np.bincount(self._row[gone], minlength=len(self.owners.counts))
        self._cleared += len(gone)
        return len(gone)

    def move_into(self, other: "VoxelTable", slots: slice) -> None:
        """Put the voxels of these slots where they are now; they are counted there from then on."""
        points, sums, rows = self.read(slots)
        owners = self.owners
        leaving = np.bincount(rows, minlength=len(owners.counts))
        if self._changes != owners.changes:  # which those of the other table follow too
            self._changes, self._rows_there = owners.changes, np.full(len(leaving), -1, np.int32)
        new = np.flatnonzero((self._rows_there < 0) & (leaving > 0))
        if len(new):
            keyframes = [owners.keyframes[row] for row in new.tolist()]
            self._rows_there[new] = other.owners.rows(
                list(zip(keyframes, owners.segments[new].tolist(), strict=True))
            )
        other.insert(points, sums, self._rows_there[rows], all_vote=True)
        owners.counts -= leaving

    def sample_motion(self) -> tuple[Bool[np.ndarray, "p"], Float[np.ndarray, "p"]]:
        """Of some of the voxels: is it by now in another place of its size, and its scale there."""
        some = slice(None, None, max(self.taken // SAMPLE, 1))
        taken = self._keys[some] != EMPTY
        rows, centres = self._row[some][taken], np.stack(self._centres(self._keys[some][taken]), 1)
        steps = self.owners.apply(rows, centres) - centres
        return np.linalg.norm(steps, axis=1) > 0.5 * self.voxel, self.owners.scale[rows]

    def _centres(self, keys: Int[np.ndarray, "p"]) -> list[Float[np.ndarray, "p"]]:
        """x, y and z of the cells' centres."""
        low = (1 << 21) - 1
        cells = keys >> 42, (keys >> 21) & low, keys & low
        return [(cell - (MAX_CELL - 0.5)) * self.voxel for cell in cells]
