# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The pipeline on an engine with exact results: what is refused, registered, tracked, restarted."""

from dataclasses import replace

import numpy as np
import pytest
from fakes.oracle import Oracle
from fakes.planar_engine import DEPTH, SIZE, STEP, PlanarEngine
from fakes.room import BASE_FROM_CAMERA, drive, numbered_image

from vggt_ros.errors import FrameError, UserError
from vggt_ros.frames import Frame, Observation, Tracks, Update
from vggt_ros.pipeline import Pipeline
from vggt_ros.settings import Settings
from vggt_ros.timeline import PATIENCE

START = 1_700_000_000_123_456_789


def planar(max_frames: int = 99) -> PlanarEngine:
    return PlanarEngine(vary_scale=True, max_frames=max_frames)


def frame(i: int, **other) -> Frame:
    rgb = np.full((48, 64, 3), i % 251, np.uint8)
    return Frame(rgb, START + i * 100_000_000)._replace(**other)


def inferred(pipeline: Pipeline, taken: Frame) -> Update:
    """A step with an inference."""
    update = pipeline.step(Observation(taken))
    assert update is not None
    return update


def tracked(update: Update) -> Tracks:
    assert update.tracks is not None
    return update.tracks


def test_the_world_is_one_although_every_inference_has_its_own_scale():
    pipeline = Pipeline(planar(), Settings(window_size=4))
    updates = [inferred(pipeline, frame(i)) for i in range(12)]
    first = updates[1].views[1].world_from_camera[:3, 3]  # one true step, in world units
    for i, update in enumerate(updates[1:], 1):
        position = update.views[-1].world_from_camera[:3, 3]
        np.testing.assert_allclose(position, first * i, atol=1e-5)
        unit = np.linalg.norm(first) / STEP
        depth = update.views[-1].masked_depth(1.0)
        np.testing.assert_allclose(depth, DEPTH * unit, rtol=1e-5)


def test_the_world_has_z_up():
    pipeline = Pipeline(planar())
    view = inferred(pipeline, frame(0)).views[0]
    down_in_camera = view.world_from_camera[:3, :3] @ [0, 1, 0]
    np.testing.assert_allclose(down_in_camera, [0, 0, -1], atol=1e-6)


def test_windows_fill_then_slide_oldest_first():
    engine = planar()
    pipeline = Pipeline(engine, Settings(window_size=3))
    updates = [inferred(pipeline, frame(i)) for i in range(5)]
    assert engine.inferences == [(0,), (0, 1), (0, 1, 2), (1, 2, 3), (2, 3, 4)]
    assert [u.window_id for u in updates] == [0, 1, 2, 3, 4]
    assert all(u.fresh == 1 for u in updates)


def test_stride_infers_every_so_many_frames_and_counts_the_new_views():
    pipeline = Pipeline(planar(), Settings(window_size=4, stride=2))
    updates = [u for i in range(8) if (u := pipeline.step(Observation(frame(i)))) is not None]
    assert sum(u.fresh for u in updates) == len({v.frame_id for u in updates for v in u.views})
    assert len(updates) == 6 and [u.fresh for u in updates[-2:]] == [2, 2]
    assert pipeline.finish() is None
    assert pipeline.step(Observation(frame(8))) is None
    last = pipeline.finish()
    assert last is not None and last.fresh == 1 and last.views[-1].stamp_ns == frame(8).stamp_ns
    assert pipeline.finish() is None


def test_stamps_arrive_bit_for_bit():
    pipeline = Pipeline(planar())
    assert inferred(pipeline, frame(7)).views[-1].stamp_ns == START + 700_000_000


@pytest.mark.parametrize(
    "stamp, fault", [(0, "zero"), (START, "repeats"), (START - 1, "goes back")]
)
def test_a_frame_that_cannot_follow_is_refused_and_nothing_is_lost(stamp, fault):
    engine = planar()
    pipeline = Pipeline(engine)
    inferred(pipeline, frame(0))
    with pytest.raises(FrameError, match=fault):
        inferred(pipeline, frame(1, stamp_ns=stamp))
    assert inferred(pipeline, frame(2)).window_id == 1
    assert engine.inferences[-1] == (0, 1)


def test_a_looped_recording_starts_a_new_map():
    pipeline = Pipeline(planar())
    for i in range(20):
        inferred(pipeline, frame(i))
    refused = 0
    for i in range(10):
        try:
            update = inferred(pipeline, frame(i))
        except FrameError:
            refused += 1
    assert refused == PATIENCE
    assert len(update.views) == 4 and "time went back" in pipeline.notices[0]


@pytest.mark.parametrize(
    "change, words",
    [({"rgb": np.zeros((24, 64, 3), np.uint8)}, "64x48 to 64x24"), ({"camera": "rear"}, "rear")],
)
def test_another_image_size_or_camera_starts_a_new_window_once_it_insists(change, words):
    engine = planar()
    pipeline = Pipeline(engine)
    inferred(pipeline, frame(0))
    for i in range(PATIENCE):
        with pytest.raises(FrameError, match=words.split()[-1]):
            inferred(pipeline, frame(1 + i, **change))
    inferred(pipeline, frame(1 + PATIENCE, **change))
    assert engine.inferences[-1] == (1,)
    assert words in pipeline.notices[0]


@pytest.mark.parametrize(
    "change",
    [
        {"stamp_ns": START + 3600 * 10**9},
        {"camera": "rear"},
        {"rgb": np.zeros((24, 64, 3), np.uint8)},
    ],
)
def test_a_lone_stray_frame_changes_nothing(change):
    engine = planar()
    pipeline = Pipeline(engine)
    for i in range(0, 8, 2):
        inferred(pipeline, frame(i))
        with pytest.raises(FrameError, match="the image"):
            pipeline.step(Observation(frame(i + 1, **change)))
    assert engine.inferences[-1] == (0, 1, 2, 3)
    assert pipeline.notices == []


def test_a_clock_that_was_set_ahead_keeps_the_map():
    engine = planar()
    pipeline = Pipeline(engine)
    for i in range(3):
        inferred(pipeline, frame(i))
    later = [frame(i, stamp_ns=START + (36_000 + i) * 10**8) for i in range(3, 4 + PATIENCE)]
    for refused in later[:PATIENCE]:
        with pytest.raises(FrameError, match="jumps ahead: by 3600"):
            pipeline.step(Observation(refused))
    inferred(pipeline, later[-1])
    assert engine.inferences[-1] == (0, 1, 2, 3)
    assert pipeline.notices[-1].endswith("the map goes on")


def test_tracks_follow_the_wall_while_the_window_slides_past_the_frame_that_pinned_them():
    pipeline = Pipeline(planar(), Settings(window_size=3))
    inferred(pipeline, frame(0))
    pipeline.query(np.array([5, 9], np.uint32), np.array([[32.0, 24.0], [50.0, 10.0]]))
    for i in range(1, 7):
        tracks = tracked(inferred(pipeline, frame(i)))
        shift = STEP / DEPTH * 64 * i
        np.testing.assert_allclose(tracks.uv[-1], [[32 - shift, 24], [50 - shift, 10]], atol=1e-3)
        assert tracks.ids.tolist() == [5, 9]
        assert tracks.stamps_ns[-1] == START + i * 100_000_000


def test_a_query_before_the_first_frame_waits_for_it():
    pipeline = Pipeline(planar())
    pipeline.query(np.array([1], np.uint32), np.array([[3.0, 4.0]]))
    update = inferred(pipeline, frame(0))
    np.testing.assert_allclose(tracked(update).uv, [[[3.0, 4.0]]], atol=1e-5)


def test_a_query_names_its_frame_by_stamp():
    pipeline = Pipeline(planar(), Settings(window_size=4))
    for i in range(3):
        inferred(pipeline, frame(i))
    pipeline.query(np.array([1], np.uint32), np.array([[30.0, 20.0]]), START + 100_000_000)
    update = inferred(pipeline, frame(3))
    np.testing.assert_allclose(tracked(update).uv[1, 0], [30, 20], atol=1e-5)
    with pytest.raises(UserError, match="not one of the"):
        pipeline.query(np.array([1], np.uint32), np.array([[30.0, 20.0]]), START + 5)


@pytest.mark.parametrize("uv, words", [((np.nan, 3), "is not finite"), ((64, 3), "outside")])
def test_a_query_that_is_not_a_pixel_is_refused(uv, words):
    pipeline = Pipeline(planar())
    inferred(pipeline, frame(0))
    with pytest.raises(UserError, match=words):
        pipeline.query(np.array([1], np.uint32), np.array([uv], np.float64))


@pytest.mark.parametrize("uv", [(np.nan, 3), (64, 3), (-1, 3)])
def test_a_refused_query_leaves_the_tracks_as_they_are(uv):
    pipeline = Pipeline(planar())
    inferred(pipeline, frame(0))
    pipeline.query(np.array([5], np.uint32), np.array([[30.0, 20.0]]))
    inferred(pipeline, frame(1))
    with pytest.raises(UserError):
        pipeline.query(np.array([6], np.uint32), np.array([uv], np.float64))
    tracks = tracked(inferred(pipeline, frame(2)))
    assert tracks.ids.tolist() == [5]
    np.testing.assert_allclose(tracks.uv[0, 0], [30, 20], atol=1e-4)


def test_an_empty_query_clears():
    engine = planar()
    pipeline = Pipeline(engine)
    inferred(pipeline, frame(0))
    pipeline.query(np.array([1], np.uint32), np.array([[3.0, 4.0]]))
    pipeline.query(np.zeros(0, np.uint32), np.zeros((0, 2)))
    assert inferred(pipeline, frame(1)).tracks is None


def test_reset_forgets_frames_tracks_and_map():
    engine = planar()
    pipeline = Pipeline(engine)
    for i in range(3):
        inferred(pipeline, frame(i))
    pipeline.query(np.array([1], np.uint32), np.array([[3.0, 4.0]]))
    pipeline.reset()
    update = inferred(pipeline, frame(1))
    assert len(update.views) == 1 and update.tracks is None
    np.testing.assert_allclose(update.views[0].world_from_camera[:3, 3], 0, atol=1e-9)


def test_a_map_that_starts_again_is_not_levelled_as_the_one_before():
    """It was levelled by an IMU, or a mount, that is not there any more."""
    pipeline = Pipeline(planar())
    first = pipeline.step(Observation(frame(0), up_in_camera=np.array([0.2, -0.9, -0.3])))
    pipeline.reset()
    again = inferred(pipeline, frame(1))
    level = inferred(Pipeline(planar()), frame(1))
    assert first is not None
    tilt, *others = (u.views[-1].world_from_camera[:3, :3] for u in (first, again, level))
    assert np.abs(tilt - others[1]).max() > 0.1
    np.testing.assert_allclose(others[0], others[1], atol=1e-9)


def test_an_inference_of_fewer_frames_places_those_alone():
    """The network has no program for four frames yet, or no memory: the map is as sound."""
    engine = planar(max_frames=3)
    pipeline = Pipeline(engine, Settings(window_size=4))
    updates = [inferred(pipeline, frame(i)) for i in range(8)]
    assert engine.inferences[2:5] == [(0, 1, 2), (1, 2, 3), (2, 3, 4)]
    assert [u.missing for u in updates] == [0, 0, 0, 1, 1, 1, 1, 1]
    assert [[v.frame_id for v in u.views] for u in updates] == [list(x) for x in engine.inferences]
    assert all(u.fresh == 1 for u in updates)
    assert all(u.registration.accepted and u.registration.segment == 0 for u in updates)
    first = updates[1].views[1].world_from_camera[:3, 3]
    for i, update in enumerate(updates[1:], 1):
        np.testing.assert_allclose(update.views[-1].world_from_camera[:3, 3], first * i, atol=1e-5)


def test_single_frames_have_no_map_until_the_window_grows():
    """Each is the first of its map; the full window goes on from the last of them."""
    engine = planar(max_frames=1)
    pipeline = Pipeline(engine, Settings(window_size=4))
    for i in range(6):
        update = inferred(pipeline, frame(i))
        assert [v.frame_id for v in update.views] == [i] and update.fresh == 1
        assert update.registration.accepted and update.missing == min(i, 3)
        np.testing.assert_allclose(update.views[0].world_from_camera[:3, 3], 0, atol=1e-9)
    engine.max_frames = 4
    updates = [inferred(pipeline, frame(i)) for i in range(6, 10)]
    assert engine.inferences[6] == (3, 4, 5, 6) and updates[0].missing == 0
    assert [u.fresh for u in updates] == [1, 1, 1, 1], "what was published is not published again"
    at = [u.views[-1].world_from_camera[:3, 3] for u in updates]
    for i, position in enumerate(at):
        np.testing.assert_allclose(position, at[0] * (i + 1), atol=1e-5)
    assert all(u.registration.accepted and u.registration.segment == 0 for u in updates)


def test_tracks_go_on_in_a_window_that_lacks_frames():
    engine = planar(max_frames=2)
    pipeline = Pipeline(engine, Settings(window_size=4))
    for i in range(-3, 1):
        inferred(pipeline, frame(i))
    pipeline.query(np.array([5], np.uint32), np.array([[50.0, 24.0]]))
    for i in range(1, 8):
        tracks = tracked(inferred(pipeline, frame(i)))
        np.testing.assert_allclose(tracks.uv[-1], [[50 - STEP / DEPTH * 64 * i, 24]], atol=1e-3)
        assert len(tracks.stamps_ns) == 2


def test_a_query_sent_once_is_answered_although_its_frame_left_the_window_meanwhile():
    """No program for tracks is compiled yet: the frame is shown beside the window once one is."""
    engine = planar()
    engine.untracked = {1, 2, 3, 4}
    pipeline = Pipeline(engine, Settings(window_size=3))
    for i in range(3):
        inferred(pipeline, frame(i))
    pipeline.query(np.array([5], np.uint32), np.array([[50.0, 24.0]]))  # of frame 2
    for i in range(3, 8):
        update = inferred(pipeline, frame(i))
        assert update.tracks is None and len(engine.inferences[-1]) == 3 == len(update.views)
        n = i - 2
        assert f"no tracks in the last {n} inference" in pipeline.untracked
        assert "1 point to track" in pipeline.untracked and "not compiled" in pipeline.untracked
    engine.untracked = set()
    for i in range(8, 12):
        update = inferred(pipeline, frame(i))
        tracks, beside = tracked(update), i == 8
        at = [50 - STEP / DEPTH * 64 * (j - 2) for j in range(i - 2, i + 1)]
        np.testing.assert_allclose(tracks.uv[:, 0, 0], at, atol=1e-3)
        assert len(engine.inferences[-1]) == 3 + beside and len(update.views) == 3
        assert tracks.stamps_ns == tuple(view.stamp_ns for view in update.views)
        assert pipeline.untracked == "" and not pipeline.notices


def test_windows_that_share_no_frame_are_tracked_from_one_to_the_next():
    """Each window is shown the last frame of the one before."""
    engine = planar()
    pipeline = Pipeline(engine, Settings(window_size=1))
    inferred(pipeline, frame(0))
    pipeline.query(np.array([5], np.uint32), np.array([[50.0, 24.0]]))
    for i in range(1, 6):
        tracks = tracked(inferred(pipeline, frame(i)))
        np.testing.assert_allclose(tracks.uv, [[[50 - STEP / DEPTH * 64 * i, 24]]], atol=1e-3)
    assert [len(ids) for ids in engine.inferences] == [1, 2, 2, 2, 2, 2]


def test_points_that_wait_do_not_hold_their_frame_in_the_window_of_a_robot_at_rest():
    """The views that made the window worth inferring stay in it."""
    engine = planar()
    engine.untracked = {1, 2, 3, 4}
    pipeline = Pipeline(engine, Settings(window_size=3))
    for i in range(4):
        inferred(pipeline, frame(i))
    plain = engine.infer

    def at_rest(ids, *args, **kwargs):
        found = plain(ids, *args, **kwargs)
        encoding = found.pose_encoding.copy()
        encoding[:, 0] = [encoding[0, 0] - STEP * (min(i, 3) - ids[0]) for i in ids]
        return found._replace(pose_encoding=encoding)

    engine.vary_scale, engine.infer = False, at_rest  # pyright: ignore[reportAttributeAccessIssue]
    pipeline.query(np.array([5], np.uint32), np.array([[50.0, 24.0]]))
    for i in range(4, 12):
        inferred(pipeline, frame(i))
    assert len({ids[:-1] for ids in engine.inferences[-5:]}) == 1


@pytest.mark.parametrize("left", [1, 20])
def test_a_query_may_name_a_frame_that_left_the_window(left):
    """Whoever points at an image that is shown is late by more than a window."""
    pipeline = Pipeline(planar(), Settings(window_size=3))
    for i in range(24):
        inferred(pipeline, frame(i))
    named = 20 - left
    pipeline.query(np.array([5], np.uint32), np.array([[50.0, 24.0]]), frame(named).stamp_ns)
    tracks = tracked(inferred(pipeline, frame(24)))
    at = [50 - STEP / DEPTH * 64 * (j - named) for j in (22, 23, 24)]
    np.testing.assert_allclose(tracks.uv[:, 0, 0], at, atol=1e-3)


def test_a_map_that_starts_again_says_that_tracks_end():
    pipeline = Pipeline(planar())
    inferred(pipeline, frame(0))
    pipeline.query(np.array([5], np.uint32), np.array([[50.0, 24.0]]))
    for i in range(1, 10):  # one alone would be a stray
        try:
            inferred(pipeline, frame(i, camera="rear"))
        except FrameError:
            assert pipeline.is_tracking
    assert not pipeline.is_tracking
    assert any(
        "tracks end" in text and "send the points again" in text for text in pipeline.notices
    )


def test_loops_are_sought_while_points_are_tracked():
    """The old keyframe and the points come in one inference; neither waits for the other."""

    def windows(tracking: bool) -> list[list[tuple[int, int]]]:
        there = drive("spin", 200)[:45] @ BASE_FROM_CAMERA
        engine = Oracle(np.concatenate([there, there[::-1]]))
        pipeline = Pipeline(engine, Settings(loop_period=2))
        for i in range(90):
            if tracking and i == 3:
                pipeline.query(np.array([5], np.uint32), np.array([[20.0, 20.0]]))
            update = inferred(pipeline, Frame(numbered_image(i), START + i * 100_000_000))
            assert (update.tracks is not None) == (tracking and i >= 3)
        assert update.status.loops_tried > 3
        return engine.inferences

    assert windows(tracking=True) == windows(tracking=False)


def test_a_notice_of_the_engine_is_passed_on(monkeypatch):
    engine = planar()
    pipeline = Pipeline(engine)
    plain = engine.infer
    monkeypatch.setattr(engine, "infer", lambda *a, **k: plain(*a, **k)._replace(notice="no room"))
    inferred(pipeline, frame(0))
    assert pipeline.notices == ["no room"]


def test_the_calibrated_camera_is_used_when_asked_for():
    k = np.array([[70.0, 0, 31.5], [0, 72.0, 23.5], [0, 0, 1]])
    settings = Settings(intrinsics="camera_info")
    view = inferred(Pipeline(planar(), settings), frame(0, intrinsics=k)).views[0]
    np.testing.assert_allclose(view.intrinsics, view.grid.network_from_input @ k)
    model = inferred(
        Pipeline(planar(), replace(settings, intrinsics="model")), frame(0, intrinsics=k)
    )
    assert model.views[0].intrinsics[0, 0] == pytest.approx(SIZE[1])


def test_masking_is_stricter_with_a_higher_threshold():
    view = inferred(Pipeline(planar()), frame(0)).views[0]
    assert np.isfinite(view.masked_depth(4.0)).all()
    assert np.isnan(view.masked_depth(4.1)).all()


@pytest.mark.parametrize(
    "settings", [{"window_size": 0}, {"stride": 0}, {"window_size": 2, "stride": 3}]
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(UserError):
        Settings(**settings)
