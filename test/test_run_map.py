# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Frames on disk end where loops, ties and the scale have moved their keyframes."""

import json
import signal

import numpy as np
import pytest
from run_updates import (
    DRIFT,
    FURTHER,
    STAY,
    assert_true,
    images,
    scripted_job,
    scripted_run,
    snapshot,
    true_pose,
    update,
)

from vggt_ros.mapping.status import MapStatus
from vggt_ros.tools.runs.format import SUMMARY, open_run
from vggt_ros.tools.runs.report import map_line, segments_line
from vggt_ros.tools.runs.writer import RunWriter


def drifting(count: int = 6) -> list:
    """Every second frame is a keyframe; from the third frame on the map has drifted."""
    updates = []
    for frame in range(count):
        keys = range(0, frame + 1, 2)
        keyframes = snapshot({key: DRIFT if key >= 2 else STAY for key in keys})
        updates.append(update(frame, keys[-1], keyframes, DRIFT if frame >= 2 else STAY))
    return updates


LOOP_CLOSED = snapshot({0: STAY, 2: STAY, 4: STAY}, loops=[(0, 4)])


def test_a_loop_that_is_solved_at_the_very_end_moves_all_files(tmp_path):
    updates = drifting()
    updates[5] = updates[5]._replace(status=MapStatus(loops_closed=1, loops_tried=3))
    done = scripted_run(tmp_path / "out", updates, LOOP_CLOSED)
    assert_true(done, range(6))
    fused = scripted_run(tmp_path / "fused", updates, LOOP_CLOSED, fuse=True)
    assert_true(fused, range(6))
    assert np.ptp(fused.cloud().points[:, 0]) < 2.0, "the walls of neighbours are taken to be one"
    assert done.keyframes() == [0, 2, 4] and done.loops() == [(0, 4)]
    points = done.cloud().points  # six walls, each two units ahead of its camera
    expected = np.repeat(2.0 + 0.5 * np.arange(6), 30 * 40)
    np.testing.assert_allclose(np.sort(points[:, 0]), expected, rtol=1e-5)
    assert done.summary["map"] == {
        "keyframes": 3,
        "loops_closed": 1,
        "loops_tried": 3,
        "segments": 1,
        "noise": 0.0,
        "graph": "",
        "windows_refused": 0,
    }
    assert (done.summary["segments"], done.summary["segment_numbers"]) == ([0], [0])


def test_corrections_on_the_way_add_up(tmp_path):
    updates = drifting()
    updates[4] = update(4, 2, snapshot({0: STAY, 2: FURTHER}), FURTHER)
    updates[5] = update(5, 2, snapshot({0: DRIFT, 2: STAY}), STAY)
    done = scripted_run(tmp_path / "out", updates, snapshot({0: STAY, 2: STAY}))
    assert_true(done, range(6))


def test_frames_of_a_removed_keyframe_move_with_its_heir(tmp_path):
    updates = [
        update(0, 0, snapshot({0: DRIFT}), DRIFT),
        update(1, 1, snapshot({0: DRIFT, 1: DRIFT}), DRIFT),
        update(2, 0, snapshot({0: FURTHER}, heirs={1: 0}), FURTHER),
    ]
    done = scripted_run(tmp_path / "out", updates, snapshot({0: STAY}))
    assert_true(done, range(3))
    assert done.keyframes() == [0]


def test_a_map_without_loops_leaves_frames_as_they_were_written(tmp_path):
    done = scripted_run(tmp_path / "out", drifting())
    assert_true(done, range(2))
    moved = DRIFT.apply_to_poses(true_pose(3)[None])[0]
    np.testing.assert_allclose(done.frame(3).world_from_camera, moved, atol=1e-12)


def test_a_run_that_goes_on_after_its_end_is_not_corrected_twice(tmp_path):
    updates = drifting(4)
    with RunWriter(tmp_path / "out", {}) as writer:
        job = scripted_job(writer, [*updates, update(4, 0, snapshot({0: STAY, 2: STAY}))])
        job.run(images(4), overview=False, quiet=True)
        job.step(images(1)[0])
        job.finish()
        job.finish()
    assert_true(open_run(tmp_path / "out"), range(5))


# ---- segments


def two_rooms(tied_at_the_end: bool) -> tuple[list, object]:
    """Frames 2 and 3 are of a segment of their own, whose place and scale are a guess."""
    numbers, drift = {0: 0, 2: 1}, {0: STAY, 2: DRIFT}
    updates = [update(i, 0, snapshot({0: STAY})) for i in range(2)]
    updates += [update(i, 2, snapshot(drift, numbers), DRIFT, segment=1) for i in (2, 3)]
    updates += [update(i, 0, snapshot(drift, numbers)) for i in (4, 5)]
    lost = updates[1].registration._replace(accepted=False, reason="cameras are off by 31 %")
    updates[1] = updates[1]._replace(registration=lost, fresh=0)
    updates.insert(1, update(1, 0, snapshot({0: STAY})))
    return updates, snapshot({0: STAY, 2: STAY}) if tied_at_the_end else None


def test_segments_that_were_tied_late_are_one(tmp_path):
    done = scripted_run(tmp_path / "out", *two_rooms(tied_at_the_end=True))
    assert_true(done, range(6))
    assert (done.summary["segments"], done.summary["segment_numbers"]) == ([0], [0])
    assert list(done.segments()) == [[0, 1, 2, 3, 4, 5]]
    assert len(done.cloud().points) == 6 * 30 * 40


def test_a_segment_that_stays_untied_is_kept_apart(tmp_path):
    done = scripted_run(tmp_path / "out", *two_rooms(tied_at_the_end=False))
    assert (done.summary["segments"], done.summary["segment_numbers"]) == ([0, 2, 4], [0, 1, 0])
    assert list(done.segments()) == [[0, 1, 4, 5], [2, 3]]
    assert done.summary["map"]["segments"] == 2 and len(done.cloud().points) == 4 * 30 * 40
    assert done.summary["segment_reasons"] == ["", "cameras are off by 31 %"]
    (note,) = done.summary["notes"]
    assert note == (
        "the map is in 2 segments that nothing ties together, of 4, 2 frames: cloud and picture"
        " show the first, `vggt view --segment N` the others; they began since cameras are off by"
        " 31 %"
    )


def test_the_most_frequent_reason_of_many_segments_is_said_with_its_figures():
    reasons = ["only 7 % of depths agree", "off by 12.5 of 3", "only 31 % of depths agree"]
    line = segments_line([4, 3, 2, 1], reasons)
    assert "4 segments" in line and "of 4, 3, 2, 1 frames" in line
    assert line.endswith("they began since only 7 % of depths agree, 2 of 3 times")
    assert segments_line([4], []) == "" and segments_line([], []) == ""
    assert segments_line([2] * 9, [""] * 8).count("2, ") == 6


def test_frames_of_an_earlier_map_stay_and_are_a_segment_of_their_own(tmp_path):
    """The stream changed: keyframes of another map, whose segments count from 0 again."""
    status = MapStatus(loops_tried=2, loops_closed=1, graph="no solver", noise=0.0123456789)
    updates = [update(0, 0, snapshot({0: STAY}), status=status)]
    updates += [update(i, 1, snapshot({1: DRIFT}), DRIFT, status=status) for i in (1, 2)]
    done = scripted_run(tmp_path / "out", updates, snapshot({1: STAY}))
    assert_true(done, range(3))
    assert (done.summary["segments"], done.summary["segment_numbers"]) == ([0, 1], [0, 1])
    figures = done.summary["map"]
    assert (figures["keyframes"], figures["loops_tried"], figures["loops_closed"]) == (2, 4, 2)
    assert (figures["noise"], figures["graph"]) == (0.012346, "no solver")
    assert map_line(done).endswith("; loops are off: no solver")
    assert done.summary["segment_reasons"] == ["", ""]
    assert done.keyframes() == [0, 1], "of both maps"


# ---- refused windows


def test_frames_of_refused_and_doubtful_windows_are_kept_but_in_no_cloud(tmp_path):
    updates = drifting()
    updates[3] = update(3, 2, snapshot({0: STAY, 2: DRIFT}), DRIFT, accepted=False)
    updates[5] = update(5, -1, updates[4].keyframes, DRIFT, accepted=False, segment=7)
    updates[1] = update(1, 0, updates[1].keyframes, doubtful=True)
    done = scripted_run(tmp_path / "out", updates, LOOP_CLOSED, overview=True)
    assert_true(done, range(6))  # a predicted pose moves with the last keyframe, too
    assert done.summary["uncertain_frames"] == [1, 3, 5]
    assert list(done.segments()) == [[0, 2, 4]]
    assert len(done.cloud().points) == 3 * 30 * 40
    assert done.summary["map"]["windows_refused"] == 2 and done.summary["map"]["segments"] == 1
    assert map_line(done) == (
        "map: 3 keyframes, 0 loops closed, 2 windows refused, 3 frames uncertain and in no cloud"
    )


def test_a_run_of_refused_windows_alone_can_be_opened(tmp_path):
    updates = [update(i, -1, snapshot({}), accepted=False) for i in range(2)]
    done = scripted_run(tmp_path / "out", updates, overview=True)
    assert done.segments() == () and len(done.files) == 2 and len(done.cloud().points) == 0


# ---- interruption


def test_an_interrupted_run_is_corrected_too(tmp_path):
    with RunWriter(tmp_path / "out", {}) as writer:
        job = scripted_job(writer, [*drifting(5), KeyboardInterrupt()], LOOP_CLOSED)
        with pytest.raises(KeyboardInterrupt):
            job.run(images(6), quiet=True)
    done = open_run(tmp_path / "out")
    assert done.summary["interrupted"] is True and len(done.files) == 5
    assert_true(done, range(5))
    assert len(done.cloud().points) == 5 * 30 * 40


def test_ctrl_c_during_the_correction_leaves_files_that_agree(tmp_path, monkeypatch):
    savez = np.savez

    def interrupted_savez(file, **arrays):
        savez(file, **arrays)
        if arrays["stamp_ns"] == 4 and np.allclose(arrays["depth"], 2.0):  # corrected already
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(np, "savez", interrupted_savez)
    with RunWriter(tmp_path / "out", {}) as writer:
        job = scripted_job(writer, drifting(), LOOP_CLOSED)
        with pytest.raises(KeyboardInterrupt):
            job.run(images(6), overview=False, quiet=True)
    done = open_run(tmp_path / "out")
    assert done.summary["interrupted"] is True
    assert_true(done, range(6))


# ---- runs of before


def test_a_run_without_numbers_of_segments_is_one_segment(tmp_path):
    done = scripted_run(tmp_path / "out", *two_rooms(tied_at_the_end=False))
    old = {key: done.summary[key] for key in ("format", "frames", "segments", "scale")}
    (done.path / SUMMARY).write_text(json.dumps(old))
    assert list(open_run(done.path).segments()) == [[0, 1, 2, 3, 4, 5]]


def test_frames_that_a_killed_run_did_not_summarise_belong_to_its_last_segment(tmp_path):
    done = scripted_run(tmp_path / "out", *two_rooms(tied_at_the_end=False))
    new = {"segments": [0, 2], "segment_numbers": [0, 1], "uncertain_frames": [1, 99]}
    (done.path / SUMMARY).write_text(json.dumps(done.summary | new))
    assert list(open_run(done.path).segments()) == [[2, 3, 4, 5], [0]]
