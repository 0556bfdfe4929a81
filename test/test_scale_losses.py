# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What is left of the metres while the map, or what measures them, is lost; and afterwards."""

from itertools import pairwise

import numpy as np
import pytest
from fakes.figures import absolute_error, odometry, path_length
from fakes.oracle import Faults
from fakes.room import BASE_FROM_CAMERA, CAMERA_HEIGHT, drive, true_depth
from map_rig import PERIOD, SECOND, Ride, cameras, grown_between

from vggt_ros.mapping.metric.odometry import OdometryBuffer
from vggt_ros.mapping.metric.scale import MAX_SIGMA, MAX_STEP, UNSURE


def stamp(i: int) -> int:
    return SECOND + i * PERIOD


def lose(*rows):
    """Faults whose windows are nonsense for a while."""
    return Faults(broken=dict.fromkeys(range(*rows), "nonsense"))


@pytest.mark.parametrize("goes_on", [False, True])
def test_metres_survive_a_loss_until_they_are_measured_again(goes_on):
    """The wheels go on, and tie what is mapped afterwards; or they fail: a segment of its own."""
    truth, wheels = cameras("room", 110), odometry(drive("room", 110))
    odom_from_base = OdometryBuffer()

    def observe(seen, i):
        if goes_on or not 40 <= i < 75:
            odom_from_base.add(stamp(i), wheels[i])
        return seen._replace(odom_from_base=odom_from_base, base_from_camera=BASE_FROM_CAMERA)

    ridden = Ride(truth, lose(40, 55), observe=observe, scale_source="odometry", loops=False)
    updates, new = ridden.updates, ridden.refused[-1] + 1
    assert ridden.segments[39] == 0 and set(ridden.segments[new:]) == {0 if goes_on else 1}
    assert all(update.metric for update in updates[35:])
    held = updates[new].scale
    assert held.source == "odometry" and held.conflict == UNSURE
    assert 1.0 > held.sigma > 0.2 > updates[39].scale.sigma
    assert held.stamp_ns == updates[39].scale.stamp_ns  # its age is told
    sure = next(i for i in range(new, 110) if updates[i].scale.sigma < MAX_SIGMA)
    assert goes_on or sure > 75
    np.testing.assert_allclose(ridden.units[sure:], 1.0, atol=0.06)
    np.testing.assert_allclose(ridden.units[new:sure], 1.0, atol=0.3)
    error = absolute_error(ridden.centres[sure:], truth[sure:, :3, 3], with_scale=False)
    assert error <= 0.03 * path_length(truth[sure:, :3, 3])


def test_a_segment_of_another_unit_is_corrected_at_once_and_alone():
    """What is seen after the loss is deeper than before, so its unit is guessed wrongly."""

    def lidar(seen, i):
        return seen._replace(sensor_depth=true_depth(truth[i]).astype(np.float32))

    truth = cameras("spin", 90)
    ridden = Ride(truth, lose(40, 60), observe=lidar, scale_source="depth", loops=False)
    updates, new = ridden.updates, ridden.refused[-1] + 1
    assert set(ridden.segments[new:]) == {1} and all(update.metric for update in updates[3:])
    wrong = ridden.updates[new].registration.world_from_window.scale * ridden.engine.scales[new]
    sure = next(i for i in range(new, 90) if updates[i].scale.sigma < MAX_SIGMA)
    assert sure == new + 2 and abs(wrong - 1.0) > 0.05
    grown = grown_between(updates[sure - 1], updates[sure])
    before = updates[sure - 1].keyframes
    assert set(grown) == set(before.ids[before.segments == 1])
    np.testing.assert_allclose(list(grown.values()), 1.0 / wrong, rtol=0.03)
    np.testing.assert_allclose(ridden.units[new:], 1.0, atol=0.03)
    after = [grown_between(*pair) for pair in pairwise(updates[sure:])]
    changes = np.array([factor for each in after for factor in each.values()])
    assert np.abs(changes - 1.0).max() < 1.001 * MAX_STEP


@pytest.mark.parametrize("heard", [(0, 30), (60, 200)])
def test_a_segment_found_again_and_what_is_known_of_either_make_one_scale(heard):
    """Metres are measured before a loss, or only afterwards; then the camera comes round again."""
    truth = cameras("spin", 210)

    def lidar(seen, i):
        if not heard[0] <= i < heard[1]:
            return seen
        return seen._replace(sensor_depth=true_depth(truth[i]).astype(np.float32))

    ridden = Ride(truth, lose(30, 45), observe=lidar, scale_source="depth")
    joined = next(i for i, update in enumerate(ridden.updates) if update.status.loops_closed > 0)
    assert joined > 100 and set(ridden.segments[100:joined]) == {1}
    assert ridden.updates[joined - 1].metric and ridden.segments[joined] == 0
    assert all(update.metric for update in ridden.updates[joined:])
    assert ridden.updates[joined].scale.sigma < 0.02
    assert heard[0] > 0 or ridden.updates[joined - 1].scale.sigma > 0.2
    np.testing.assert_allclose(np.delete(ridden.units, range(30, 50)), 1.0, atol=0.05)


KINDS = ("nonsense", "other scene", "newest camera thrown", "not finite")


@pytest.mark.parametrize("seed", range(6))
def test_covariances_are_of_use_whatever_comes_and_goes(seed):
    """Wheels, another depth, a height and the images fail, lie and return as they like."""
    frames = 70
    random = np.random.default_rng(seed)
    on = np.repeat(random.random((10, 3)) < 0.6, 7, axis=0)
    lies = np.exp(np.repeat(random.choice([0.0, 0.0, 1.0], (10, 2)), 7, axis=0))
    broken = {i: str(random.choice(KINDS)) for i in np.flatnonzero(random.random(frames) < 0.15)}
    first = int(random.integers(0, frames - 12))
    broken |= dict.fromkeys(range(first, first + 9), "nonsense")
    truth, wheels = cameras("room", frames), odometry(drive("room", frames), distance=0.2)
    wheels[:, :3, 3] *= lies[:, :1]
    odom_from_base = OdometryBuffer()

    def observe(seen, i):
        if on[i, 0]:
            odom_from_base.add(stamp(i), wheels[i])
        if on[i, 1]:
            noise = np.exp(lies[i, 1] * random.standard_normal() * 0.2)
            seen = seen._replace(sensor_depth=(noise * true_depth(truth[i])).astype(np.float32))
        return seen._replace(odom_from_base=odom_from_base, base_from_camera=BASE_FROM_CAMERA)

    sources = ", ".join(random.permutation(["odometry", "depth", "height"]))
    settings = {"scale_source": sources, "camera_height": CAMERA_HEIGHT}
    ridden = Ride(truth, Faults(broken=broken), observe=observe, **settings)
    was_metric = False
    for update in ridden.updates:
        assert np.isfinite(update.views[-1].world_from_camera).all()
        known = [update.covariance]
        if update.velocity is not None:
            known.append(update.velocity.covariance)
        for covariance in known:
            assert np.isfinite(covariance).all()
            rounding = 1e-12 * np.abs(covariance).max()
            np.testing.assert_allclose(covariance, covariance.T, atol=rounding)
            assert np.linalg.eigvalsh(covariance)[0] > 0
        assert update.metric >= was_metric  # once metres, always metres: as sure as they are
        assert update.metric == (update.scale.source != "none")
        assert update.metric == bool(np.isfinite(update.scale.sigma))
        was_metric = update.metric
    assert was_metric
