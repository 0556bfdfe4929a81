# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One surface of many views that err, each in its own way: in single steps, and of a whole run."""

import numpy as np
import pytest
from fakes.oracle import smooth_field
from fakes.room import INTRINSICS, true_depth
from map_rig import cameras

from vggt_ros.geometry import Similarity
from vggt_ros.mapping.cloud.agreement import DepthView, Projection
from vggt_ros.mapping.cloud.consensus import (
    MAX_PIXELS,
    consensus,
    enlarged,
    nearest,
    thinned,
    thinning,
)
from vggt_ros.mapping.cloud.fused_views import FusedViews
from vggt_ros.mapping.corrections import Correction
from vggt_ros.tools.runs.format import RunFrame
from vggt_ros.tools.runs.fused import fuse


def frames(count: int, smooth: float, scale: float = 0.0) -> tuple[list[RunFrame], np.ndarray]:
    """Views of the furnished room as a network sees them, and their true depth."""
    random = np.random.default_rng(0)
    poses = cameras("arc", 3 * count)[::3]
    truth = np.stack([true_depth(pose) for pose in poses])
    seen = []
    for depth, pose in zip(truth, poses, strict=True):
        error = smooth * smooth_field(random) + scale * random.standard_normal()
        pixels = np.zeros((*depth.shape, 3), np.uint8)
        seen.append(
            RunFrame(
                (depth * np.exp(error)).astype(np.float32), np.ones(depth.shape, np.float32),
                INTRINSICS, pose, 0, pixels,
            )
        )  # fmt: skip
    return seen, truth


def off(fused: list[RunFrame], truth: np.ndarray) -> float:
    """How far the depth of all pixels is from the truth, relative: their median."""
    log = np.concatenate([np.log(f.depth / t).ravel() for f, t in zip(fused, truth, strict=True)])
    log = log[np.isfinite(log)]
    return float(np.median(np.abs(log - np.median(log))))


def apart(some: list[RunFrame]) -> float:
    """How far the surfaces of different frames lie apart, relative to depth: the median."""
    views = [DepthView.of(f.depth, f.intrinsics, f.world_from_camera) for f in some]
    logs = [np.log(Projection(a, b).ratios()) for a, b in zip(views, views[4:], strict=False)]
    return float(np.nanmedian(np.abs(np.stack(logs))))


@pytest.mark.parametrize("smooth, scale", [(0.1, 0.0), (0.1, 0.1), (0.02, 0.0)])
def test_walls_stand_once(smooth, scale):
    seen, truth = frames(30, smooth, scale)
    fused = [fusion.apply(frame) for fusion, frame in zip(fuse(seen), seen, strict=True)]
    assert off(fused, truth) < 0.45 * off(seen, truth)
    assert apart(fused) < 0.3 * apart(seen)
    assert np.mean([np.isfinite(frame.depth).mean() for frame in fused]) > 0.9
    for before, after in zip(seen, fused, strict=True):
        np.testing.assert_array_equal(after.world_from_camera, before.world_from_camera)


def test_precise_depth_stays_as_it_is():
    seen, truth = frames(20, 0.0)
    fused = [fusion.apply(frame) for fusion, frame in zip(fuse(seen), seen, strict=True)]
    assert off(fused, truth) < 0.003
    known = np.mean([np.isfinite(frame.depth).mean() for frame in fused])
    assert known > 0.97


def test_a_frame_alone_and_frames_of_elsewhere_stay_as_they_are():
    seen, _ = frames(2, 0.1)
    away = seen[1].world_from_camera.copy()
    away[:3, 3] += 100.0
    for given in (seen[:1], [seen[0], seen[1]._replace(world_from_camera=away)], []):
        for fusion, frame in zip(fuse(given), given, strict=True):
            np.testing.assert_allclose(fusion.apply(frame).depth, frame.depth, rtol=1e-6)


def test_a_view_enters_the_cloud_on_the_surface_that_older_ones_see():
    seen, truth = frames(30, 0.1)
    views, entered, shares = FusedViews(), [], []
    for i, frame in enumerate(seen):
        found = views.add(frame.depth, frame.intrinsics, frame.world_from_camera, i, 0)
        entered.append(frame._replace(depth=np.where(found.is_new, found.depth, np.nan)))
        shares.append(found.is_new.mean())
    np.testing.assert_array_equal(entered[0].depth, seen[0].depth)
    assert off(entered[10:], truth[10:]) < off(seen[10:], truth[10:])
    assert apart(entered) < 0.4 * apart(seen)
    assert min(shares) > 0.7 and np.mean(shares) > 0.9


def test_views_that_entered_move_with_their_keyframes():
    """Keyframe 1 is moved and grows by a tenth, 2 becomes a part of it, 3 is of another segment."""
    motion = Similarity(1.1, np.eye(3), np.array([0.5, 0.0, 0.0]))
    views, flat = FusedViews(), wall(2.0)
    for key, segment in ((1, 0), (2, 0), (3, 5)):
        views.add(flat.depth, flat.intrinsics, flat.world_from_camera, key, segment)
    views.follow(Correction({1: motion, 2: motion}, {2: 1}), {})
    there = motion.apply_to_poses(flat.world_from_camera[None])[0]
    found = views.add(flat.depth * np.float32(1.12), flat.intrinsics, there, 4, 0)
    # The mean of 2.2, twice, and of 2.24 that came.
    np.testing.assert_allclose(found.depth, 2.2, atol=0.01)
    other = views.add(flat.depth * np.float32(1.05), flat.intrinsics, flat.world_from_camera, 5, 5)
    assert other.depth[30, 40] == pytest.approx(2.05, abs=0.03)  # only the view of its segment
    views.clear()
    alone = views.add(flat.depth * np.float32(1.05), flat.intrinsics, there, 6, 0)
    np.testing.assert_allclose(alone.depth, 2.1, rtol=1e-6)


def test_what_changed_in_the_scene_enters_once_more_views_have_seen_it():
    """A thing a little in front of the wall: doubted at first, and by its own views no more."""
    views, flat = FusedViews(), wall(2.0)
    for i in range(4):
        views.add(flat.depth * np.float32(1.0 + 0.04 * (-1) ** i), flat.intrinsics, np.eye(4), i, 0)
    depth = flat.depth.copy()
    depth[20:40, 30:50] = 1.75
    entered = [
        views.add(depth, flat.intrinsics, np.eye(4), 4 + i, 0).is_new[30, 40] for i in range(8)
    ]
    assert not entered[0] and entered[-1]


@pytest.mark.parametrize("every", [2, 3, 7])
def test_some_rows_and_columns_of_a_view_are_those_of_all_of_it(every: int):
    """Those that enter the cloud, bit for bit."""
    whole, some = FusedViews(), FusedViews()
    for i, seen in enumerate(wall(2.0 + 0.05 * (-1) ** i, 0.02 * i) for i in range(5)):
        shape = 3 * seen.depth.shape[0], 3 * seen.depth.shape[1]
        depth = enlarged(seen.depth, shape) + np.linspace(0, 0.1, shape[1], dtype=np.float32)
        given = depth, np.diag([3.0, 3.0, 1.0]) @ seen.intrinsics, seen.world_from_camera, i, 0
        for all_of_it, part in zip(whole.add(*given), some.add(*given, every), strict=True):
            np.testing.assert_array_equal(part, all_of_it[::every, ::every])


def wall(depth: float, x: float = 0.0) -> DepthView:
    pose = np.eye(4)
    pose[0, 3] = x
    k = np.array([[60.0, 0.0, 39.5], [0.0, 60.0, 29.5], [0.0, 0.0, 1.0]])
    return DepthView.of(np.full((60, 80), depth, np.float32), k, pose)


def test_what_differs_more_than_usual_is_another_surface():
    """Of five views that see a wall within 2 %, one has a thing in front of it."""
    views = [wall(2.0 * (1.0 + e), 0.02 * i) for i, e in enumerate((0.0, 0.02, -0.02, 0.01, -0.01))]
    depth = views[0].depth.copy()
    depth[20:40, 30:50] = 1.2
    thing = DepthView.of(depth, views[0].intrinsics, views[0].world_from_camera)
    found = consensus(thing, views[1:])
    assert not found.seen[22:38, 32:48].any() and found.seen[:18].all()
    assert np.all(found.log_shift[20:40, 30:50] == 0.0)
    moved = depth * np.exp(found.log_shift)
    np.testing.assert_allclose(moved[:18], 2.0, atol=0.01)


def test_an_edge_of_the_image_and_no_other_view_move_nothing():
    alone = consensus(wall(2.0), [])
    beside = consensus(wall(2.0), [wall(2.1, 5.0)])  # sees none of it
    for found in (alone, beside):
        assert found.seen.all() and not found.log_shift.any()


def test_the_views_that_see_the_same_come_first():
    views = [wall(2.0, x) for x in (0.0, 3.0, 0.1, -0.5, 0.3)]
    assert nearest(0, views, 3, 2.0).tolist() == [2, 4, 3]
    assert nearest(0, views[:1], 3, 2.0).tolist() == []


@pytest.mark.parametrize("shape", [(392, 518), (168, 224), (60, 80), (1, 9000)])
def test_values_of_every_few_pixels_are_interpolated(shape):
    v, u = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    depth = 2.0 + 0.01 * u + 0.002 * v
    view = thinned(depth, np.eye(3), np.eye(4))
    assert view.depth.size <= MAX_PIXELS
    step = thinning(shape)
    inside = tuple(slice((n - 1) // step * step + 1) for n in shape)
    np.testing.assert_allclose(enlarged(view.depth, shape)[inside], depth[inside], rtol=1e-5)
