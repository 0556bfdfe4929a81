# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Scale from depth and odometry whose messages come after their image, or after its window."""

import numpy as np
import pytest
from fakes.figures import odometry
from fakes.oracle import Faults
from fakes.room import BASE_FROM_CAMERA, drive, true_depth
from map_rig import PERIOD, SECOND, Ride, cameras

from vggt_ros.mapping.metric.comparisons import KEPT_NS
from vggt_ros.mapping.metric.measuring import VAIN
from vggt_ros.mapping.metric.odometry import OdometryBuffer


def stamp(i: int) -> int:
    return SECOND + i * PERIOD


class LateDepth:
    """A perfect depth camera whose messages come some frames after their image."""

    def __init__(self, truth, late: int, factor=1.0):
        self.truth, self.late, self.factor = truth, late, factor
        self.now = 0  # newest frame of the camera
        self.given: list[int] = []

    def depth_at(self, frame, grid):
        i = (frame.stamp_ns - SECOND) // PERIOD
        if i + self.late > self.now:
            return None
        self.given.append(i)
        assert true_depth(self.truth[i]).shape == (grid.input_height, grid.input_width)
        return (self.factor * true_depth(self.truth[i])).astype(np.float32)


def ride_with_depth(kind: str, frames: int, late: int, faults=None, **settings):
    truth = cameras(kind, frames)
    source = LateDepth(truth, late)

    def observe(seen, i):
        source.now = i
        return seen._replace(depth_source=source)

    settings = {"scale_source": "depth", "loops": False, **settings}
    return Ride(truth, faults, observe=observe, **settings), source


@pytest.mark.parametrize("late", [0, 1, 2, 8, 20])
@pytest.mark.parametrize(
    "kind, settings",
    [
        ("arc", {}),
        ("stand", {}),  # at rest each frame leaves the window with the next one
        ("arc", {"window_size": 2}),
    ],
)
def test_late_depth_makes_metres_each_message_once(kind, settings, late):
    ridden, source = ride_with_depth(kind, 40, late, **settings)
    first = next(i for i, update in enumerate(ridden.updates) if update.metric)
    assert first == late + 2  # three measurements
    assert source.given == list(range(40 - late))
    assert ridden.updates[-1].scale.stamp_ns == stamp(39 - late)
    np.testing.assert_allclose(ridden.units[first:], 1.0, atol=0.05)


def test_depth_that_is_later_than_frames_are_kept_measures_nothing():
    late = KEPT_NS // PERIOD + 1
    ridden, source = ride_with_depth("arc", 40, late)
    assert not ridden.updates[-1].metric and source.given == []


def test_late_depth_of_an_older_segment_is_not_that_of_the_next():
    """Its unit is another: only frames of the new segment measure it."""
    broken = Faults(broken=dict.fromkeys(range(20, 30), "nonsense"))
    ridden, source = ride_with_depth("spin", 60, 12, broken)
    new = ridden.refused[-1] + 1
    assert set(ridden.segments[new:]) == {1}
    assert not set(source.given) & set(ridden.refused)
    given = [i for i in source.given if i >= new]
    assert given and np.array_equal(ridden.segments[given], np.ones(len(given)))
    np.testing.assert_allclose(ridden.units[-10:], 1.0, atol=0.05)


def test_depth_of_another_scene_is_a_fault_with_figures():
    truth = cameras("arc", 60)

    class Elsewhere(LateDepth):
        def depth_at(self, frame, grid):
            found = super().depth_at(frame, grid)
            return None if found is None else found * np.exp(noise).astype(np.float32)

    noise = np.random.default_rng(0).normal(0.0, 1.0, true_depth(truth[0]).shape)
    source = Elsewhere(truth, 0)

    def observe(seen, i):
        source.now = i
        return seen._replace(depth_source=source)

    ridden = Ride(truth, observe=observe, scale_source="depth", loops=False)
    fault = ridden.pipeline.outcomes.fault("depth")
    assert not ridden.updates[-1].metric
    assert fault.startswith("scale_source depth: the last 60 comparisons measured nothing: sensor")
    assert "of the pixels, 50% are needed" in fault
    assert ridden.pipeline.outcomes.fault("odometry") == "" and VAIN < 60


def ride_with_odometry(frames: int, late: int, every: int = 1, **settings):
    """Odometry whose messages come `late` frames after their stamp, at each n-th frame's middle."""
    wheels = odometry(drive("arc", frames))
    odom_from_base = OdometryBuffer()

    def observe(seen, i):
        j = i - late
        if j > 0 and j % every == 0:
            odom_from_base.add(stamp(j), wheels[j])
        return seen._replace(odom_from_base=odom_from_base, base_from_camera=BASE_FROM_CAMERA)

    settings = {"scale_source": "odometry", "loops": False, **settings}
    return Ride(cameras("arc", frames), observe=observe, **settings)


@pytest.mark.parametrize("late, every", [(1, 1), (5, 1), (15, 1), (0, 10), (1, 10)])
def test_late_and_slow_odometry_make_metres(late, every):
    ridden = ride_with_odometry(100, late, every)
    first = next(i for i, update in enumerate(ridden.updates) if update.metric)
    assert first < 70 and ridden.updates[-1].scale_source == "odometry"
    np.testing.assert_allclose(ridden.units[first + 10 :], 1.0, atol=0.06)
