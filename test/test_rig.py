# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Rigs on the oracle: how well they are located, their metres, and cameras that stand otherwise."""

from functools import cache

import numpy as np
import pytest
from fakes.figures import alignment
from fakes.oracle import Faults
from fakes.rig_ride import LEFT, RIGHT, STEREO, THREE, RigRide, true_mounts
from fakes.room import turn

from vggt_ros.frames import Update
from vggt_ros.geometry import inverse_rigid, rotation_angle
from vggt_ros.mapping.rig.report import RigCamera, RigReport

pytestmark = pytest.mark.slow
DEAD = range(100, 150)  # instants without the left camera: five seconds


@cache
def three() -> RigRide:
    """Once round the room, with /tf; the left camera is dead for a while."""
    return RigRide(THREE, there=lambda name, i: not (name == "left" and i in DEAD))


def report(update: Update) -> RigReport:
    assert update.rig is not None
    return update.rig


def camera(ride: RigRide, name: str) -> RigCamera:
    return next(each for each in report(ride.updates[-1]).cameras if each.name == name)


def metric_rows(ride: RigRide) -> slice:
    return slice(next(i for i, update in enumerate(ride.updates) if update.metric), None)


def test_three_cameras_that_hardly_overlap_are_located_within_one_percent_in_metres():
    """No odometry, and no scale is fitted: the mounts give metres from the third instant on."""
    ride = three()
    assert metric_rows(ride).start <= 3
    rows = metric_rows(ride)
    assert ride.share(rows) < 0.01
    fit = alignment(ride.reference[rows, :3, 3], ride.truth[rows, :3, 3], with_scale=True)
    assert fit.scale == pytest.approx(1.0, abs=0.02)
    assert ride.updates[-1].scale_source == "baseline"


def test_a_camera_that_is_dead_for_five_seconds_costs_no_segment():
    ride = three()
    assert ride.segments == {0}
    assert all(update.registration.accepted for update in ride.updates)
    for i in (DEAD.start, DEAD.stop - 1, DEAD.stop):
        there = [each.name for each in report(ride.updates[i]).cameras if each.present]
        assert there == (["front", "right"] if i in DEAD else ["front", "left", "right"])
    lengths = {len(update.views) for update in ride.updates[4:]}
    assert lengths <= {1, 2, 3, 4, 6, 8, 9, 12}  # what is compiled, and nothing else


def test_every_camera_of_an_instant_stands_on_one_body_and_has_its_own_stamp():
    ride = three()
    for update in ride.updates[60::60]:
        newest = update.newest_views
        assert [view.camera_name for view in newest] == [
            each.name for each in report(update).cameras if each.present
        ]
        assert len({view.stamp_ns for view in newest}) == len(newest)
        assert len({view.keyframe for view in newest}) == 1
        np.testing.assert_allclose(newest[0].world_from_camera, update.world_from_reference)
        mounts = true_mounts(THREE)
        for view in newest[1:]:
            there = inverse_rigid(newest[0].world_from_camera) @ view.world_from_camera
            known = inverse_rigid(mounts["front"]) @ mounts[view.camera_name]
            np.testing.assert_allclose(there, known, atol=0.01)


def test_cameras_that_stand_as_described_are_not_named():
    assert report(three().updates[-1]).fault == ""
    left = camera(three(), "left")
    assert left.turned_degrees < 0.5 and left.aside_degrees < 5 and left.windows == 40


def test_the_reference_is_placed_while_it_is_dead():
    """Its pose is that of the body, by the others; the map goes on without a step."""
    ride = RigRide(
        THREE, "arc", 60, there=lambda name, i: not (name == "front" and 20 <= i < 40)
    )  # fmt: skip
    assert ride.segments == {0}
    assert ride.share(metric_rows(ride)) < 0.01
    assert [view.camera_name for view in ride.updates[30].newest_views] == ["left", "right"]


def test_a_rig_that_begins_without_its_reference_stands_as_with_it():
    ride = RigRide(THREE, "arc", 20, there=lambda name, i: name != "front" or i > 5)
    first = ride.updates[0].world_from_reference
    np.testing.assert_allclose(first[:3, :3], true_mounts(THREE)["front"][:3, :3], atol=0.02)
    assert ride.segments == {0}


def test_two_cameras_beside_each_other_are_as_good_as_a_second_camera_for_scale():
    """0.2 m apart, as the scale source baseline has them: within 3 % from the start."""
    ride = RigRide(STEREO, "arc", 60)
    rows = metric_rows(ride)
    fit = alignment(ride.reference[rows, :3, 3], ride.truth[rows, :3, 3], with_scale=True)
    assert fit.scale == pytest.approx(1.0, abs=0.03) and ride.share(rows) < 0.02


def test_a_place_is_recognised_by_a_camera_that_does_not_lead():
    """Turning to the left, the right camera sees what the front one saw 72 degrees before.

    The front camera itself has not come round yet.
    """
    ride = RigRide(THREE, "spin", 110)
    status = ride.updates[-1].status
    assert status.loops_closed >= 1
    rows = metric_rows(ride)
    reference = ride.reference[rows, :3, 3] - ride.truth[rows, :3, 3]
    assert np.linalg.norm(reference - reference[0], axis=1).max() < 0.02
    alone = RigRide(STEREO, "spin", 110)
    assert alone.updates[-1].status.loops_closed == 0


def test_without_tf_the_rig_is_measured_and_held():
    """In the map's own unit: directions and turns are right, and no metres are claimed."""
    ride = RigRide(THREE, "arc", 60, described={})
    assert not any(update.metric for update in ride.updates)
    assert ride.share(with_scale=True) < 0.01
    mounts = true_mounts(THREE)
    for name in ("left", "right"):
        found = camera(ride, name)
        assert found.held and found.mounted is None and not found.metric
        assert found.estimated is not None
        known = inverse_rigid(mounts["front"]) @ mounts[name]
        turned = rotation_angle(found.estimated[:3, :3].T @ known[:3, :3])
        assert np.rad2deg(turned) < 0.5
        cosine = found.estimated[:3, 3] @ known[:3, 3]
        cosine /= np.linalg.norm(found.estimated[:3, 3]) * np.linalg.norm(known[:3, 3])
        assert cosine > np.cos(np.deg2rad(5))


def test_exchanged_cameras_are_named_and_the_map_holds():
    """Their topics are swapped: both stand where the other should, and are not believed."""
    ride = RigRide(
        {"front": 0, "left": RIGHT, "right": LEFT}, "arc", 40, described=true_mounts(THREE)
    )
    text = report(ride.updates[-1]).fault
    assert "camera left does not stand where /tf has it, seen from front" in text
    assert "turned by 144 degrees (144 to the right" in text
    assert "are the images of left and right exchanged?" in text
    assert ride.segments == {0} and ride.share(with_scale=True) < 0.01


def test_a_camera_that_was_knocked_is_named_with_its_angle():
    described = true_mounts(THREE)
    described["left"] = described["left"].copy()
    # It looks 12 degrees further to its left than /tf says: /tf has it turned to the right.
    described["left"][:3, :3] @= turn(np.array([0.0, np.deg2rad(12.0), 0.0]))
    ride = RigRide(THREE, "arc", 40, described=described)
    found = camera(ride, "left")
    assert found.turned_degrees == pytest.approx(12.0, abs=1.0)
    assert "camera left" in found.fault and "(12 to the left, 0" in found.fault
    assert camera(ride, "right").fault == ""
    rows = metric_rows(ride)
    assert ride.share(rows) < 0.02  # the other two give the metres


def test_broken_windows_name_no_camera():
    ride = RigRide(
        THREE, "arc", 30, Faults(broken={5: "nonsense", 12: "not finite", 13: "nonsense"})
    )
    assert report(ride.updates[-1]).fault == ""
    assert ride.segments == {0}
