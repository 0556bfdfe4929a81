# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The window and the gates: what is held, when an inference is due, which frames may follow."""

import pytest

from vggt_ros.errors import FrameError, UserError
from vggt_ros.timeline import PATIENCE, Change, RateLimit, SizeGate, StreamGate, Window, push


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


SECOND = 1_000_000_000
START = 1_700_000_000_123_456_789
PERIOD = SECOND // 30
CAMERA = "front", 64, 48


def started(*gate_options, period: int = PERIOD) -> tuple[StreamGate, list[int]]:
    """A gate that has accepted four frames, and the stamps of those that follow."""
    gate, stamps = StreamGate(*gate_options), [START + i * period for i in range(100)]
    for stamp in stamps[:4]:
        assert gate.check(stamp, *CAMERA) == Change()
    return gate, stamps[4:]


def refused(gate: StreamGate, frames, fault: str) -> None:
    """Every frame (stamp, camera, width, height) is refused, with these words."""
    for frame in frames:
        with pytest.raises(FrameError, match=fault):
            gate.check(*frame)


@pytest.mark.parametrize(
    "stamp, fault", [(0, "is zero"), (-1, "below zero"), (START + 3 * PERIOD, "repeats: 17")]
)
def test_a_stamp_that_cannot_follow_is_refused_however_often(stamp, fault):
    gate, later = started()
    refused(gate, [(stamp, *CAMERA)] * 10, fault)
    assert gate.check(later[0], *CAMERA) == Change()


STRAYS = {
    "an hour ahead": (3600 * SECOND, *CAMERA),
    "three seconds ahead": (3 * SECOND, *CAMERA),
    "an hour back": (-3600 * SECOND, *CAMERA),
    "a little back": (-2 * PERIOD, *CAMERA),
    "another camera": (0, "rear", 64, 48),
    "another size": (0, "front", 32, 48),
    "all of it": (3600 * SECOND, "rear", 32, 48),
}


@pytest.mark.parametrize("stray", STRAYS)
def test_a_lone_stray_is_refused_and_changes_nothing(stray):
    ahead, *camera = STRAYS[stray]
    gate, later = started()
    for stamp in later[:20]:  # one between any two frames: never several in a row
        refused(gate, [(stamp + ahead - PERIOD // 2, *camera)], "the image")
        assert gate.check(stamp, *CAMERA) == Change()


@pytest.mark.parametrize("stray", [name for name in STRAYS if name != "a little back"])
def test_several_in_a_row_that_agree_are_accepted(stray):
    ahead, *camera = STRAYS[stray]
    gate, later = started()
    other = [(stamp + ahead, *camera) for stamp in later]
    refused(gate, other[:PATIENCE], "the image.*6 in a row that agree are used")
    change = gate.check(*other[PATIENCE])
    assert change.starts_map == (ahead < 0 or tuple(camera) != CAMERA)
    assert change.clock_set_back == (ahead < 0)
    assert gate.check(*other[PATIENCE + 1]) == Change()
    refused(gate, [(later[30], *CAMERA)], "the image")


def test_what_does_not_agree_with_itself_is_never_accepted():
    gate, later = started()
    hours = [START + i * 3600 * SECOND for i in (3, 1, 2, 9, 4)]
    frames = [(hours[i % 5], "rear" if i % 3 else "left", 64, 48) for i in range(40)]
    refused(gate, frames, "the image")
    assert gate.check(later[0], *CAMERA) == Change()


@pytest.mark.parametrize("period", [PERIOD, 20 * SECOND])
def test_a_stray_slightly_ahead_costs_the_frames_up_to_its_stamp_and_no_map(period):
    gate, later = started(period=period)
    early = later[9] - period // 2
    assert gate.check(early, *CAMERA) == Change()
    refused(gate, [(stamp, *CAMERA) for stamp in later[:9]], "goes back")
    assert gate.check(later[9], *CAMERA) == Change()


def test_a_first_frame_of_another_time_does_not_hold_up_the_others():
    gate = StreamGate()
    gate.check(START + 30 * SECOND, *CAMERA)
    stamps = [START + i * PERIOD for i in range(PATIENCE + 1)]
    refused(gate, [(stamp, *CAMERA) for stamp in stamps[:-1]], "goes back")
    assert gate.check(stamps[-1], *CAMERA) == Change("time went back", True, True)


@pytest.mark.parametrize("period", [PERIOD, SECOND, 20 * SECOND, 300 * SECOND])
def test_a_camera_of_any_rate_keeps_its_own_gaps(period):
    gate = StreamGate()
    accepted = 0
    for i in range(40):
        try:
            gate.check(START + i * period, *CAMERA)
            accepted += 1
        except FrameError:
            assert period > 60 * SECOND and i <= PATIENCE
    assert accepted >= 40 - PATIENCE


def test_a_camera_that_paused_goes_on_with_its_map():
    gate, later = started()
    resumed = [(stamp + 20 * SECOND, *CAMERA) for stamp in later]
    refused(gate, resumed[:PATIENCE], "jumps ahead: by 20.* did the camera pause")
    change = gate.check(*resumed[PATIENCE])
    assert not change.starts_map and change.notice.endswith("20.2 s: the map goes on")


def test_a_stream_restarts_with_its_reasons():
    gate, later = started(0)
    changes = [("rear", 64, 48), ("rear", 64, 24), ("front", 80, 60), ("front", 80, 60)]
    notices = [gate.check(s, *c).notice for s, c in zip(later, changes, strict=False)]
    end = ": a new window and a new map start"
    assert notices == [
        f"frame_id changed from 'front' to 'rear'{end}",
        f"image size changed from 64x48 to 64x24{end}",
        f"frame_id changed from 'rear' to 'front', image size changed from 64x24 to 80x60{end}",
        "",
    ]
    assert gate.check(START + 3600 * SECOND, "front", 80, 60) == Change(), "judged before"
    gate.reset()
    assert gate.check(1, "rear", 64, 48) == Change()


@pytest.mark.parametrize("jitter", [0, 1_000_000])
def test_a_rate_limit_keeps_its_rate_although_stamps_jitter(jitter):
    limit, period = RateLimit(), 33_333_333
    stamps = [10**9 + i * period + (-1) ** i * jitter for i in range(300)]
    used = sum(limit.is_due(stamp, 10.0) for stamp in stamps)
    assert used == pytest.approx(100, abs=1)
    unlimited = RateLimit()
    assert all(unlimited.is_due(stamp, 0.0) for stamp in stamps)


def test_a_rate_limit_that_is_raised_counts_from_the_last_frame_that_was_used():
    limit = RateLimit()
    assert limit.is_due(START, 0.01)
    assert not limit.is_due(START + SECOND, 0.01)
    assert not limit.is_due(START + SECOND // 100, 10.0)
    assert limit.missed(START + SECOND, 10.0) == 8
    assert [limit.is_due(START + i * SECOND // 10, 10.0) for i in range(11, 14)] == 3 * [True]
    limit.is_due(START + 2 * SECOND, 0.01)
    assert limit.is_due(START + 2 * SECOND + 1, 0.0)


def test_a_new_size_is_accepted_once_it_insists():
    gate = SizeGate()
    gate.check(640, 480)
    gate.use(640, 480)
    for size in ((320, 240), (640, 240)):  # each row is broken
        for _ in range(PATIENCE):
            with pytest.raises(FrameError, match=f"new size: {size[0]}x{size[1]}, not 640x480"):
                gate.check(*size)
        gate.check(640, 480)
    for _ in range(PATIENCE):
        with pytest.raises(FrameError, match="6 in a row are used"):
            gate.check(320, 240)
    for _ in range(3):  # accepted, and not in use before it has a program
        gate.check(320, 240)
    gate.check(640, 480)
    gate.use(320, 240)
    with pytest.raises(FrameError, match="a new size: 640x480, not 320x240"):
        gate.check(640, 480)
    with pytest.raises(FrameError, match="too small"):
        gate.check(640, 31)


def test_frames_that_came_and_were_not_read_are_no_gap():
    gate, later = started()
    refused(gate, [(later[90], *CAMERA)], "jumps ahead: by 3.0 s")
    refused(gate, [(START - SECOND, *CAMERA, 60)], "goes back")  # sixty before a stray
    assert gate.check(later[91], *CAMERA, left=30) == Change()
    refused(gate, [(later[91] + 3 * SECOND, *CAMERA)], "jumps ahead")  # a usual gap is still short


def test_of_a_limited_rate_few_frames_that_were_not_read_would_have_been_used():
    limit = RateLimit()
    assert limit.is_due(START, 2.0)
    missed = [limit.missed(START + i * SECOND // 10, 2.0) for i in range(16)]
    assert missed == [0] * 10 + [1] * 5 + [2]  # beside the one that comes then
