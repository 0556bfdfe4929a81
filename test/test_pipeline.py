# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The pipeline on a network that knows the truth: what is refused, joined, tracked, begun anew."""

from dataclasses import replace

import numpy as np
import pytest

from vggt_ros.engine.interface import Look
from vggt_ros.errors import UserError
from vggt_ros.frames import Frame, FrameError, Tracks, Update
from vggt_ros.pipeline import Pipeline
from vggt_ros.settings import Settings

SIZE = (42, 56)  # network pixels, height and width
STEP = 0.1  # metres that the true camera moves to its right between frames
DEPTH = 2.0  # a wall, straight ahead
START = 1_700_000_000_123_456_789


class Wall:
    """A network that is right up to scale: a camera slides along a wall, one step a frame.

    Each look has another scale, as the real network has.  Tracks stay on the wall.
    """

    default_width = SIZE[1]

    def __init__(self, largest: int = 99):
        self.largest = largest  # frames that a look may cover
        self.looks: list[tuple[int, ...]] = []
        self.queries: list[tuple[np.ndarray, int]] = []

    def look(self, frame_ids, images, *, depth_frames, queries=None, query_frame=0):
        cut = max(len(frame_ids) - self.largest, 0)
        frame_ids, query_frame = frame_ids[cut:], query_frame - cut
        depth_frames = min(depth_frames, len(frame_ids))
        scale = 0.5 + (len(self.looks) * 0.37) % 1.0
        self.looks.append(frame_ids)
        encoding = np.zeros((len(frame_ids), 9), np.float32)
        encoding[:, 0] = [-STEP * (i - frame_ids[0]) * scale for i in frame_ids]
        encoding[:, 6] = 1.0
        encoding[:, 7:] = 2 * np.arctan(0.5)  # focal length = image size
        depth = np.full((depth_frames, *SIZE), DEPTH * scale, np.float32)
        confidence = np.full_like(depth, 4.0)
        if queries is None or query_frame < 0:
            return Look(encoding, depth, confidence)
        self.queries.append((queries, query_frame))
        shift = [-STEP / DEPTH * SIZE[1] * (i - frame_ids[query_frame]) for i in frame_ids]
        tracks = queries[None] + np.array(shift, np.float32)[:, None, None] * np.array(
            [1, 0], np.float32
        )
        ones = np.ones(tracks.shape[:2], np.float32)
        return Look(encoding, depth, confidence, tracks, ones, ones)

    def reset(self):
        pass


def frame(i: int, **other) -> Frame:
    picture = np.full((48, 64, 3), i % 251, np.uint8)
    return Frame(picture, START + i * 100_000_000)._replace(**other)


def looked(pipeline: Pipeline, taken: Frame) -> Update:
    """A step that must look."""
    update = pipeline.step(taken)
    assert update is not None
    return update


def tracked(update: Update) -> Tracks:
    assert update.tracks is not None
    return update.tracks


def test_the_world_is_one_although_every_look_has_its_own_scale():
    pipeline = Pipeline(Wall(), Settings(window_size=4))
    updates = [looked(pipeline, frame(i)) for i in range(12)]
    first = updates[1].views[1].world_from_camera[:3, 3]  # one true step, in world units
    for i, update in enumerate(updates[1:], 1):
        position = update.views[-1].world_from_camera[:3, 3]
        np.testing.assert_allclose(position, first * i, atol=1e-5)
        unit = np.linalg.norm(first) / STEP
        depth = update.views[-1].masked_depth(1.0)
        np.testing.assert_allclose(depth, DEPTH * unit, rtol=1e-5)


def test_the_world_has_z_up():
    pipeline = Pipeline(Wall())
    view = looked(pipeline, frame(0)).views[0]
    down_in_camera = view.world_from_camera[:3, :3] @ [0, 1, 0]
    np.testing.assert_allclose(down_in_camera, [0, 0, -1], atol=1e-6)


def test_windows_fill_then_slide_oldest_first():
    wall = Wall()
    pipeline = Pipeline(wall, Settings(window_size=3))
    updates = [looked(pipeline, frame(i)) for i in range(5)]
    assert wall.looks == [(0,), (0, 1), (0, 1, 2), (1, 2, 3), (2, 3, 4)]
    assert [u.window_id for u in updates] == [0, 1, 2, 3, 4]
    assert all(u.fresh == 1 for u in updates)


def test_stride_looks_every_so_many_frames_and_says_how_many_views_are_new():
    pipeline = Pipeline(Wall(), Settings(window_size=4, stride=2))
    updates = [u for i in range(8) if (u := pipeline.step(frame(i))) is not None]
    assert sum(u.fresh for u in updates) == len({v.frame_id for u in updates for v in u.views})
    assert len(updates) == 6 and [u.fresh for u in updates[-2:]] == [2, 2]


def test_stamps_arrive_bit_for_bit():
    pipeline = Pipeline(Wall())
    assert looked(pipeline, frame(7)).views[-1].stamp_ns == START + 700_000_000


@pytest.mark.parametrize(
    "stamp, fault", [(0, "zero"), (START, "repeats"), (START - 1, "goes back")]
)
def test_a_frame_that_cannot_follow_is_refused_and_nothing_is_lost(stamp, fault):
    wall = Wall()
    pipeline = Pipeline(wall)
    looked(pipeline, frame(0))
    with pytest.raises(FrameError, match=fault):
        looked(pipeline, frame(1, stamp_ns=stamp))
    assert looked(pipeline, frame(2)).window_id == 1
    assert wall.looks[-1] == (0, 1)


def test_a_looped_recording_begins_a_new_map():
    pipeline = Pipeline(Wall())
    for i in range(20):
        looked(pipeline, frame(i))
    refused = 0
    for i in range(10):
        try:
            update = looked(pipeline, frame(i))
        except FrameError:
            refused += 1
    assert refused == Pipeline.PATIENCE
    assert len(update.views) == 4 and "time went back" in pipeline.notices[0]


@pytest.mark.parametrize(
    "change, said",
    [({"rgb": np.zeros((24, 64, 3), np.uint8)}, "64x48 to 64x24"), ({"camera": "rear"}, "rear")],
)
def test_another_picture_size_or_camera_begins_a_new_window(change, said):
    wall = Wall()
    pipeline = Pipeline(wall)
    looked(pipeline, frame(0))
    looked(pipeline, frame(1, **change))
    assert wall.looks[-1] == (1,)
    assert said in pipeline.notices[0]


def test_tracks_follow_the_wall_while_the_window_slides_past_the_frame_that_pinned_them():
    pipeline = Pipeline(Wall(), Settings(window_size=3))
    looked(pipeline, frame(0))
    pipeline.query(np.array([5, 9], np.uint32), np.array([[32.0, 24.0], [50.0, 10.0]]))
    for i in range(1, 7):
        tracks = tracked(looked(pipeline, frame(i)))
        shift = STEP / DEPTH * 64 * i
        np.testing.assert_allclose(tracks.uv[-1], [[32 - shift, 24], [50 - shift, 10]], atol=1e-3)
        assert tracks.ids.tolist() == [5, 9]
        assert tracks.stamps_ns[-1] == START + i * 100_000_000


def test_a_query_before_the_first_frame_waits_for_it():
    pipeline = Pipeline(Wall())
    pipeline.query(np.array([1], np.uint32), np.array([[3.0, 4.0]]))
    update = looked(pipeline, frame(0))
    np.testing.assert_allclose(tracked(update).uv, [[[3.0, 4.0]]], atol=1e-5)


def test_a_query_names_its_frame_by_stamp():
    pipeline = Pipeline(Wall(), Settings(window_size=4))
    for i in range(3):
        looked(pipeline, frame(i))
    pipeline.query(np.array([1], np.uint32), np.array([[30.0, 20.0]]), START + 100_000_000)
    update = looked(pipeline, frame(3))
    np.testing.assert_allclose(tracked(update).uv[1, 0], [30, 20], atol=1e-5)
    with pytest.raises(UserError, match="not one of the"):
        pipeline.query(np.array([1], np.uint32), np.array([[30.0, 20.0]]), START + 5)


@pytest.mark.parametrize("uv, said", [((np.nan, 3), "not a number"), ((64, 3), "outside")])
def test_a_query_that_is_no_pixel_is_refused(uv, said):
    pipeline = Pipeline(Wall())
    looked(pipeline, frame(0))
    with pytest.raises(UserError, match=said):
        pipeline.query(np.array([1], np.uint32), np.array([uv], np.float64))


def test_an_empty_query_clears():
    wall = Wall()
    pipeline = Pipeline(wall)
    looked(pipeline, frame(0))
    pipeline.query(np.array([1], np.uint32), np.array([[3.0, 4.0]]))
    pipeline.query(np.zeros(0, np.uint32), np.zeros((0, 2)))
    assert looked(pipeline, frame(1)).tracks is None


def test_reset_forgets_frames_tracks_and_map():
    wall = Wall()
    pipeline = Pipeline(wall)
    for i in range(3):
        looked(pipeline, frame(i))
    pipeline.query(np.array([1], np.uint32), np.array([[3.0, 4.0]]))
    pipeline.reset()
    update = looked(pipeline, frame(1))
    assert len(update.views) == 1 and update.tracks is None
    np.testing.assert_allclose(update.views[0].world_from_camera[:3, 3], 0, atol=1e-9)


def test_a_look_that_covers_fewer_frames_places_those_alone():
    """The network has no program for four frames yet, or no memory: the map is as sound."""
    wall = Wall(largest=3)
    pipeline = Pipeline(wall, Settings(window_size=4))
    updates = [looked(pipeline, frame(i)) for i in range(8)]
    assert wall.looks[2:5] == [(0, 1, 2), (1, 2, 3), (2, 3, 4)]
    assert [u.missing for u in updates] == [0, 0, 0, 1, 1, 1, 1, 1]
    assert [[v.frame_id for v in u.views] for u in updates] == [list(x) for x in wall.looks]
    assert all(u.fresh == 1 for u in updates)
    assert all(u.join.accepted and u.join.segment == 0 for u in updates)
    first = updates[1].views[1].world_from_camera[:3, 3]
    for i, update in enumerate(updates[1:], 1):
        np.testing.assert_allclose(update.views[-1].world_from_camera[:3, 3], first * i, atol=1e-5)


def test_single_frames_have_no_map_until_the_window_grows():
    """Each is the first of its map; the full window goes on from the last of them."""
    wall = Wall(largest=1)
    pipeline = Pipeline(wall, Settings(window_size=4))
    for i in range(6):
        update = looked(pipeline, frame(i))
        assert [v.frame_id for v in update.views] == [i] and update.fresh == 1
        assert update.join.accepted and update.missing == min(i, 3)
        np.testing.assert_allclose(update.views[0].world_from_camera[:3, 3], 0, atol=1e-9)
    wall.largest = 4
    updates = [looked(pipeline, frame(i)) for i in range(6, 10)]
    assert wall.looks[6] == (3, 4, 5, 6) and updates[0].missing == 0
    assert [u.fresh for u in updates] == [1, 1, 1, 1], "what was published is not published again"
    at = [u.views[-1].world_from_camera[:3, 3] for u in updates]
    for i, position in enumerate(at):
        np.testing.assert_allclose(position, at[0] * (i + 1), atol=1e-5)
    assert all(u.join.accepted and u.join.segment == 0 for u in updates)


def test_tracks_go_on_in_a_window_that_lacks_frames():
    wall = Wall(largest=2)
    pipeline = Pipeline(wall, Settings(window_size=4))
    for i in range(-3, 1):
        looked(pipeline, frame(i))
    pipeline.query(np.array([5], np.uint32), np.array([[50.0, 24.0]]))
    for i in range(1, 8):
        tracks = tracked(looked(pipeline, frame(i)))
        np.testing.assert_allclose(tracks.uv[-1], [[50 - STEP / DEPTH * 64 * i, 24]], atol=1e-3)
        assert len(tracks.stamps_ns) == 2


def test_a_query_whose_frame_leaves_before_tracks_can_be_had_says_so():
    wall = Wall(largest=1)
    pipeline = Pipeline(wall, Settings(window_size=2))
    looked(pipeline, frame(0))
    pipeline.query(np.array([5], np.uint32), np.array([[50.0, 24.0]]))
    assert looked(pipeline, frame(1)).tracks is None
    assert not pipeline.notices
    looked(pipeline, frame(2))
    assert "left the window before it was tracked" in pipeline.notices[0]


def test_what_the_network_says_of_a_look_is_passed_on(monkeypatch):
    wall = Wall()
    pipeline = Pipeline(wall)
    plain = wall.look
    monkeypatch.setattr(wall, "look", lambda *a, **k: plain(*a, **k)._replace(notice="no room"))
    looked(pipeline, frame(0))
    assert pipeline.notices == ["no room"]


def test_the_calibrated_camera_is_used_when_asked_for():
    k = np.array([[70.0, 0, 31.5], [0, 72.0, 23.5], [0, 0, 1]])
    settings = Settings(intrinsics="camera_info")
    view = looked(Pipeline(Wall(), settings), frame(0, intrinsics=k)).views[0]
    np.testing.assert_allclose(view.intrinsics, view.grid.network_from_input @ k)
    model = looked(Pipeline(Wall(), replace(settings, intrinsics="model")), frame(0, intrinsics=k))
    assert model.views[0].intrinsics[0, 0] == pytest.approx(SIZE[1])


def test_masking_is_stricter_with_a_higher_threshold():
    view = looked(Pipeline(Wall()), frame(0)).views[0]
    assert np.isfinite(view.masked_depth(4.0)).all()
    assert np.isnan(view.masked_depth(4.1)).all()


@pytest.mark.parametrize(
    "settings", [{"window_size": 0}, {"stride": 0}, {"window_size": 2, "stride": 3}]
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(UserError):
        Settings(**settings)
