# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A large cloud is read over several updates, and is the cloud that is read at once."""

import numpy as np
import pytest

from vggt_ros.geometry import Similarity
from vggt_ros.mapping.cloud.voxel_sweep import PATIENCE, CloudSweep
from vggt_ros.mapping.cloud.voxels import OwnedCloud, VoxelMap
from vggt_ros.mapping.corrections import Correction

VOXEL, COUNT = 0.1, 5000
SHIFT = Similarity(1.0, np.eye(3), np.array([0.01, 0.0, 0.0]))  # within a voxel
FAR = Similarity(1.0, np.eye(3), np.array([7.03, 0.0, 0.0]))


class Swept:
    """A sweep of segment 0, and the parts that it has read."""

    def __init__(self, known: VoxelMap):
        self.parts: list[OwnedCloud] = []
        self.advance = CloudSweep(known, 0, self.parts).advance


def voxel_map() -> VoxelMap:
    """Points a voxel apart along a line; those of segment 1 lie beside it."""
    made = VoxelMap(VOXEL, 20_000)
    for segment in (0, 1):
        points = np.zeros((COUNT, 3), np.float32)
        points[:, 0], points[:, 1] = VOXEL * (np.arange(COUNT) + 0.5), segment + 0.05
        made.add(
            points, np.full((COUNT, 3), 9, np.uint8), np.full(COUNT, 2.0, np.float32),
            keyframe=np.full(COUNT, 10 + segment), segment=segment,
        )  # fmt: skip
    return made


def places(sweep: Swept) -> np.ndarray:
    """Along the line, in order."""
    points = np.concatenate([part.points for part in sweep.parts])
    assert (points[:, 1] < 1.0).all(), "one segment alone"
    return np.sort(points[:, 0])


def calls_until_done(sweep: Swept, share: float) -> int:
    calls = 1
    while not sweep.advance(share):
        calls += 1
    return calls


@pytest.mark.parametrize(("share", "calls"), [(0.1, range(10, 12)), (0.5, range(2, 4)), (1.0, [1])])
def test_parts_are_the_cloud(share: float, calls):
    known = voxel_map()
    sweep = Swept(known)
    assert calls_until_done(sweep, share) in calls
    whole = known.cloud(0)
    np.testing.assert_allclose(places(sweep), np.sort(whole.points[:, 0]))
    assert len(whole.points) == COUNT
    assert all((part.colours == 9).all() for part in sweep.parts)
    np.testing.assert_allclose(np.concatenate([p.confidence for p in sweep.parts]), 2.0)


def test_what_moves_in_between_is_shown_where_it_was_read():
    known = voxel_map()
    sweep = Swept(known)
    for _ in range(5):
        assert not sweep.advance(0.1)
    before = sum(len(part.points) for part in sweep.parts)
    known.follow(Correction({10: SHIFT}, {}))
    calls_until_done(sweep, 0.1)
    offsets = np.round(places(sweep) / VOXEL % 1.0, 3)
    assert (offsets == 0.5).sum() == before and (offsets == 0.6).sum() == COUNT - before


def test_voxels_that_get_new_cells_are_all_read():
    known = voxel_map()
    sweep = Swept(known)
    for _ in range(5):
        sweep.advance(0.1)
    known.follow(Correction({10: FAR}, {}))
    while known.settled is None:
        assert not sweep.advance(0.1)
        known.follow(Correction({}, {}))
    calls_until_done(sweep, 0.1)
    expected = VOXEL * (np.arange(COUNT) + 0.5) + 7.03
    np.testing.assert_allclose(places(sweep), expected, atol=1e-3)


def test_a_map_that_never_settles_is_read_at_once_after_some_calls():
    known = voxel_map()
    sweep = Swept(known)
    for calls in range(1, 2 * PATIENCE):
        forth = Similarity(1.0, np.eye(3), np.array([7.03 * (-1) ** calls, 0.0, 0.0]))
        known.follow(Correction({10: forth}, {}))
        if sweep.advance(0.05):
            break
    assert calls <= PATIENCE + 21 and len(places(sweep)) == COUNT
