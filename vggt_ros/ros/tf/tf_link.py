# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One frame's transforms to its parent: static, or over time."""

from bisect import bisect_left

import numpy as np
from jaxtyping import Float

from vggt_ros.geometry import interpolate_rigid
from vggt_ros.ros.tf.tf_messages import Packed

KEPT_NS = 10_000_000_000  # of moving transforms
MAX_OLD = 3  # transforms in a row that are older than all that is kept: the clock went back

Pose = Float[np.ndarray, "4 4"]


class Link:
    """A frame's transform to its parent, static or over time, as received."""

    def __init__(self, parent: str, is_static: bool):
        self.parent, self.is_static = parent, is_static
        self.stamps: list[int] = []  # ascending
        self.packed: list[Packed] = []
        self.damaged = 0  # that were forgotten; the caller sets it back
        self._old = 0  # in a row, that were too old to be kept
        # Transforms so far, and at the image of this stamp, up to which they had come.
        self._received, self._heard = 0, (0, 0)

    def add(self, ns: int, packed: Packed) -> None:
        """Keep a transform, unless it is too old."""
        self._received += 1
        stamps, kept = self.stamps, self.packed
        is_old = not self.is_static and bool(stamps) and ns < stamps[-1] - KEPT_NS
        self._old = self._old + 1 if is_old else 0
        if is_old and self._old < MAX_OLD:
            return
        if is_old:  # a recording that is played again
            stamps.clear()
            kept.clear()
        if self.is_static:
            stamps[:], kept[:] = [ns], [packed]
        elif not stamps or ns > stamps[-1]:
            stamps.append(ns)
            kept.append(packed)
        elif stamps[i := bisect_left(stamps, ns)] == ns:
            kept[i] = packed
        else:
            stamps.insert(i, ns)
            kept.insert(i, packed)
        if stamps[-1] - stamps[0] > KEPT_NS:
            first = bisect_left(stamps, stamps[-1] - KEPT_NS)
            del stamps[:first], kept[:first]

    def has_ended(self, ns: int) -> bool:
        """Whether its publisher has: nothing came, nor is anything known, for `KEPT_NS` of images.

        Asked with each image, whose stamps are `ns`: so a camera that pauses ends nothing.
        """
        if self.is_static:
            return False
        count, since = self._heard
        if count != self._received or ns < since:
            self._heard = self._received, ns
            return False
        return ns - since > KEPT_NS and not (self.stamps and self.stamps[-1] >= ns - KEPT_NS)

    def forget_from(self, ns: int) -> None:
        """Time went back to this stamp."""
        first = bisect_left(self.stamps, ns)
        del self.stamps[first:], self.packed[first:]

    def at(self, ns: int) -> Pose | None:
        """parent_from_child; what is no pose is forgotten when it is met, and counted."""
        while self.stamps:
            if self.is_static:
                i, share = 0, 0.0
            else:
                i, share = self._place(ns)
            if i < 0:
                return None
            before = self._pose(i)
            after = before if share == 0.0 else self._pose(i + 1)
            if before is not None and after is not None:
                return before if share == 0.0 else interpolate_rigid(before, after, share)
            wrong = i if before is None else i + 1
            del self.stamps[wrong], self.packed[wrong]
            self.damaged += 1
        return None

    def _place(self, ns: int) -> tuple[int, float]:
        """The stamp before `ns`, and how far it is to the next one; -1 where there are not both."""
        i = bisect_left(self.stamps, ns)
        if i == len(self.stamps):
            return -1, 0.0
        if self.stamps[i] == ns:
            return i, 0.0
        if i == 0:
            return -1, 0.0
        before, after = self.stamps[i - 1], self.stamps[i]
        return i - 1, (ns - before) / (after - before)

    def _pose(self, i: int) -> Pose | None:
        return self.packed[i].pose()
