# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A map of an earlier run through the pipeline: found again, kept, its metres, refusals."""

from pathlib import Path

import numpy as np
import pytest
from fakes.figures import alignment, path_length
from fakes.oracle import VGGT_LIKE, Faults, Oracle
from fakes.room import numbered_image
from map_rig import PERIOD, Ride, cameras
from test_map_files import filled

from vggt_ros.errors import UserError
from vggt_ros.frames import Frame, Observation, Update
from vggt_ros.geometry import Similarity
from vggt_ros.mapping.loading import OlderMap, part_of
from vggt_ros.mapping.map_files import LoadedMap, load_map
from vggt_ros.mapping.map_frames import MapFrame
from vggt_ros.mapping.metric.scale import LOADED, ScaleState
from vggt_ros.mapping.pose_graph.keyframe_map import KeyframeMap
from vggt_ros.mapping.pose_graph.loop_search import Found, LoopSearch
from vggt_ros.mapping.pose_graph.loops import Relation
from vggt_ros.mapping.segment import MapState, Segment
from vggt_ros.mapping.status import RELOCALISING, TRACKING
from vggt_ros.pipeline import Pipeline
from vggt_ros.settings import Settings

pytest.importorskip("gtsam")  # the maps have closed their loops

TOMORROW = 10**14
WIDTH = {"network_width": 84}


class NextDay:
    """A second run, in the map of the first; its frames follow those of the first in the truth."""

    def __init__(self, truth: np.ndarray, first: int, faults: Faults = VGGT_LIKE, **settings):
        """`first`: number of its first frame."""
        self.truth, self.first = truth, first
        self.engine = Oracle(truth, faults, seed=7)
        self.pipeline = Pipeline(self.engine, Settings(**settings))
        self.updates: list[Update] = []

    def drive(self, count: int) -> list[Update]:
        for _ in range(count):
            i = self.first + len(self.updates)
            frame = Frame(numbered_image(i), TOMORROW + i * PERIOD)
            update = self.pipeline.step(Observation(frame))
            assert update is not None
            self.updates.append(update)
        return self.updates

    @property
    def found(self) -> int:
        """Updates until the camera was in the loaded map."""
        return [update.status.sought_in for update in self.updates].index(None)

    def centres(self) -> np.ndarray:
        return np.stack([update.views[-1].world_from_camera[:3, 3] for update in self.updates])


CLIP = cameras("hand_held")  # closed: its end sees what its start saw
DAYS = np.concatenate([CLIP, np.roll(CLIP, -150, axis=0)])


@pytest.fixture(scope="module")
def first_day() -> Ride:
    return Ride(CLIP, engine=Oracle(DAYS, VGGT_LIKE))


@pytest.fixture(scope="module")
def folder(first_day: Ride, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("map") / "map"
    assert first_day.pipeline.save_map(folder) == len(first_day.keyframes.ids)
    return folder


def poses(keyframes, ids) -> np.ndarray:
    found = [keyframes.world_from_keyframe(key) for key in ids]
    return np.array([np.r_[p.scale, p.rotation.ravel(), p.translation] for p in found])


# ---- found again --------------------------------------------------------------------------------


@pytest.mark.parametrize("extend", [True, False])
def test_the_camera_is_found_in_the_map_of_another_day(first_day: Ride, folder: Path, extend: bool):
    day = NextDay(DAYS, len(CLIP))
    loaded = day.pipeline.load_map(folder, extend=extend)
    updates = day.drive(120)
    assert day.found < 20
    states = [update.status.state for update in updates]
    assert set(states[: day.found]) == {RELOCALISING}
    assert states[-1] == TRACKING and updates[-1].registration.segment == loaded.segment
    here = alignment(first_day.centres, CLIP[:, :3, 3], with_scale=True)
    off = here.apply(day.centres()[day.found :]) - DAYS[len(CLIP) :, :3, 3][day.found : 120]
    error = np.sqrt(np.mean(np.sum(off**2, axis=1)))
    assert error < 0.003 * path_length(CLIP[:, :3, 3])
    known = set(loaded.store.ids.tolist())
    new = set(updates[-1].keyframes.ids.tolist()) - known
    assert new and min(new) > max(known), "frame ids go on above those of the map"


def test_a_map_that_is_not_extended_neither_moves_nor_loses_keyframes(folder: Path):
    day = NextDay(DAYS, len(CLIP), max_keyframes=55)
    loaded = day.pipeline.load_map(folder, extend=False)
    ids = loaded.store.ids.tolist()
    before = poses(loaded.store.snapshot(), ids)
    last = day.drive(150)[-1]
    assert last.status.loops_closed > 5
    assert np.array_equal(poses(last.keyframes, ids), before)
    assert len(last.keyframes.ids) < len(ids) + 25, "those of this run are thinned instead"
    with pytest.raises(UserError, match="mapping is false"):
        day.pipeline.save_map(folder)


def test_an_unknown_place_stays_apart_however_long_it_is_mapped(folder: Path):
    elsewhere = CLIP.copy()
    elsewhere[:, 0, 3] += 100.0  # the next room
    day = NextDay(np.concatenate([CLIP, elsewhere]), len(CLIP))
    loaded = day.pipeline.load_map(folder)
    updates = day.drive(100)
    assert {update.status.state for update in updates} == {RELOCALISING}
    assert {update.registration.segment for update in updates} == {loaded.segment + 1}
    with pytest.raises(UserError, match="not found in the loaded map yet"):
        day.pipeline.save_map(folder)


def test_a_lost_camera_is_found_again_in_a_map_that_is_not_extended(folder: Path):
    first = len(CLIP)
    broken = dict.fromkeys(range(first + 40, first + 70), "nonsense")
    day = NextDay(DAYS, first, Faults(**{**vars(VGGT_LIKE), "broken": broken}))
    loaded = day.pipeline.load_map(folder, extend=False)
    before = poses(loaded.store.snapshot(), loaded.store.ids.tolist())
    updates = day.drive(130)
    assert updates[75].status.segments > 1, "it was lost, and began segments of its own"
    sought = [update.status.sought_in for update in updates]
    assert sought[39] is None and loaded.segment in sought[45:75]
    after = [update.status.sought_in for update in updates[90:]]
    assert after == [None] * 40 and updates[-1].registration.segment == loaded.segment
    assert np.array_equal(poses(updates[-1].keyframes, loaded.store.ids.tolist()), before)


def test_reset_goes_back_to_the_map_as_it_was_loaded(folder: Path):
    day = NextDay(DAYS, len(CLIP))
    loaded = day.pipeline.load_map(folder)
    day.drive(60)
    newest = day.updates[-1].views[-1].frame_id
    day.pipeline.reset()
    day.updates, day.first = [], day.first + 60
    updates = day.drive(20)
    assert updates[0].status.state == RELOCALISING and updates[-1].status.state == TRACKING
    assert updates[0].views[-1].frame_id == newest + 1
    again = load_map(folder, fingerprint=Oracle.fingerprint)
    ids = again.store.ids.tolist()
    assert np.array_equal(poses(updates[0].keyframes, ids), poses(again.store.snapshot(), ids))
    assert len(loaded.store) == len(ids), "what was loaded is never changed"


def test_metres_of_a_saved_map_hold_without_a_source(tmp_path):
    ride = Ride(CLIP, Faults(scale=(2.0, 2.0)), scale_source="fixed", fixed_scale=0.5,
                engine=Oracle(DAYS, Faults(scale=(2.0, 2.0))))  # fmt: skip
    assert ride.updates[-1].metric
    ride.pipeline.save_map(tmp_path / "map")
    day = NextDay(DAYS, len(CLIP))
    day.pipeline.load_map(tmp_path / "map")
    before, *_, last = day.drive(60)
    assert not before.metric and last.metric and last.scale_source == LOADED
    assert last.scale.sigma < 0.05 and last.scale.conflict == ""
    step = day.centres()[-1] - day.centres()[day.found]
    true = DAYS[len(CLIP) + 59, :3, 3] - DAYS[len(CLIP) + day.found, :3, 3]
    assert np.linalg.norm(step) == pytest.approx(np.linalg.norm(true), rel=0.04)


# ---- what is saved ------------------------------------------------------------------------------


def test_what_is_not_tied_to_the_window_is_not_saved():
    keyframes = KeyframeMap(store=filled())  # segments 0: 2, 9, 16; 1: 23, 30
    segment = Segment(0, (), np.eye(6))
    part = part_of(keyframes, MapState(np.eye(4), segment), ScaleState(), None)
    assert part.store.ids.tolist() == [2, 9, 16] and part.segment == 0
    ends = [edge[:2] for edge in part.store.edges]
    assert ends == [edge[:2] for edge in keyframes.store.edges if max(edge[:2]) <= 16]
    assert not part.metric and np.isinf(part.scale_sigma)
    with pytest.raises(UserError, match="the map is empty"):
        part_of(KeyframeMap(), MapState(np.eye(4)), ScaleState(), None)


def test_the_newest_keyframes_of_a_saved_map_are_tied_to_the_others(first_day: Ride, folder: Path):
    saved = load_map(folder, fingerprint=Oracle.fingerprint).store
    sigmas = saved.relative_sigmas(int(saved.ids[0]))
    assert set(sigmas) == set(saved.ids.tolist())
    edges = len(first_day.pipeline.map.keyframes.store.edges)
    assert first_day.pipeline.map.part().store.edges and edges == len(
        first_day.pipeline.map.keyframes.store.edges
    ), "the map itself goes on as it was"


@pytest.mark.parametrize("present", [0, 1])
def test_the_later_of_two_segments_joins_the_older_one(present: int):
    """Wherever the camera is: the frame of the older one, perhaps a saved map's, stays."""
    store = filled()
    keyframes = KeyframeMap(store=store)
    before, ids = store.snapshot(), [2, 9, 16] if present == 0 else [23, 30]
    key = ids[-1]
    pose = np.eye(4)
    pose[:3, :3] = before.world_from_keyframe(key).rotation
    pose[:3, 3] = before.world_from_keyframe(key).translation
    frame = MapFrame(key, pose, np.eye(3), None)
    moved = Similarity(2.0, np.eye(3), np.array([1.0, 0.0, 0.0]))
    relation = Relation(23 if present == 0 else 2, Similarity.identity(), (0.1, 0.1, 0.1), 1.0)
    segment = Segment(present, (frame,), np.eye(6))
    found = Found(1 - present, moved, relation)
    how = LoopSearch(keyframes, 5).join(segment, found)
    after = store.snapshot()
    assert set(after.segments) == {0}
    assert np.array_equal(poses(after, [2, 9]), poses(before, [2, 9]))
    expected = moved if present == 1 else moved.inverse()
    assert after.world_from_keyframe(30).translation == pytest.approx(
        expected.apply(before.world_from_keyframe(30).translation)
    )
    assert (how is None) == (present == 0)


# ---- refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loops": False}, "set loops to true"),
        ({"window_size": 2, "stride": 2}, "window_size above stride"),
        ({"network_width": 98}, "these are 98 wide"),
    ],
)
def test_settings_that_no_map_can_be_used_with(folder: Path, settings: dict, words: str):
    with pytest.raises(UserError, match=words):
        NextDay(DAYS, len(CLIP), **settings).pipeline.load_map(folder)


def test_a_map_that_is_refused_changes_nothing(folder: Path, tmp_path):
    day = NextDay(DAYS, len(CLIP))
    day.drive(6)
    day.engine.fingerprint = "another"
    with pytest.raises(UserError, match="another network"):
        day.pipeline.load_map(folder)
    update = day.drive(1)[-1]
    assert update.status.state == TRACKING and len(update.views) == 4


def test_images_of_another_size_are_refused_and_the_window_stays(folder: Path):
    day = NextDay(DAYS, len(CLIP))
    day.pipeline.load_map(folder)
    day.drive(5)
    tall = Frame(np.zeros((84, 84, 3), np.uint8), TOMORROW + 1000 * PERIOD)
    with pytest.raises(UserError, match="84x56 network pixels, and these are 84x84"):
        day.pipeline.grid(84, 84)
    with pytest.raises(UserError, match="84x84"):
        day.pipeline.step(Observation(tall))


def test_segments_and_ids_go_on_above_those_of_the_map():
    loaded = LoadedMap(filled(), 0, False, np.inf, (56, 84), "small")
    older = OlderMap(loaded, is_fixed=False)
    assert (older.next_segment, older.next_id) == (2, 31)
    assert older.sought_in(2) == 0 and older.sought_in(0) is None
    assert older.after(2) is older and older.after(0) is None
    assert OlderMap(loaded, is_fixed=True).after(0) is not None
