# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A camera that is lost, carried away and brought back; parts mapped apart that become one map."""

from dataclasses import replace
from functools import cache
from itertools import groupby

import numpy as np
import pytest
from fakes.oracle import SMALL_LIKE, VGGT_LIKE, Faults
from fakes.room import in_room
from map_rig import Ride, cameras

LOST, BACK = 90, 290  # first frames of an absence, and after it
FOUND = 30  # frames within which the camera must be found again: 3 s
FAULTS = {"default": Faults(), "vggt": VGGT_LIKE, "small": SMALL_LIKE}


def blind(faults: Faults, first: int, end: int) -> Faults:
    """With nonsense in every window whose newest frame is one of these."""
    return replace(faults, broken=dict.fromkeys(range(first, end), "nonsense"))


@cache
def kidnapped(name: str, to: str) -> Ride:
    """A drive along an arc, 20 seconds elsewhere, and a drive over a part of that arc again."""
    arc, away = cameras("arc"), cameras("room")[: BACK - LOST]
    if to == "room":
        return Ride(np.concatenate([arc[:LOST], in_room(away, 1), arc[40:LOST]]), FAULTS[name])
    return Ride(np.concatenate([arc[:LOST], away, arc[40:LOST]]), blind(FAULTS[name], LOST, BACK))


CASES = [("default", "nonsense"), ("vggt", "room"), ("small", "room"), ("small", "nonsense")]


def found_at(ride: Ride) -> int:
    """The first frame after the absence that is placed in the first segment."""
    return next(
        i for i in range(BACK, len(ride.truth)) if ride.segments[i] == 0 and ride.accepted[i]
    )


@pytest.mark.slow
@pytest.mark.parametrize("name, to", CASES)
def test_a_kidnapped_camera_is_found_within_three_seconds(name, to):
    ride = kidnapped(name, to)
    found = found_at(ride)
    assert found - BACK <= FOUND
    assert set(ride.segments[found:]) == {0} and set(ride.states[found + 2 :]) <= {
        "tracking", "uncertain",
    }  # fmt: skip
    off = ride.off_from(range(LOST), range(found, len(ride.truth)))
    # The map of `small` is itself 4 % of the scene's depth off.
    share = off / [ride.scene_depth(i) for i in range(found, len(ride.truth))]
    assert share[0] < (0.07 if name == "small" else 0.02)
    assert np.median(share) < (0.1 if name == "small" else 0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name, to", CASES)
def test_nothing_of_elsewhere_is_in_the_map_that_is_shown(name, to):
    ride = kidnapped(name, to)
    shown = ride.keyframes.ids[ride.keyframes.segments == 0]
    # A refused window's frames move with keyframes of before; they are never keyframes.
    assert not np.any((shown >= LOST) & (shown < BACK))
    assert np.sum(shown < LOST) > 10 and np.sum(shown >= BACK) > 3
    elsewhere = ride.belongs[LOST:BACK][ride.accepted[LOST:BACK]]
    assert 0 not in elsewhere


@pytest.mark.slow
@pytest.mark.parametrize("name, to", CASES)
def test_the_status_tells_of_it_in_order(name, to):
    states = [state for state, _ in groupby(kidnapped(name, to).states[LOST - 1 :])]
    assert states[-1] in ("tracking", "uncertain")
    first = [states.index(state) for state in ("uncertain", "lost", "relocalising")]
    assert first == sorted(first)
    assert "initialising" not in states
    last = [i for i, state in enumerate(states) if state == "relocalising"][-1]
    assert set(states[last + 1 :]) <= {"tracking", "uncertain"}


@pytest.mark.slow
def test_two_rooms_are_two_maps_and_each_is_found_again():
    arc = cameras("arc")
    parts = [arc[:80], in_room(arc[:80], 1), arc[30:110], in_room(arc[30:110], 1)]
    ride = Ride(np.concatenate(parts), VGGT_LIKE)
    belongs = ride.belongs
    for part, segment in enumerate((0, 1, 0, 1)):
        rows = np.arange(80 * part + 40, 80 * part + 80)
        assert set(belongs[rows]) == {segment}
        assert set(ride.segments[rows]) == {segment}
    assert set(ride.keyframes.segments) == {0, 1}
    status = ride.updates[-1].status
    assert status.segments == 2 and status.segment == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["default", "vggt"])
def test_two_parts_of_a_room_that_were_mapped_apart_become_one_map(name):
    """One part, nothing for 3 s, another part, and from there into the first one."""
    lap = cameras("laps", 400)
    truth = np.concatenate([lap[:70], np.repeat(lap[90:91], 30, 0), lap[110:270]])
    ride = Ride(truth, blind(FAULTS[name], 70, 100))
    part, other = range(70), range(105, 150)
    assert set(ride.segments[part]) == {0} and set(ride.segments[other]) == {1}
    assert set(ride.belongs[other]) == {0} and set(ride.keyframes.segments) == {0}
    assert ride.updates[-1].status.segments == 1
    # It was anywhere; now it stands where it belongs in the frame of the first part.
    assert ride.off_from(part, other).max() < 0.25
    assert ride.off_from(part, range(len(truth) - 60, len(truth))).max() < 0.1
