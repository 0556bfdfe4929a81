# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Bags that are not the same from end to end: stray stamps, calibrations that change."""

import numpy as np
import pytest
from tagged_images import EPOCH, tags
from test_bags import IMAGES, STAMPS, K, bag, camera_info, compressed, image

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


def test_a_calibration_that_changes_is_said_with_figures(tmp_path):
    zoomed = camera_info()
    zoomed.k = K * [2, 1, 1, 1, 2, 1, 1, 1, 1]
    calibrations = [camera_info(), camera_info(), zoomed, zoomed, zoomed]
    topics = {"/cam/image": IMAGES, "/cam/camera_info": calibrations}
    path = bag(tmp_path / "bag", topics)
    source = open_source(path)
    assert [frame.stamp_ns for frame in source] == STAMPS
    (note,) = (each for each in source.notes if "changes" in each)
    assert note.startswith("/cam/camera_info changes after 3 images (fx 30 to 60, cx 15.5 to 15.5)")
    steady = bag(tmp_path / "steady", {"/cam/image": IMAGES, "/cam/camera_info": calibrations[:2]})
    source = open_source(steady)
    assert len(list(source)) == len(IMAGES) and not any("changes" in n for n in source.notes)


def test_a_camera_of_which_less_was_recorded_raw_than_compressed_is_said(tmp_path):
    both = {"/image/compressed": [compressed(i, s) for i, s in enumerate(STAMPS)]}
    both["/image"] = IMAGES[:2]
    source = open_source(bag(tmp_path / "bag", both))
    assert tags(source) == [0, 1]
    assert "/image has 2 images, and /image/compressed 5: --topic /image/compressed" in source.notes
