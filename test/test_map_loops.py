# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Loops that must not be believed, and a map that goes on without what loops need."""

import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from fakes.oracle import SMALL_LIKE, VGGT_LIKE, Faults, Oracle
from fakes.room import APART, BASE_FROM_CAMERA, BAY, depth_in_hall, drive, in_room, turn
from map_rig import Ride, cameras

from vggt_ros.pipeline import Pipeline

OFFERS = 100
FAULTS = {"default": Faults(), "vggt": VGGT_LIKE, "small": SMALL_LIKE}


class Offers:
    """Offers, before each of 100 frames, the old keyframe at the place that looks like this one."""

    def __init__(self, first: int, away: Callable[[int], np.ndarray], old: int):
        """From frame `first` on, keyframes before `old`; `away`: from the camera to each frame."""
        self.first, self.away, self.old = first, away, old
        self.made = self.before = 0

    def __call__(self, pipeline: Pipeline, i: int) -> None:
        """As `Ride` calls it."""
        if i < self.first or self.made >= OFFERS:
            return
        self.before = pipeline.map.loops.closed if self.made == 0 else self.before
        keys = [int(key) for key in pipeline.map.keyframes.store.ids if key < self.old]
        away = self.away(i)
        pipeline.map.next_loop = min(keys, key=lambda key: away[key])
        self.made += 1


@pytest.mark.slow
@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
def test_a_room_that_is_furnished_otherwise_is_not_taken_for_another(faults):
    """The network takes every old keyframe for one of this room; its depth tells."""
    arc = cameras("arc")
    truth = np.concatenate([arc[:120], in_room(arc[:160], 1)])
    places = truth[:, :3, 3] - np.where(np.arange(280) < 120, 0.0, APART)[:, None] * [1, 0, 0]
    offers = Offers(150, lambda i: np.linalg.norm(places - places[i], axis=1), old=120)
    ride = Ride(truth, replace(faults, alike=APART), before=offers)
    assert offers.made == OFFERS
    assert ride.pipeline.map.loops.closed == offers.before == 0
    assert set(ride.segments[160:]) == {1} and set(ride.belongs[160:]) == {1}
    assert ride.updates[-1].status.loops_tried >= 50


@pytest.mark.slow
@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
def test_a_bay_that_looks_the_same_is_not_taken_for_another(faults):
    """A camera that looks aside passes bays 10 m apart; how it came there excludes the others."""
    aside = np.eye(4)
    aside[:3, :3] = turn(np.array([0.0, 0.0, np.pi / 2]))
    truth = drive("hall") @ aside @ BASE_FROM_CAMERA
    bays = truth[:, 0, 3] % BAY
    offers = Offers(190, lambda i: np.abs(bays - bays[i]), old=120)
    engine = Oracle(truth, replace(faults, alike=BAY), see=depth_in_hall)
    ride = Ride(truth, engine=engine, before=offers)
    assert offers.made == OFFERS
    joined = truth[ride.keyframes.loops][:, :, 0, 3]
    assert np.abs(np.diff(joined, axis=1)).max(initial=0.0) < 0.5 * BAY
    assert set(ride.segments) == {0} and ride.share < 0.01
    assert ride.updates[-1].status.loops_tried >= 50


class WithoutDescriptors(Oracle):
    """An engine that cannot say what a frame looks like."""

    def describe(self, frame_id):
        """Nothing."""
        return None


@pytest.mark.slow
def test_without_descriptors_nothing_is_compared_and_the_map_is_made():
    truth = cameras("spin", 200)
    ride = Ride(truth, engine=WithoutDescriptors(truth, VGGT_LIKE))
    status = ride.updates[-1].status
    assert status.loops_tried == status.loops_closed == 0
    assert set(ride.segments) == {0} and ride.refused == []
    assert status.keyframes > 20


@pytest.mark.slow
def test_without_gtsam_no_loop_is_closed_and_the_status_says_why(monkeypatch):
    monkeypatch.setitem(sys.modules, "gtsam", None)
    ride = Ride(cameras("spin", 200), VGGT_LIKE)
    status = ride.updates[-1].status
    assert status.loops_closed == status.loops_tried == 0 and len(ride.keyframes.loops) == 0
    assert "gtsam" in status.graph
    assert set(ride.segments) == {0} and ride.refused == []


@pytest.mark.slow
def test_without_gtsam_a_lost_camera_is_found_all_the_same(monkeypatch):
    monkeypatch.setitem(sys.modules, "gtsam", None)
    arc = cameras("arc")
    truth = np.concatenate([arc[:60], arc[60:80], arc[20:60]])
    ride = Ride(truth, replace(VGGT_LIKE, broken=dict.fromkeys(range(60, 80), "nonsense")))
    assert ride.segments[-1] == 0 and set(ride.belongs[-20:]) == {0}


@pytest.mark.slow
def test_a_graph_solved_in_the_background_makes_the_same_map():
    truth = cameras("hand_held")
    here, there = Ride(truth, VGGT_LIKE), Ride(truth, VGGT_LIKE, background=True)
    assert here.updates[-1].status.loops_closed > 0 and there.updates[-1].status.loops_closed > 0
    assert np.array_equal(here.keyframes.segments == 0, np.full(len(here.keyframes.ids), True))
    assert set(there.segments) == {0} and there.refused == here.refused
    assert there.error() < 1.5 * here.error() + 0.01
