# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A large cloud read a part at a time, so that no update waits for all of it."""

from typing import Protocol, runtime_checkable

from vggt_ros.mapping.cloud.voxels import OwnedCloud, VoxelMap

PATIENCE = 64  # calls beyond those needed, after which all is read at once


@runtime_checkable
class Parts(Protocol):
    """Where the parts of a cloud are put, one after the other: a list, for instance."""

    def clear(self) -> None:
        """Forget all parts."""

    def append(self, part: OwnedCloud, /) -> None:
        """Take one more part."""


class CloudSweep:
    """The points of one segment, over several updates.

    Each part is where it is when it is read. A correction in between moves the parts that follow,
    and the next sweep moves the others. While voxels are put into new cells nothing is read, and
    what was read before that is read again.
    """

    def __init__(self, voxels: VoxelMap, segment: int, parts: Parts):
        """`parts` is cleared, and filled with the cloud."""
        self.segment = segment
        self._voxels, self._calls = voxels, 0
        self._table, self._done = voxels.settled, 0  # slots that are read
        self._parts = parts
        parts.clear()

    def advance(self, share: float) -> bool:
        """Read this share of all voxels; True: all were read."""
        self._calls += 1
        table = self._voxels.settled
        if share >= 1.0 or self._calls > PATIENCE + 1.0 / share:
            self._parts.clear()
            self._parts.append(self._voxels.owned_cloud(self.segment))
            return True
        if table is None or table is not self._table:
            self._table, self._done = table, 0
            self._parts.clear()
            if table is None:
                return False
        end = min(self._done + max(int(share * table.slots), 1), table.slots)
        self._parts.append(self._voxels.part(slice(self._done, end), self.segment))
        self._done = end
        return end == table.slots
