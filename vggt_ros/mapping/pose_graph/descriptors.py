# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Descriptors of all keyframes as one matrix, to compare one with thousands at once."""

import numpy as np
from jaxtyping import Float32, Int

LEAST_ROOM = 64  # rows


class DescriptorTable:
    """Vectors of one length, known by frame ids, as the rows of one array with room to grow."""

    def __init__(self) -> None:
        self._row: dict[int, int] = {}
        self._ids = np.zeros(0, np.int64)
        self._rows = np.zeros((0, 0), np.float32)

    def get(self, key: int) -> Float32[np.ndarray, "d"] | None:
        """A copy; None where there is none."""
        row = self._row.get(key)
        return None if row is None else self._rows[row].copy()

    def all(self) -> tuple[Int[np.ndarray, "n"], Float32[np.ndarray, "n d"]]:
        """Ids, in any order, and their rows; valid until the next change."""
        count = len(self._row)
        return self._ids[:count], self._rows[:count]

    def put(self, key: int, descriptor: Float32[np.ndarray, "d"]) -> None:
        """Add one, or replace it.  Raises ValueError for another length than the others'."""
        ids, rows = self.all()
        if not len(ids):
            rows = np.zeros((0, len(descriptor)), np.float32)
        elif len(descriptor) != rows.shape[1]:
            raise ValueError(f"a descriptor of {len(descriptor)} numbers among {rows.shape[1]}")
        if rows.shape[1] != self._rows.shape[1] or len(ids) == len(self._ids):
            more = max(LEAST_ROOM, len(ids) // 2)
            self._ids = np.concatenate([ids, np.zeros(more, np.int64)])
            self._rows = np.concatenate([rows, np.zeros((more, rows.shape[1]), np.float32)])
        row = self._row.setdefault(key, len(ids))
        self._ids[row], self._rows[row] = key, descriptor

    def remove(self, key: int) -> None:
        """Nothing happens where there is none."""
        row = self._row.pop(key, None)
        last = len(self._row)
        if row is not None and row != last:  # the last one takes its place
            self._ids[row], self._rows[row] = self._ids[last], self._rows[last]
            self._row[int(self._ids[row])] = row
