# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The window: what is held, and when it is looked at."""

import pytest

from vggt_ros.errors import UserError
from vggt_ros.window import Window, push


def run(frames, *, size, stride, window=None):
    """All windows that were looked at."""
    window, looks = window or Window(), []
    for frame in frames:
        window, look = push(window, frame, size=size, stride=stride)
        if look:
            looks.append(window.frame_ids)
    return window, looks


def test_the_window_fills_frame_by_frame_then_slides_oldest_first():
    _, looks = run(range(5), size=3, stride=1)
    assert looks == [(0,), (0, 1), (0, 1, 2), (1, 2, 3), (2, 3, 4)]


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("stride", [1, 2, 3, 7])
def test_a_full_window_is_looked_at_every_stride_frames(size, stride):
    _, looks = run(range(40), size=size, stride=stride)
    newest = [frame_ids[-1] for frame_ids in looks]
    assert newest == [*range(size), *range(size - 1 + stride, 40, stride)]


@pytest.mark.parametrize(("size", "stride"), [(4, 1), (4, 3), (4, 4), (1, 1)])
def test_every_frame_is_fresh_in_exactly_one_look(size, stride):
    window, fresh = Window(), []
    for frame in range(30):
        before = window.fresh
        window, look = push(window, frame, size=size, stride=stride)
        if look:
            fresh += window.frame_ids[-(before + 1) :]
    assert fresh == list(range(len(fresh)))


def test_size_and_stride_may_change_between_frames():
    window, _ = run(range(6), size=4, stride=1)
    window, looks = run([6], size=2, stride=1, window=window)
    assert looks == [(5, 6)]
    window, looks = run([7, 8, 9], size=3, stride=2, window=window)
    assert looks == [(5, 6, 7), (7, 8, 9)]


def test_pushing_changes_no_earlier_window():
    first, _ = push(Window(), 1, size=2, stride=1)
    push(first, 2, size=2, stride=1)
    assert first == Window((1,), 0)


def test_frames_out_of_order_and_empty_windows_are_refused():
    window, _ = push(Window(), 5, size=2, stride=1)
    for frame in (5, 4):
        with pytest.raises(UserError, match="does not follow"):
            push(window, frame, size=2, stride=1)
    for size, stride in [(0, 1), (1, 0)]:
        with pytest.raises(UserError, match="at least 1"):
            push(window, 6, size=size, stride=stride)
