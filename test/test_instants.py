# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Images of several cameras become instants by their stamps; who is left out is named."""

from collections.abc import Iterable

import numpy as np
import pytest

from vggt_ros.windows.instants import Instant, Instants

MS = 1_000_000
START = 1_700_000_000_000_000_001
TOLERANCE = 20 * MS
NAMES = ("front", "left", "right")
Event = tuple[int, str, int]  # arrival, camera, stamp


def stream(
    name: str, hz: float, seconds: float, *, phase: int = 0, late: int = 5 * MS, clock: int = 0
) -> list[Event]:
    """Images of a camera that arrive `late`; its clock is `clock` ns ahead."""
    taken = [START + phase + round(i * 1e9 / hz) for i in range(round(seconds * hz))]
    return [(ns + late, name, ns + clock) for ns in taken]


def run(joiner: Instants, *streams: Iterable[Event]) -> list[Instant]:
    """All events by their arrivals; an image is its stamp.  The laws hold after each."""
    found = []
    for arrived, name, stamp in sorted(event for events in streams for event in events):
        instant = joiner.add(name, stamp, arrived, stamp)
        if instant is not None:
            found.append(instant)
            check(instant)
    for name in NAMES:
        counts = joiner.counts(name)
        assert counts["received"] == counts["joined"] + counts["dropped"] + counts["waiting"]
        assert counts["joined"] == sum(name in instant.images for instant in found)
        stamps = [i.images[name].stamp_ns for i in found if name in i.images]
        assert stamps == sorted(set(stamps))
    assert joiner.formed == len(found)
    return found


def check(instant: Instant) -> None:
    stamps = [image.stamp_ns for image in instant.images.values()]
    assert max(stamps) - min(stamps) <= TOLERANCE
    assert [image.item for image in instant.images.values()] == stamps
    assert list(instant.images) == [name for name in NAMES if name in instant.images]
    assert instant.stamp_ns == stamps[0]


def without(events: list[Event], begin: float, end: float) -> list[Event]:
    """Without those that were taken in these seconds."""
    return [e for e in events if not begin <= (e[0] - 5 * MS - START) * 1e-9 < end]


def test_cameras_that_are_triggered_together_are_joined_image_by_image():
    joiner = Instants(NAMES, TOLERANCE)
    found = run(joiner, *(stream(name, 10, 3, late=(i + 1) * MS) for i, name in enumerate(NAMES)))
    assert len(found) == joiner.complete == 30
    assert all(len({i.stamp_ns for i in f.images.values()}) == 1 for f in found)
    assert set(joiner.faults.values()) == {""}


@pytest.mark.parametrize("seed", range(5))
def test_whatever_arrives_stamps_of_an_instant_are_within_the_tolerance(seed: int):
    """Jitter of stamps and arrivals, other rates, losses: `run` checks the laws."""
    random = np.random.default_rng(seed)
    streams = []
    for name, hz in zip(NAMES, random.uniform(3, 40, 3), strict=True):
        events = stream(name, hz, 10, late=round(random.uniform(0, 200) * MS))
        kept = [e for e in events if random.random() > 0.2]
        jitter = np.cumsum(random.uniform(0, 2 * MS, len(kept))).astype(int)
        streams.append(
            [(a + int(j), n, s + int(j)) for (a, n, s), j in zip(kept, jitter, strict=True)]
        )
    assert run(Instants(NAMES, TOLERANCE), *streams)


def test_an_image_that_overtakes_another_camera_s_older_one_does_not_part_them():
    joiner = Instants(NAMES, TOLERANCE)
    late = stream("right", 10, 3, late=170 * MS)
    found = run(joiner, stream("front", 10, 3), stream("left", 10, 3), late)
    assert len(found) == joiner.complete == 30
    assert joiner.faults["right"] == ""


def test_a_lost_image_costs_its_instant_and_no_more():
    joiner = Instants(NAMES, TOLERANCE)
    lossy = stream("right", 10, 3)
    del lossy[12]
    found = run(joiner, stream("front", 10, 3), stream("left", 10, 3), lossy)
    assert len(found) == joiner.complete == 29
    assert set(joiner.faults.values()) == {""}


def test_a_dead_camera_is_left_out_within_three_periods_and_comes_back():
    joiner = Instants(NAMES, TOLERANCE)
    dead = without(stream("right", 10, 12), 3, 8)
    events = sorted(stream("front", 10, 12) + stream("left", 10, 12) + dead)
    cut = next(i for i, e in enumerate(events) if e[0] > START + 7_900 * MS)
    before = [joiner.add(name, stamp, at, stamp) for at, name, stamp in events[:cut]]
    silent = joiner.faults["right"]
    assert silent.startswith("left out: no image for 4.8 s") and "30 of its 30" in silent
    assert joiner.is_silent("right") and not joiner.is_silent("left")
    found = before + [joiner.add(name, stamp, at, stamp) for at, name, stamp in events[cut:]]
    instants = [instant for instant in found if instant is not None]
    stamps = np.array([instant.stamp_ns for instant in instants])
    assert np.diff(stamps).max() <= 400 * MS
    # Its first image again comes when the others of that moment are gone.
    assert sum("right" in instant.images for instant in instants) == len(dead) - 1
    assert joiner.faults["right"] == "" and joiner.counts("right")["dropped"] == 1
    assert all(len(instant.images) >= 2 for instant in instants)


def test_cameras_that_never_come_are_waited_for_at_the_start_only():
    joiner = Instants(NAMES, TOLERANCE)
    found = run(joiner, stream("left", 10, 6))
    assert found[0].stamp_ns - START == pytest.approx(2_100 * MS, abs=200 * MS)
    assert len(found) > 35
    assert joiner.faults["front"].startswith("left out: no image for 5.9 s")
    assert "0 of its 0 images" in joiner.faults["front"]


@pytest.mark.parametrize("fast", NAMES)
def test_the_slowest_running_camera_sets_the_rate(fast: str):
    joiner = Instants(NAMES, TOLERANCE)
    others = [name for name in NAMES if name != fast]
    found = run(joiner, stream(fast, 30, 6), *(stream(name, 5, 6, phase=9 * MS) for name in others))
    assert len(found) >= 28 and joiner.complete == len(found)
    assert joiner.counts(fast)["dropped"] >= 140
    assert set(joiner.faults.values()) == {""}


@pytest.mark.parametrize("phase", [21, 45, -21, -45])
def test_a_camera_that_is_not_triggered_with_the_others_is_named_with_the_offset(phase: int):
    """Also where its nearest image is one that comes after the instant was formed."""
    joiner = Instants(NAMES, TOLERANCE)
    streams = [stream(name, 10, 6) for name in NAMES[:2]]
    found = run(joiner, *streams, stream("right", 10, 6, phase=phase * MS))
    assert len(found) > 40
    assert all(set(instant.images) == {"front", "left"} for instant in found)
    fault = joiner.faults["right"]
    assert (
        fault.startswith("left out: its nearest image is ") and "sync_tolerance is 20 ms" in fault
    )
    assert f"its nearest image is {phase:+.1f} ms from the other cameras'" in fault
    assert joiner.faults["front"] == joiner.faults["left"] == ""


@pytest.mark.parametrize("odd", NAMES)
@pytest.mark.parametrize("clock", [-3_600_000 * MS, -437 * MS, 437 * MS, 3_600_000 * MS])
def test_a_clock_that_is_apart_is_named_with_the_offset_and_the_others_go_on(odd: str, clock: int):
    joiner = Instants(NAMES, TOLERANCE)
    others = [name for name in NAMES if name != odd]
    found = run(joiner, stream(odd, 10, 8, clock=clock), *(stream(name, 10, 8) for name in others))
    assert sum(set(instant.images) == set(others) for instant in found) > 60
    side = "ahead of" if clock > 0 else "behind"
    assert f"its stamps are {abs(clock) // MS} ms {side} those of" in joiner.faults[odd]
    assert "left out" in joiner.faults[odd]
    assert all(joiner.faults[name] == "" for name in others)


def test_a_clock_that_is_off_by_whole_periods_is_named_too():
    """By their stamps the images fit, so they are used; their arrivals tell."""
    joiner = Instants(NAMES, TOLERANCE)
    run(
        joiner,
        stream("front", 10, 8),
        stream("left", 10, 8),
        stream("right", 10, 8, clock=300 * MS),
    )
    fault = joiner.faults["right"]
    assert fault.startswith("its stamps are 300 ms ahead of") and "left out" not in fault


def test_two_cameras_that_never_meet_go_on_with_the_first():
    joiner = Instants(NAMES[:2], TOLERANCE)
    events = sorted(stream("front", 10, 6) + stream("left", 10, 6, phase=50 * MS))
    found = [f for at, name, ns in events if (f := joiner.add(name, ns, at, ns)) is not None]
    late = [f for f in found if f.stamp_ns > START + 3_000 * MS]
    assert late and all(len(f.images) == 1 for f in late)
    assert "sync_tolerance" in joiner.faults["front"] + joiner.faults["left"]


def test_fewer_than_min_cameras_are_no_instant():
    joiner = Instants(NAMES, TOLERANCE, min_cameras=2)
    assert run(joiner, stream("left", 10, 8)) == []
    counts = joiner.counts("left")
    assert counts["received"] == 80 and counts["dropped"] == 80 - counts["waiting"]
    text = "nothing is inferred: min_cameras is 2, and 1 of 3 cameras run (left)"
    assert joiner.obstacle == f"no instant for 7.9 s, {text}"


def test_cameras_that_never_meet_are_an_obstacle_where_both_are_needed():
    joiner = Instants(NAMES[:2], TOLERANCE, min_cameras=2)
    events = sorted(stream("front", 10, 3) + stream("left", 10, 3, phase=50 * MS))
    assert all(joiner.add(name, ns, at, ns) is None for at, name, ns in events)
    assert "is 2, and fewer of front, left have images within 20 ms (sync_" in joiner.obstacle


@pytest.mark.parametrize("hz", [5, 30])
def test_instants_that_are_formed_are_no_obstacle(hz: int):
    joiner = Instants(NAMES, TOLERANCE)
    events = stream("front", hz, 6) + stream("left", 5, 6) + stream("right", 5, 2)
    for at, name, ns in sorted(events):
        joiner.add(name, ns, at, ns)
        assert joiner.obstacle == ""


def test_a_camera_is_forgotten_and_begins_again():
    joiner = Instants(NAMES, TOLERANCE)
    run(joiner, *(stream(name, 10, 3) for name in NAMES))
    joiner.reset()
    found = run_again(joiner)
    assert len(found) == 30 and set(joiner.faults.values()) == {""}
    assert joiner.counts("front")["received"] == 60


def run_again(joiner: Instants) -> list[Instant]:
    """The same recording from its beginning, as in a loop."""
    events = sorted(event for name in NAMES for event in stream(name, 10, 3))
    return [f for at, name, ns in events if (f := joiner.add(name, ns, at, ns)) is not None]


@pytest.mark.parametrize("speed", [0.1, 3.0])
def test_a_recording_at_another_speed_is_no_clock_that_is_apart(speed: float):
    joiner = Instants(NAMES, TOLERANCE)
    streams = (stream(name, 10, 4, late=(i + 1) * MS) for i, name in enumerate(NAMES))
    played = [
        [(START + round((at - START) / speed), name, ns) for at, name, ns in events]
        for events in streams
    ]
    found = run(joiner, *played)
    assert len(found) == 40 and set(joiner.faults.values()) == {""}


def test_all_cameras_that_pause_go_on_together():
    joiner = Instants(NAMES, TOLERANCE)
    found = run(joiner, *(without(stream(name, 10, 9), 3, 7) for name in NAMES))
    assert len(found) == joiner.complete == 50
