# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A large cloud read a part at a time, so that no update waits for all of it."""

from vggt_ros.mapping.voxels import Cloud, VoxelMap

PATIENCE = 64  # calls without an end after which all is read at once


class CloudSweep:
    """The points of one segment, over several updates.

    Each part is where it is when it is read. A correction in between moves the parts that follow,
    and the next sweep moves the others. While voxels are put into new cells nothing is read, and
    what was read before that is read again.
    """

    def __init__(self, voxels: VoxelMap, segment: int):
        self.segment = segment
        self._voxels, self._calls = voxels, 0
        self._table, self._done = voxels.settled, 0  # slots that are read
        self.parts: list[Cloud] = []

    def advance(self, share: float) -> bool:
        """Read this share of all voxels; True: `parts` are all of them."""
        self._calls += 1
        table = self._voxels.settled
        if self._calls > PATIENCE or share >= 1.0:
            self.parts = [self._voxels.cloud(self.segment)]
            return True
        if table is None or table is not self._table:
            self._table, self._done, self.parts = table, 0, []
            if table is None:
                return False
        end = min(self._done + max(int(share * table.slots), 1), table.slots)
        self.parts.append(self._voxels.part(slice(self._done, end), self.segment))
        self._done = end
        return end == table.slots
