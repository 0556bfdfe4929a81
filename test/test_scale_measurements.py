# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Single measurements of scale, and what is made of several."""

import numpy as np
import pytest
from fakes.room import BASE_FROM_CAMERA, CAMERA_HEIGHT, INTRINSICS, drive, true_depth

from vggt_ros.errors import UserError
from vggt_ros.geometry import transform, unproject
from vggt_ros.mapping.metric import scale, scale_sources
from vggt_ros.mapping.metric.odometry import OdometryBuffer, TravelComparison
from vggt_ros.mapping.metric.scale_sources import Unusable
from vggt_ros.settings import Settings

SECOND = 1_000_000_000


def measured(*ratios, source="odometry", sigma=0.02):
    return [
        scale.Measurement(source, float(np.log(r)), sigma, i * SECOND) for i, r in enumerate(ratios)
    ]


def state_of(*measurements, sources="odometry, height"):
    state = scale.ScaleState(scale.parse_sources(sources))
    for each in measurements:
        state = scale.add_measurement(state, each)
    return state


def test_nearly_half_of_the_measurements_may_be_nonsense():
    good, bad = measured(*[2.0] * 11), measured(*[9.0] * 9)
    mixed = [each for pair in zip(good, bad, strict=False) for each in pair] + good[9:]
    assert scale.estimate(state_of(*mixed)).value == pytest.approx(2.0, rel=1e-3)


def test_a_scale_needs_a_few_measurements():
    assert scale.estimate(state_of(*measured(2.0, 2.0))).source == "none"
    assert scale.estimate(state_of(*measured(2.0, 2.0, 2.0))).source == "odometry"


def test_rescaling_keeps_what_was_measured():
    state = scale.moved(state_of(*measured(2.0, 2.0, 2.0)), 2.0)
    assert scale.estimate(state).value == pytest.approx(1.0)
    assert scale.correction(state_of(*measured(2.0, 2.0, 2.0))) == pytest.approx(2.0)
    state = scale.moved(scale.adopted(state_of(*measured(2.0, 2.0, 2.0))), 1.5)
    assert scale.correction(state) == pytest.approx(1.01)


def test_a_source_that_is_no_longer_sure_leaves_the_scale_less_sure():
    state = scale.adopted(state_of(*measured(1.0, 1.0, 1.0)))
    sure = scale.estimate(state)
    for i, ratio in enumerate((0.3, 3.0, 0.2, 4.0, 0.5, 2.5)):
        wild = scale.Measurement("odometry", float(np.log(ratio)), 0.5, (3 + i) * SECOND)
        state = scale.aged(scale.add_measurement(state, wild))
    held = scale.estimate(state)
    assert state.metric and held.source == "odometry" and held.value == 1.0
    assert sure.sigma < scale.MAX_SIGMA <= held.sigma < 1.0
    assert held.conflict == scale.UNSURE and held.stamp_ns == sure.stamp_ns
    assert scale.due(state) is None
    for _ in range(300):
        state = scale.aged(state)
    assert held.sigma < scale.estimate(state).sigma < 1.0


def test_a_scale_that_was_never_taken_up_is_not_held():
    state = scale.aged(state_of(*measured(2.0, 2.0)))
    assert scale.estimate(state) == scale.NO_ESTIMATE and scale.due(state) is None


def test_another_segment_keeps_the_metres_and_takes_up_the_next_measurement_at_once():
    state = scale.widened(scale.adopted(state_of(*measured(1.0, 1.0, 1.0))), 0.3)
    assert state.metric and scale.estimate(state).sigma > 0.3
    assert scale.estimate(state).source == "odometry" and scale.due(state) is None
    assert scale.needs_measurement(state, "odometry")
    again = scale.widened(state, 0.3)
    assert scale.estimate(again).sigma == pytest.approx(np.hypot(scale.estimate(state).sigma, 0.3))
    for each in measured(1.5, 1.5, 1.5):
        state = scale.add_measurement(state, each)
    assert scale.due(state) == scale.Due(pytest.approx(1.5), at_once=True)
    state = scale.adopted(scale.moved(state, 1.5))
    for each in measured(1.2, 1.2, 1.2, 1.2, 1.2, 1.2, 1.2, 1.2):
        state = scale.add_measurement(state, each)
    assert scale.due(state) == scale.Due(pytest.approx(1.01), at_once=False)  # as ever


def test_a_given_scale_is_that_of_the_first_segment_alone():
    given = scale.with_given(scale.ScaleState(("fixed",)), 2.0)
    first = scale.adopted(scale.moved(given, 2.0))
    assert scale.estimate(first).sigma < 0.01
    later = scale.widened(first, 0.3)
    assert later.metric and scale.estimate(later).sigma > 0.3
    assert scale.is_to_keep(first, later) and not scale.is_to_keep(later, first)


def test_of_two_segments_that_become_one_the_older_keeps_its_scale_if_it_was_sure():
    state = scale.ScaleState(("odometry",))
    sure = scale.adopted(state_of(*measured(1.0, 1.0, 1.0)))
    surer = scale.adopted(state_of(*measured(*[1.0] * 20)))
    assert scale.is_to_keep(sure, surer) and scale.is_to_keep(surer, sure)
    assert not scale.is_to_keep(state, sure) and not scale.is_to_keep(state, state)


def test_odometry_that_stands_still_while_the_camera_moves_measures_nothing_and_is_said():
    """As that of a driver which fills in the velocity alone, and the pose later."""
    odometry, travel, found = OdometryBuffer(), TravelComparison(), []
    for i in range(30):
        base, camera = np.eye(4), np.eye(4)
        camera[2, 3] = 0.2 * i  # units; the scene is 2 units deep
        base[2, 3] = 0.4 * max(i - 15, 0)  # metres
        odometry.add(SECOND + i * SECOND // 10, base)
        ns = SECOND + i * SECOND // 10
        found.append(travel.measure(odometry, np.eye(4), ns, camera, 2.0))
    reasons = {type(each) for each in found[:6]}, {type(each) for each in found[6:16]}
    assert reasons == ({type(None)}, {Unusable})
    words = "it stands still (0.000 m) while the camera moved by 60% of the depth"
    assert isinstance(found[6], Unusable) and words in found[6].reason
    ratios = [np.exp(each.log_ratio) for each in found if isinstance(each, scale.Measurement)]
    assert ratios, "it measures again"
    np.testing.assert_allclose(ratios, 2.0)


def test_the_ground_is_found_below_clutter():
    pose = (drive("room") @ BASE_FROM_CAMERA)[20]
    points = transform(pose, unproject(true_depth(pose), INTRINSICS)).reshape(-1, 3) / 2.0
    found = scale_sources.from_height(points, pose[:3, 3] / 2.0, CAMERA_HEIGHT, 1)
    assert np.exp(found.log_ratio) == pytest.approx(2.0, rel=0.02)


def test_no_ground_no_measurement():
    wall = np.stack([np.full(500, 2.0), *np.random.default_rng(0).uniform(-1, 1, (2, 500))], 1)
    found = scale_sources.from_height(wall, np.zeros(3), 0.5, 1)
    assert isinstance(found, scale_sources.Unusable) and "25% are needed" in found.reason


def test_depths_of_different_scenes_measure_nothing():
    random = np.random.default_rng(0)
    a, b = random.uniform(0.3, 9.0, (2, 40, 50))
    found = scale_sources.from_depth(a, b, 1)
    assert isinstance(found, scale_sources.Unusable) and "50% are needed" in found.reason
    few = scale_sources.from_depth(a, np.where(np.arange(50) < 2, b, np.nan), 1)
    assert isinstance(few, scale_sources.Unusable) and few.reason.startswith("80 of 2000 pixels")


def test_points_of_a_lidar_become_depth_of_the_nearest():
    points = np.array([[0.0, 0, 2], [0.0, 0, 3], [0, 0, -1], [np.nan, 0, 1], [1.0, 0, 2]])
    depth = scale_sources.sparse_depth(points, INTRINSICS, 56, 84)
    assert depth[28, 42] == 2.0 and depth[28, 72] == 2.0
    assert np.isfinite(depth).sum() == 2


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"scale_source": "gps"}, "scale source 'gps' is not known"),
        ({"scale_source": "height"}, "needs camera_height"),
        ({"scale_source": "fixed"}, "needs fixed_scale"),
    ],
)
def test_a_wrong_source_is_refused_by_name(settings, words):
    with pytest.raises(UserError, match=words):
        Settings(**settings)
