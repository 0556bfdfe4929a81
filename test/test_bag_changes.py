# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Bags that are not the same from end to end: stray and late stamps, other calibrations."""

import numpy as np
import pytest
from fakes.planar_engine import PlanarEngine
from tagged_images import EPOCH, WIDTH, tags
from test_bags import IMAGES, STAMPS, K, bag, camera_info, compressed, header, image

from vggt_ros.tools.run import run
from vggt_ros.tools.sources.open import open_source
from vggt_ros.tools.sources.open_rig import open_rig
from vggt_ros.tools.sources.source import Selection

HOUR = 3600 * 10**9


@pytest.mark.parametrize(
    "stray, off", [(0, HOUR), (1, HOUR), (2, HOUR), (4, HOUR), (2, -HOUR), (4, -HOUR)]
)
def test_a_stray_stamp_neither_ends_nor_begins_the_interval(tmp_path, stray, off):
    """Twelve images at 10 Hz, of which the interval has those from 0.2 to 0.9 s but the stray."""
    images = [image(i, EPOCH + i * 10**8 + (off if i == stray else 0)) for i in range(12)]
    path = bag(tmp_path / "bag", {"/image": images})
    found = tags(open_source(path, selection=Selection(start=0.2, stop=0.95)))
    shift = 1 if stray == 0 else 0  # the origin is the second image then
    assert found == [i for i in range(2 + shift, 10 + shift) if i != stray]


def test_an_interval_ends_where_stamps_beyond_insist(tmp_path):
    read = []
    images = [image(i, EPOCH + i * 10**8) for i in range(12)]
    source = open_source(bag(tmp_path / "bag", {"/image": images}), selection=Selection(stop=0.15))
    lazy = source.lazy_frames
    source.lazy_frames = (read.append(each.name) or each for each in lazy)
    assert tags(source) == [0, 1] and len(read) == 8


def test_the_first_camera_info_with_a_k_is_used(tmp_path):
    """Drivers send some without before they have read their calibration."""
    early = camera_info()
    early.k, early.p = np.zeros(9), np.zeros(12)
    topics = {"/cam/image": IMAGES, "/cam/camera_info": [early, early, camera_info()]}
    source = open_source(bag(tmp_path / "bag", topics))
    for frame in source:
        np.testing.assert_allclose(frame.intrinsics, K.reshape(3, 3))
    assert not any("changes" in note or "not used" in note for note in source.notes)


def zoomed(factor: float, stamp_ns: int = EPOCH, **changes):
    """The camera_info of a lens that is zoomed; `changes` set fields."""
    info = camera_info()
    info.k = K * [factor, 1, 1, 1, factor, 1, 1, 1, 1]
    info.header = header(stamp_ns)
    for name, value in changes.items():
        setattr(info, name, value)
    return info


def focal_lengths(path, **options) -> tuple[list[float], list[str]]:
    """Of each frame, and what is said of changes."""
    source = open_source(path, **options)
    found = [float(frame.intrinsics[0, 0]) for frame in source]
    return found, [note for note in source.notes if "changes" in note]


def test_each_image_has_the_k_of_its_time_and_the_change_is_said_with_figures(tmp_path):
    calibrations = [camera_info(), camera_info(), zoomed(2), zoomed(2), zoomed(2.5)]
    topics = {"/cam/image": IMAGES, "/cam/camera_info": calibrations}
    found, (note,) = focal_lengths(bag(tmp_path / "bag", topics))
    assert found == [30, 30, 30, 60, 60], "without its stamp: the last that came before"
    assert note.startswith("/cam/camera_info changes after 3 images (fx 30 to 60, cx 15.5 to 15.5)")
    assert note.endswith("each image has the K of its time, as of a lens that is zoomed or focused")
    factors = (1, 1, 2, 3, 1)
    stamped = [zoomed(f, ns) for f, ns in zip(factors, STAMPS, strict=True)]
    for first in ("/cam/image", "/cam/camera_info"):  # whichever is recorded first
        topics = {first: [], "/cam/image": IMAGES, "/cam/camera_info": stamped}
        path = bag(tmp_path / first.strip("/").replace("/", "_"), topics)
        assert focal_lengths(path)[0] == [30 * factor for factor in factors]


@pytest.mark.parametrize(
    "changes",
    [
        {"d": np.array([-0.2, 0.1, 0, 0, 0])},
        {"header": header(EPOCH, "another_optical")},
        {"width": 2 * WIDTH},
    ],
)
def test_another_lens_or_camera_is_not_followed_and_that_is_said(tmp_path, changes):
    """Where a lens is undone another one would be other pixels, which one map cannot have."""
    steady = camera_info()
    steady.d = changes.get("d", steady.d)
    calibrations = [steady, steady, *[zoomed(2, **changes)] * 3]
    path = bag(tmp_path / "bag", {"/cam/image": IMAGES, "/cam/camera_info": calibrations})
    found, (note,) = focal_lengths(path)
    assert len(set(found)) == 1
    assert "changes after 3 images" in note and "the first is used for all" in note


def test_of_rectified_images_p_is_followed(tmp_path):
    wider = np.eye(3, 4) * [[14.0], [14.0], [1.0]]
    changed = zoomed(1, p=wider.reshape(-1), d=np.array([-0.2, 0.1, 0, 0, 0]))
    calibrations = [camera_info(), camera_info(), changed, changed, changed]
    topics = {"/cam/image_rect": IMAGES, "/cam/camera_info": calibrations}
    found, (note,) = focal_lengths(bag(tmp_path / "bag", topics))
    assert found == [7, 7, 7, 14, 14] and "(fx 7 to 14, cx 0 to 0)" in note


def test_a_calibration_that_stays_is_not_mentioned(tmp_path):
    calibrations = [camera_info(), camera_info()]
    steady = bag(tmp_path / "steady", {"/cam/image": IMAGES, "/cam/camera_info": calibrations[:2]})
    source = open_source(steady)
    assert len(list(source)) == len(IMAGES) and not any("changes" in n for n in source.notes)


def test_a_camera_of_which_less_was_recorded_raw_than_compressed_is_said(tmp_path):
    both = {"/image/compressed": [compressed(i, s) for i, s in enumerate(STAMPS)]}
    both["/image"] = IMAGES[:2]
    source = open_source(bag(tmp_path / "bag", both))
    assert tags(source) == [0, 1]
    assert "/image has 2 images, and /image/compressed 5: --topic /image/compressed" in source.notes


# ---- images out of the order of their stamps ----------------------------------------------------


def recorded(order: list[int], shift: dict[int, int] | None = None) -> list:
    """Images at 10 Hz by their numbers, in the order in which they were recorded."""
    return [image(i, EPOCH + i * 10**8 + (shift or {}).get(i, 0)) for i in order]


@pytest.mark.parametrize(
    "order",
    [
        [0, 2, 1, 3, 4, 5],
        [1, 0, 2, 3, 5, 4],
        [5, 4, 3, 2, 1, 0],
        [1, 2, 3, 4, 5, 6, 7, 8, 0, 9],  # eight images late, and 0.8 s
    ],
)
def test_images_that_are_recorded_a_little_late_are_sorted_and_that_is_said(tmp_path, order):
    source = open_source(bag(tmp_path / "bag", {"/image": recorded(order)}))
    frames = list(source)
    assert [frame.stamp_ns for frame in frames] == [EPOCH + i * 10**8 for i in sorted(order)]
    (note,) = (each for each in source.notes if "was recorded after one" in each)
    at = next(i for i in range(1, len(order)) if order[i] < order[i - 1])
    late = 100 * (max(order[:at]) - order[at])
    assert note.startswith(f"image {at} was recorded after one whose stamp is {late:.1f} ms later")


def test_sorted_images_are_all_in_the_run(tmp_path):
    path = bag(tmp_path / "bag", {"/image": recorded([0, 2, 1, 4, 3, 5])})
    done = run(path, tmp_path / "out", engine=PlanarEngine(), picture=False, quiet=True)
    assert done.summary["frames"] == 6 and done.summary["refused"] == 0
    assert [*np.diff(done.trajectory().stamps_ns)] == [10**8] * 5


@pytest.mark.parametrize(
    "order, shift",
    [
        (list(range(12)), {5: 3600 * 10**9}),  # a stray of another time
        (list(range(12)), {5: -3600 * 10**9}),
        ([*range(6), *range(20, 26), *range(6, 12)], {}),  # time was set back by more than a second
        ([*range(12), 0], {}),
        (list(range(12)), {5: -(10**8)}),  # a stamp that repeats
    ],
)
def test_what_is_far_out_of_order_stays_where_it_was_recorded(tmp_path, order, shift):
    source = open_source(bag(tmp_path / "bag", {"/image": recorded(order, shift)}))
    assert tags(source) == order
    assert not any("was recorded after one" in note for note in source.notes)


def test_images_of_a_rig_are_sorted_each_by_itself(tmp_path):
    topics = {"/a/image": recorded([0, 2, 1, 3]), "/b/image": recorded([1, 0, 2, 3])}
    source = open_source(bag(tmp_path / "bag", topics), topic="/a/image")
    assert tags(source) == [0, 1, 2, 3]
    rig = open_rig(tmp_path / "bag", "a,b", selection=Selection(), sync_tolerance=0.02)
    assert [len(instant.observations) for instant in rig] == [2] * 4
    assert sum("was recorded after one" in note for note in rig.notes) == 2
