# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Bags that are not the same from end to end: stray stamps, calibrations that change."""

import numpy as np
import pytest
from tagged_images import EPOCH, WIDTH, tags
from test_bags import IMAGES, STAMPS, K, bag, camera_info, compressed, header, image

from vggt_ros.tools.sources.open import open_source
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
