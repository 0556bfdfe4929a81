# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Across a loss by odometry: where the map goes on, how sure of it, and what corrects it."""

from functools import cache

import numpy as np
import pytest
from fakes.figures import alignment, odometry
from fakes.oracle import SMALL_LIKE, VGGT_LIKE, Faults
from fakes.room import BASE_FROM_CAMERA, drive
from map_rig import PERIOD, SECOND, Ride, cameras

from vggt_ros.geometry import Similarity, inverse_rigid, rotation_angle
from vggt_ros.mapping.bridging import NEW_UNIT_SIGMA, Lead
from vggt_ros.mapping.map import Map
from vggt_ros.mapping.metric.odometry import OdometryBuffer
from vggt_ros.mapping.pose_graph.edges import BRIDGE, LOOP, SEQUENCE, Edge, EdgeTable
from vggt_ros.mapping.window import WindowGeometry

FAULTS = {"vggt": VGGT_LIKE, "small": SMALL_LIKE}


def lose(faults: Faults, *rows: int) -> Faults:
    """Windows whose newest frame is one of these are nonsense."""
    return Faults(**{**vars(faults), "broken": dict.fromkeys(range(*rows), "nonsense")})


def led(kind, truth, faults, wheels=None, fails=(0, 0), **settings) -> Ride:
    """A ride with odometry, which is silent from one frame to another."""
    wheels = odometry(drive(kind, len(truth))) if wheels is None else wheels
    odom_from_base = OdometryBuffer()

    def observe(seen, i):
        if not fails[0] <= i < fails[1]:
            odom_from_base.add(SECOND + i * PERIOD, wheels[i])
        return seen._replace(odom_from_base=odom_from_base, base_from_camera=BASE_FROM_CAMERA)

    return Ride(truth, faults, observe=observe, **settings)


@cache
def across(name: str, source: str = "odometry", end: int = 110) -> Ride:
    """Nothing is seen for a while, and the robot goes on to where it has not been."""
    return led("arc", cameras("arc", 150), lose(FAULTS[name], 80, end), scale_source=source)


def bridges(ride: Ride) -> list[Edge]:
    return [edge for edge in ride.pipeline.map.keyframes.store.edges if edge.kind == BRIDGE]


@pytest.mark.parametrize(
    "name, source, first, rest",  # metres that it may be off at first, and at last
    [
        ("vggt", "odometry", 0.03, 0.06),
        ("vggt", "none", 0.04, 0.08),
        ("small", "odometry", 0.2, 0.5),
    ],
)
def test_the_map_goes_on_where_odometry_leads(name, source, first, rest):
    ride, truth = across(name, source), cameras("arc", 150)
    new = ride.refused[-1] + 1
    assert new < 118 and set(ride.segments) == {0} and set(ride.keyframes.segments) == {0}
    assert all(update.metric for update in ride.updates[40:]) == (source == "odometry")
    off = ride.off_from(range(80), range(150))
    assert off[80 : new + 1].max() < first  # while it is lost, and where it sees again
    assert off[new:].max() < rest
    # By how far it is off is what the covariance says.
    fit = alignment(ride.centres[:80], truth[:80, :3, 3], with_scale=True)
    for i in (new, 149):
        sigma = np.sqrt(np.diag(ride.updates[i].covariance))
        here = ride.updates[i].views[-1].world_from_camera
        assert np.all(np.abs(fit.apply(here[:3, 3]) - truth[i, :3, 3]) < 3 * fit.scale * sigma[:3])
        assert rotation_angle((fit.rotation @ here[:3, :3]).T @ truth[i, :3, :3]) < 3 * sigma[3]
        assert sigma[3] < 0.1 and (source == "none" or sigma[:3].max() < 0.35)


@pytest.mark.parametrize("source", ["odometry", "none"])
def test_the_unit_of_the_new_part_is_measured_again(source):
    """Guessed by the depth of the scene, which is another now: wrong by a third."""
    ride = across("vggt", source)
    new = ride.refused[-1] + 1
    guess = ride.updates[new].registration.world_from_window.scale * ride.engine.scales[new]
    assert abs(guess / ride.units[:80].mean() - 1.0) > 0.2
    np.testing.assert_allclose(ride.units[new:] / ride.units[:80].mean(), 1.0, atol=0.05)
    states = ride.states[new:]
    assert states[0] == "uncertain" and states[-1] == "tracking"
    if source == "odometry":
        assert ride.updates[79].scale.sigma < 0.1 < 0.3 <= ride.updates[new].scale.sigma < 0.35
        assert ride.updates[149].scale.sigma < 0.1
    assert "odometry" in ride.updates[new].status.reason


def test_one_edge_ties_both_parts_however_long_nothing_is_seen():
    """Windows of nonsense that begin in vain leave nothing behind; its sigma grows with time."""
    (short,), (long,) = (bridges(across("vggt", "odometry", end)) for end in (110, 131))
    for edge, end in ((short, 110), (long, 131)):
        assert edge.first < 80 <= end <= edge.second
        poses = across("vggt", "odometry", end).keyframes
        assert not np.any((poses.ids >= 80) & (poses.ids < end))
        between = poses.world_from_keyframe(edge.first).inverse()
        between = between @ poses.world_from_keyframe(edge.second)
        np.testing.assert_allclose(
            edge.first_from_second.translation, between.translation, atol=1e-3
        )
        assert edge.first_from_second.scale == pytest.approx(between.scale, rel=1e-3)
    assert short.sigma[2] < 0.1 < long.sigma[2] == NEW_UNIT_SIGMA  # not yet measured in the longer
    assert long.sigma[0] > 1.2 * short.sigma[0] and long.sigma[1] > 1.2 * short.sigma[1]


def test_a_saved_map_has_both_parts():
    part = across("vggt").pipeline.map.part()
    ids = part.store.ids
    assert np.sum(ids < 80) > 10 and np.sum(ids > 110) > 5
    assert [edge.kind for edge in part.store.edges].count(BRIDGE) == 1


def test_without_odometry_in_between_nothing_is_tied():
    """It is silent for a second while the camera is lost, and where it was by then is not known."""
    faults = lose(VGGT_LIKE, 40, 60)
    ride = led(
        "arc", cameras("arc", 80), faults, fails=(45, 56), scale_source="odometry", loops=False
    )
    new = ride.refused[-1] + 1
    assert set(ride.segments[new:]) == {1} and bridges(ride) == []


@pytest.mark.slow
def test_a_loop_corrects_what_odometry_got_wrong():
    """Wheels that slip in a bend: off by much after it, until an old place is recognised."""
    truth = cameras("laps", 300)
    wheels = odometry(drive("laps", 300), distance=0.01, degrees_per_10m=15.0)
    before = led("laps", truth, lose(VGGT_LIKE, 60, 110), wheels, loops=False)
    after = led("laps", truth, lose(VGGT_LIKE, 60, 110), wheels)
    assert set(before.segments) == set(after.segments) == {0}
    assert after.updates[-1].status.loops_closed > 0
    known, rest = range(60), range(130, 300)
    assert before.off_from(known, rest).max() > 0.5
    assert after.off_from(known, rest).max() < 0.1


@pytest.mark.parametrize("seed", [0, 1])
def test_the_unit_does_not_shrink_from_loss_to_loss(seed):
    """Windows of single frames, as while programs compile: each starts again in a guessed unit.

    The depth that is trusted least, which takes no part, is that of what is farthest.
    """
    random = np.random.default_rng(seed)
    segments = Map()
    for i in range(30):
        depth = np.linspace(1.0, 6.0, 80) * np.exp(0.02 * random.standard_normal((60, 80)))
        window = WindowGeometry(
            (i,), np.eye(4)[None], np.eye(3)[None], depth[None].astype(np.float32),
            (8.0 - depth)[None].astype(np.float32),
        )  # fmt: skip
        placed = segments.add(window, i * PERIOD, begin=True)
    assert placed.registration.world_from_window.scale == pytest.approx(1.0, abs=0.05)


# ---- parts ------------------------------------------------------------------------------------


def test_odometry_is_followed_for_longer_than_it_is_kept():
    """A minute along a circle, a second at a time; odometry remembers half of it."""
    odom_from_base, stamps = OdometryBuffer(), np.arange(600) * PERIOD
    poses = np.tile(np.eye(4), (600, 1, 1))
    for i, pose in enumerate(poses):
        angle = 0.01 * i
        c, s = np.cos(angle), np.sin(angle)
        pose[:2, :2], pose[:2, 3] = [[c, -s], [s, c]], [3.0 * s, 3.0 * (1.0 - c)]
    lead = Lead.at(0)
    for i in range(600):
        odom_from_base.add(int(stamps[i]), poses[i])
        if i % 10 == 0:
            lead = lead.followed(int(stamps[i]), odom_from_base, BASE_FROM_CAMERA, 1.0)
            assert lead is not None
    assert odom_from_base.at(0) is None
    motion = inverse_rigid(poses[0] @ BASE_FROM_CAMERA) @ poses[590] @ BASE_FROM_CAMERA
    np.testing.assert_allclose(lead.last_from_camera, motion, atol=1e-9)
    assert lead.travelled == pytest.approx(0.03 * 590, rel=1e-3)
    assert lead.turned == pytest.approx(5.9) and lead.seconds == pytest.approx(59.0)
    assert lead.turn_sigma > 0.3 and lead.shift_sigma > 0.8


def test_a_jump_of_odometry_ends_what_it_leads_to():
    odom_from_base = OdometryBuffer()
    far = np.eye(4)
    far[0, 3] = 50.0
    for i, pose in enumerate((np.eye(4), np.eye(4), far, far)):
        odom_from_base.add(i * PERIOD, pose)
    assert Lead.at(0).followed(3 * PERIOD, odom_from_base, None, 1.0) is None
    assert Lead.at(2 * PERIOD).followed(3 * PERIOD, odom_from_base, None, 1.0) is not None


def test_an_edge_replaces_those_of_its_kind_between_the_same_two():
    table, here = EdgeTable(), Similarity.identity()
    edges = [Edge(1, 2, here, (1.0, 1.0, 1.0), kind) for kind in (SEQUENCE, LOOP, BRIDGE)] + [
        Edge(2, 3, here, (1.0, 1.0, 1.0), BRIDGE)
    ]
    for edge in edges:
        table.put(edge)
    new = edges[2]._replace(sigma=(2.0, 2.0, 2.0))
    table.replace(new)
    assert list(table.all()) == [edges[0], edges[1], edges[3], new]
    assert list(table.touching(1)) == [edges[0], edges[1], new]
