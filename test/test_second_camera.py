# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Metric scale by a second camera: without motion, now and then, and without a trace."""

from typing import Any

import numpy as np
import pytest
from fakes.figures import absolute_error, path_length
from fakes.oracle import NONE, Faults, Oracle
from fakes.room import BASE_FROM_CAMERA, CAMERA_FROM_RIGHT, drive, numbered_image, true_depth, turn
from map_rig import Path

from vggt_ros.errors import UserError
from vggt_ros.frames import ExtraView, Frame, Observation
from vggt_ros.geometry import inverse_rigid
from vggt_ros.mapping.metric import scale, scale_sources
from vggt_ros.mapping.metric.baseline import MAX_FAILURES, PERIOD_NS
from vggt_ros.pipeline import Pipeline
from vggt_ros.settings import Settings

SECOND = 1_000_000_000


class Ride:
    """A drive with a stereo rig; `right` makes the second image of each frame that needs one."""

    def __init__(self, kind, frames, faults=None, right=None, queries=(), **settings):
        self.truth = drive(kind, frames) @ BASE_FROM_CAMERA
        self.oracle = Oracle(self.truth, faults)
        self.pipeline = Pipeline(self.oracle, Settings(**{"scale_source": "baseline"} | settings))
        self.updates, self.needed, self.inferred, self.path = [], [], [], Path()
        for i in range(frames):
            ns = SECOND + i * SECOND // 10
            extra = None
            if self.pipeline.needs(ns).extra_view:
                self.needed.append(i)
                extra = (right or self.pair)(i, ns)
            if i in queries:
                self.pipeline.query(np.array([7], np.uint32), np.array([[20.0, 20.0]]))
            update = self.pipeline.step(Observation(Frame(numbered_image(i), ns), extra_view=extra))
            if update is None:
                continue
            self.path.add(update, self.oracle.scales[-1])
            self.updates.append(update)
            self.inferred.append(i)

    @staticmethod
    def pair(i, ns):
        return ExtraView(numbered_image(i, camera=1), ns, CAMERA_FROM_RIGHT)

    @property
    def centres(self) -> np.ndarray:
        return np.stack([placed.world_from_camera[:3, 3] for placed in self.path.placed])

    @property
    def unit(self) -> float:
        """Map units per metre, by the depth of the newest view."""
        return float(np.median(self.updates[-1].views[-1].depth / true_depth(self.truth[-1])))

    def extra_views(self) -> list[int]:
        return [seen for window in self.oracle.inferences for seen, camera in window if camera == 1]


@pytest.mark.parametrize(
    "kind, settings",
    [
        ("stand", {}),
        ("spin", {}),
        ("arc", {"window_size": 2}),
        ("room", {"stride": 2}),
        ("room", {"window_size": 3, "stride": 2}),
        ("room", {"window_size": 6}),
    ],
)
def test_a_stereo_rig_gives_metres(kind, settings):
    ride = Ride(kind, 60, **settings)
    metric = [update.metric for update in ride.updates]
    assert metric.index(True) <= 5 and all(metric[metric.index(True) :])
    assert ride.updates[-1].scale_source == "baseline" and ride.updates[-1].scale.sigma < 0.03
    assert ride.unit == pytest.approx(1.0, abs=0.03)
    assert (
        not any(update.registration.reason for update in ride.updates) and not ride.pipeline.notices
    )
    if kind in ("arc", "room"):
        truth = ride.truth[ride.inferred][:, :3, 3]
        error = absolute_error(ride.centres, truth, with_scale=False)
        assert error <= 0.02 * path_length(truth)


@pytest.mark.slow
def test_the_second_camera_is_asked_until_the_scale_is_sure_and_then_every_five_seconds():
    ride = Ride("room", 200)
    first = next(i for i, needed in enumerate(ride.needed) if needed != i)
    assert 3 <= first < 30  # every inference, until three percent are reached
    assert np.diff(ride.needed[first:]).min() >= PERIOD_NS * 10 // SECOND
    assert ride.extra_views() == ride.needed
    assert max(len(window) for window in ride.oracle.inferences) == 5


def test_another_map_asks_again_at_once():
    ride = Ride("room", 60)
    ns = SECOND + 60 * SECOND // 10
    assert not ride.pipeline.needs(ns).extra_view
    ride.pipeline.reset()
    assert ride.pipeline.needs(ns).extra_view


def test_an_inference_that_is_not_due_needs_no_extra_view():
    ride = Ride("room", 21, stride=2)
    assert set(ride.needed) <= set(ride.inferred)


def test_the_extra_view_leaves_no_trace():
    """All results are as if it had not been there, but for the unit.

    Which pixels count is random here, and so are keyframes that are nearly two degrees apart.
    """
    asked: dict[str, Any] = {"queries": (5, 25), "keyframes": False}
    with_extra = Ride("room", 40, NONE, **asked)
    alone = Ride("room", 40, NONE, **asked, scale_source="none")
    assert with_extra.extra_views() and not alone.extra_views() and not alone.needed
    for one, other in zip(with_extra.updates, alone.updates, strict=True):
        assert [view.frame_id for view in one.views] == [view.frame_id for view in other.views]
        assert [view.stamp_ns for view in one.views] == [view.stamp_ns for view in other.views]
        assert one.fresh == other.fresh and one.window_id == other.window_id
        for view, same in zip(one.views, other.views, strict=True):
            np.testing.assert_array_equal(view.rgb, same.rgb)
            assert (view.depth is None) == (same.depth is None)
            if view.depth is not None:
                np.testing.assert_allclose(
                    view.depth / view.depth[0, 0], same.depth / same.depth[0, 0], rtol=1e-5
                )
        assert (one.tracks is None) == (other.tracks is None)
        if one.tracks is not None:
            assert one.tracks.stamps_ns == other.tracks.stamps_ns
            np.testing.assert_allclose(one.tracks.uv, other.tracks.uv, atol=1e-4)
    np.testing.assert_allclose(
        with_extra.centres, alone.centres, atol=1e-4
    )  # without faults the first unit is the metre


def test_depth_of_the_newest_frames_is_still_theirs():
    ride = Ride("arc", 12, NONE)
    views = ride.updates[-1].views
    for view in views[-2:]:
        i = (view.stamp_ns - SECOND) * 10 // SECOND
        np.testing.assert_allclose(view.depth, true_depth(ride.truth[i]), rtol=2e-3)


def late(i, ns):
    return ExtraView(numbered_image(i, camera=1), ns + 6_000_000, CAMERA_FROM_RIGHT)


def exchanged(i, ns):
    return ExtraView(numbered_image(i, camera=1), ns, inverse_rigid(CAMERA_FROM_RIGHT))


def of_another_time(i, ns):
    return ExtraView(numbered_image(max(i - 25, 0), camera=1), ns, CAMERA_FROM_RIGHT)


def of_another_shape(i, ns):
    return ExtraView(numbered_image(i, camera=1)[:40], ns, CAMERA_FROM_RIGHT)


def of_no_size(i, ns):
    return ExtraView(np.zeros((1, 4000, 3), np.uint8), ns, CAMERA_FROM_RIGHT)


def too_close(i, ns):
    return ExtraView(numbered_image(i), ns, CAMERA_FROM_RIGHT)


@pytest.mark.parametrize(
    "right, words",
    [
        (late, r"taken \+6.0 ms from the first"),
        (exchanged, "are left and right exchanged"),
        (of_another_time, "the images and /tf disagree"),
        (of_another_shape, "84x40, of another shape"),
        (of_no_size, "the second image cannot be used"),
        (too_close, "too close together"),
    ],
)
def test_a_wrong_pair_is_named_and_measures_nothing(right, words):
    ride = Ride("arc", 60, right=lambda i, ns: right(i, ns) if i > 25 else None)
    assert not ride.updates[-1].metric and ride.updates[-1].scale_source == "none"
    for notice in ride.pipeline.notices:
        with pytest.raises(UserError, match=words):
            raise UserError(notice)
    assert (
        len(ride.pipeline.notices) <= MAX_FAILURES + 1
    )  # ten failures, and then every five seconds


def test_wrong_pairs_between_right_ones_do_not_move_the_scale():
    def sometimes(i, ns):
        return Ride.pair(i, ns) if i % 3 else exchanged(i, ns)

    ride = Ride("arc", 60, right=sometimes)
    assert ride.unit == pytest.approx(1.0, abs=0.03)


def test_a_broken_window_measures_nothing():
    ride = Ride("arc", 40, Faults(broken={1: "nonsense", 2: "nonsense", 3: "not finite"}))
    assert ride.unit == pytest.approx(1.0, abs=0.03)


def test_a_rig_and_wheels_that_disagree_are_named():
    state = scale.ScaleState(scale.parse_sources("baseline, odometry"))
    for source, ratio in (("baseline", 2.0), ("odometry", 2.6)):
        for i in range(12):
            each = scale.Measurement(source, float(np.log(ratio)), 0.02, i * SECOND)
            state = scale.add_measurement(state, each)
    found = scale.estimate(state)
    assert found.source == "baseline" and found.value == pytest.approx(2.0)
    assert "odometry gives +30%" in found.conflict


@pytest.mark.parametrize("settings", [{"window_size": 1}, {"window_size": 3, "stride": 3}])
def test_windows_that_share_no_frame_are_refused(settings):
    with pytest.raises(UserError, match="needs window_size >= 2"):
        Settings(scale_source="baseline", **settings)


def test_noise_across_the_baseline_makes_it_no_longer():
    random, known = np.random.default_rng(0), CAMERA_FROM_RIGHT[None, :3, 3]
    ratios = []
    for _ in range(400):
        seen = CAMERA_FROM_RIGHT.copy()
        seen[:3, 3] = seen[:3, 3] / 3.0 + 0.012 * random.standard_normal(3)
        found = scale_sources.from_baselines(seen[None, :3, 3], known, scene_depth=1.0, stamp_ns=1)
        assert isinstance(found, scale.Measurement)
        ratios.append(found.log_ratio)
    assert np.exp(np.median(ratios)) == pytest.approx(3.0, rel=0.03)
    near = scale_sources.from_baselines(known, known, 100.0, 1)
    assert isinstance(near, scale_sources.Unusable) and "0.2% of the scene's depth" in near.reason
    away = known @ turn(np.array([0, 0, np.pi])).T
    assert isinstance(scale_sources.from_baselines(away, known, 1.0, 1), scale_sources.Unusable)


class Short(Oracle):
    """A network whose inferences have so many frames at most, and leave the oldest out."""

    most = 4

    def infer(self, frame_ids, images, *, depth_frames, queries=None, query_frame=0, views=0):
        cut = max(len(frame_ids) - self.most, 0)
        return super().infer(
            frame_ids[cut:],
            images[cut:],
            depth_frames=min(depth_frames, self.most),
            queries=queries if query_frame >= cut else None,
            query_frame=max(query_frame - cut, 0),
        )


@pytest.mark.parametrize("most, asked", [(1, []), (2, []), (3, []), (4, [53, 103])])
def test_without_room_for_an_extra_view_one_is_rarely_or_never_needed(most, asked, monkeypatch):
    monkeypatch.setattr(Short, "most", most)
    monkeypatch.setitem(globals(), "Oracle", Short)
    ride = Ride("arc", 120)
    assert [i for i in ride.needed if i >= 4] == asked
    for i, update in enumerate(ride.updates[4:], 4):
        seen = len(update.views)
        assert seen == (3 if i in asked else most) and update.missing == 4 - seen
        assert update.views[-1].stamp_ns == SECOND + i * SECOND // 10
        assert update.views[-1].depth is not None
    if most > 1:
        assert {update.registration.segment for update in ride.updates} == {0}
        assert all(update.registration.accepted for update in ride.updates)
