# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The window and the gates: what is held, when an inference is due, which frames may follow."""

import pytest

from vggt_ros.errors import FrameError, UserError
from vggt_ros.timeline import RateLimit, SizeGate, StampGate, StreamGate, Window, push


def run(frames, *, size, stride, window=None):
    """All windows that were inferred."""
    window, inferred = window or Window(), []
    for frame in frames:
        window, due = push(window, frame, size=size, stride=stride)
        if due:
            inferred.append(window.frame_ids)
    return window, inferred


def test_the_window_fills_frame_by_frame_then_slides_oldest_first():
    _, inferred = run(range(5), size=3, stride=1)
    assert inferred == [(0,), (0, 1), (0, 1, 2), (1, 2, 3), (2, 3, 4)]


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("stride", [1, 2, 3, 7])
def test_a_full_window_is_inferred_every_stride_frames(size, stride):
    _, inferred = run(range(40), size=size, stride=stride)
    newest = [frame_ids[-1] for frame_ids in inferred]
    assert newest == [*range(size), *range(size - 1 + stride, 40, stride)]


@pytest.mark.parametrize(("size", "stride"), [(4, 1), (4, 3), (4, 4), (1, 1)])
def test_every_frame_is_fresh_in_exactly_one_inference(size, stride):
    window, fresh = Window(), []
    for frame in range(30):
        before = window.fresh
        window, due = push(window, frame, size=size, stride=stride)
        if due:
            fresh += window.frame_ids[-(before + 1) :]
    assert fresh == list(range(len(fresh)))


def test_size_and_stride_may_change_between_frames():
    window, _ = run(range(6), size=4, stride=1)
    window, inferred = run([6], size=2, stride=1, window=window)
    assert inferred == [(5, 6)]
    window, inferred = run([7, 8, 9], size=3, stride=2, window=window)
    assert inferred == [(5, 6, 7), (7, 8, 9)]


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


# ---- which frames may follow ---------------------------------------------------------------------


@pytest.mark.parametrize("stamp, fault", [(0, "is zero"), (-1, "below zero"), (7, "repeats: 7")])
def test_a_stamp_that_cannot_follow_is_refused(stamp, fault):
    gate = StampGate()
    assert gate.check(7) is False
    with pytest.raises(FrameError, match=fault):
        gate.check(stamp)
    assert gate.check(8) is False


def test_an_earlier_clock_is_accepted_after_five_stamps_that_run_forward():
    gate = StampGate()
    gate.check(1000)
    for stamp in (1, 2, 3, 2, 3, 4, 5, 6):  # the fourth runs back: the count restarts
        with pytest.raises(FrameError, match=f"goes back: {stamp} after 1000"):
            gate.check(stamp)
    assert gate.check(7) is True and gate.check(8) is False


def test_one_stray_stamp_does_not_count_towards_another_clock():
    gate = StampGate()
    gate.check(1000)
    for i in range(StampGate.PATIENCE + 1):
        with pytest.raises(FrameError, match="goes back"):
            gate.check(1 + i)
        gate.check(1001 + i)


@pytest.mark.parametrize("jitter", [0, 1_000_000])
def test_a_rate_limit_keeps_its_rate_although_stamps_jitter(jitter):
    limit, period = RateLimit(), 33_333_333
    stamps = [10**9 + i * period + (-1) ** i * jitter for i in range(300)]
    used = sum(limit.is_due(stamp, 10.0) for stamp in stamps)
    assert used == pytest.approx(100, abs=1)
    unlimited = RateLimit()
    assert all(unlimited.is_due(stamp, 0.0) for stamp in stamps)


def test_a_new_size_is_accepted_once_three_images_in_a_row_have_it():
    gate = SizeGate()
    gate.check(640, 480)
    for _ in range(2):
        with pytest.raises(FrameError, match="a new size: 320x240, not 640x480"):
            gate.check(320, 240)
    gate.check(640, 480)  # the row is broken
    for _ in range(2):
        with pytest.raises(FrameError, match="a new size"):
            gate.check(320, 240)
    gate.check(320, 240)
    gate.check(640, 480)
    with pytest.raises(FrameError, match="too small"):
        gate.check(640, 31)


def test_a_stream_restarts_with_its_reason():
    gate = StreamGate()
    assert gate.check(1, 64, 48, "front") == gate.check(2, 64, 48, "front") == ""
    assert gate.check(3, 64, 24, "front") == "image size changed from 64x48 to 64x24"
    assert gate.check(4, 64, 24, "rear") == "frame_id changed from 'front' to 'rear'"
    gate.reset()
    assert gate.check(1, 64, 48, "front") == ""
