# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Where a rig's cameras stand: means of many measurements, one body, who contradicts /tf."""

import numpy as np
import pytest
from fakes.rig_ride import THREE, true_mounts
from fakes.room import HEIGHT, INTRINSICS, WIDTH, turn

from vggt_ros.geometry import inverse_rigid, rotation_angle
from vggt_ros.mapping.registration import robust_mean
from vggt_ros.mapping.rig.body import body, held_together
from vggt_ros.mapping.rig.relative import between, mean_pose, relative_poses
from vggt_ros.mapping.rig.rig import HELD, SURE, Rig
from vggt_ros.mapping.window import WindowGeometry

NAMES = tuple(THREE)
MOUNTS = true_mounts(THREE)


def moved(pose: np.ndarray, degrees: float, shift: float, random: np.random.Generator):
    """A pose with noise of so many degrees and metres, rms."""
    off = pose.copy()
    off[:3, :3] = off[:3, :3] @ turn(np.deg2rad(degrees) / np.sqrt(3) * random.standard_normal(3))
    off[:3, 3] += shift / np.sqrt(3) * random.standard_normal(3)
    return off


def window(seen: dict[str, np.ndarray], first: int = 0, unit: float = 1.0) -> WindowGeometry:
    """Two instants of cameras that stand so on the body, which moves by a metre."""
    poses, ids, instants, cameras = [], [], [], []
    for step in range(2):
        body_moved = np.eye(4)
        body_moved[0, 3] = step
        for name, mount in seen.items():
            instants.append(first + step * len(seen))
            ids.append(first + len(ids))
            cameras.append(name)
            poses.append(body_moved @ mount)
    stacked = np.stack(poses)
    stacked = inverse_rigid(stacked[0]) @ stacked
    stacked[:, :3, 3] *= unit
    k = np.tile(INTRINSICS, (len(ids), 1, 1))
    depth = np.full((len(ids), HEIGHT, WIDTH), 3.0 * unit)
    return WindowGeometry(
        tuple(ids), stacked, k, depth, np.ones_like(depth), tuple(instants), tuple(cameras)
    )


def learnt(
    seen: dict[str, np.ndarray], described: dict[str, np.ndarray], windows: int, noise: float = 0.5
) -> Rig:
    rig, random = Rig(NAMES), np.random.default_rng(0)
    rig.describe(described, {name: f"{name}_optical" for name in NAMES})
    for i in range(windows):
        now = {name: moved(pose, noise, 0.01, random) for name, pose in seen.items()}
        rig.hold(window(now, 10 * i), 1.0, None, 3.0)
        rig.keep()
    return rig


def turned(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.rad2deg(rotation_angle(one[:3, :3].T @ other[:3, :3])))


def test_a_third_of_the_measurements_may_be_anything():
    random = np.random.default_rng(1)
    truth = between(MOUNTS, "front", "left")
    poses = [moved(truth, 1.0, 0.02, random) for _ in range(20)]
    poses += [moved(truth, 90.0, 3.0, random) for _ in range(10)]
    found = mean_pose(poses)
    assert turned(found, truth) < 0.8
    np.testing.assert_allclose(found[:3, 3], truth[:3, 3], atol=0.015)
    np.testing.assert_allclose(mean_pose([truth]), truth, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 4, 7, 41])
def test_the_centre_is_the_robust_mean_of_each_axis(count: int):
    """To the last bit: maps of rigs repeat."""
    random = np.random.default_rng(count)
    poses = [moved(np.eye(4), 5.0, 10.0 ** random.integers(-3, 2), random) for _ in range(count)]
    one_by_one = [robust_mean(np.stack(poses)[:, axis, 3])[0] for axis in range(3)]
    np.testing.assert_array_equal(mean_pose(poses)[:3, 3], one_by_one)


def test_a_body_is_placed_by_all_of_its_cameras():
    """Better than by one of them, exactly by exact ones, and one that is off counts little."""
    random = np.random.default_rng(2)
    pose = moved(np.eye(4), 60.0, 2.0, random)
    mounted = np.stack([MOUNTS[name] for name in NAMES])
    certain = np.ones(3)
    np.testing.assert_allclose(
        body(pose @ mounted, mounted, certain, certain, 3.0), pose, atol=1e-9
    )
    errors = {"body": [], "one": []}
    for _ in range(200):
        cameras = np.stack([moved(each, 1.0, 0.02, random) for each in pose @ mounted])
        errors["body"].append(turned(body(cameras, mounted, certain, certain, 3.0), pose))
        errors["one"].append(turned(cameras[0], (pose @ mounted)[0]))
    assert np.mean(errors["body"]) < 0.75 * np.mean(errors["one"])
    cameras = pose @ mounted
    cameras[1, :3, :3] = cameras[1, :3, :3] @ turn(np.array([0.0, 0.5, 0.0]))
    assert turned(body(cameras, mounted, certain, certain, 3.0), pose) < 3.0


def test_cameras_of_an_instant_are_held_together_in_the_windows_own_unit():
    random = np.random.default_rng(3)
    off = window({name: moved(pose, 1.0, 0.02, random) for name, pose in MOUNTS.items()}, unit=0.4)
    mounts = {name: between(MOUNTS, "front", name) for name in NAMES}
    small = {name: pose.copy() for name, pose in mounts.items()}
    for pose in small.values():
        pose[:3, 3] *= 0.4
    held = held_together(off, small, dict.fromkeys(NAMES, 1.0), 1.2)
    for poses in relative_poses(held):
        for pair, pose in poses.items():
            np.testing.assert_allclose(pose, between(small, *pair), atol=1e-9)
    alone = held_together(off, {"front": np.eye(4)}, {"front": 1.0}, 1.2)
    np.testing.assert_array_equal(alone.window_from_camera, off.window_from_camera)


def test_described_cameras_give_metres_and_stand_as_described():
    rig = learnt(MOUNTS, MOUNTS, 10)
    mounts = rig.mounts(2.0)  # two metres per world unit
    for name in NAMES:
        known = between(MOUNTS, "front", name)
        np.testing.assert_allclose(mounts[name][:3, 3], known[:3, 3] / 2.0)
        np.testing.assert_allclose(rig.reference_from(name, 1.0), known)
    pairs = rig.pairs(window(MOUNTS))
    assert len(pairs) == 6 and sum(pair.weight**2 for pair in pairs) == pytest.approx(2.0)
    for pair in pairs:
        np.testing.assert_allclose(pair.estimated, pair.mounted, atol=1e-9)


def test_the_odd_one_of_three_is_named_even_if_it_is_the_reference():
    seen = {**MOUNTS, "front": MOUNTS["front"].copy()}
    seen["front"][:3, :3] = seen["front"][:3, :3] @ turn(np.array([np.deg2rad(20.0), 0.0, 0.0]))
    rig = learnt(seen, MOUNTS, SURE)
    found = rig.report(NAMES, 1.0)
    assert [bool(each.fault) for each in found.cameras] == [True, False, False]
    assert "camera front does not stand where /tf has it, seen from left" in found.fault
    assert "turned by 20 degrees (0 to the" in found.fault and "20 up" in found.fault
    assert not rig.pairs(window(MOUNTS))[0].mounted[0, 3] == 0.0
    assert {name for name in rig.mounts(1.0)} == set(NAMES)


def test_nothing_is_said_before_a_few_windows_have_been_seen():
    seen = {**MOUNTS, "left": MOUNTS["right"], "right": MOUNTS["left"]}
    assert learnt(seen, MOUNTS, SURE - 1).report(NAMES, 1.0).fault == ""
    assert "exchanged" in learnt(seen, MOUNTS, SURE).report(NAMES, 1.0).fault


def test_without_a_description_places_are_held_and_a_camera_that_is_knocked_is_named():
    rig = learnt(MOUNTS, {}, HELD - 1)
    assert not any(each.held for each in rig.report(NAMES, None).cameras)
    rig = learnt(MOUNTS, {}, HELD)
    before = rig.mounts(None)["left"]
    knocked = {**MOUNTS, "left": MOUNTS["left"].copy()}
    knocked["left"][:3, :3] = knocked["left"][:3, :3] @ turn(np.array([0.0, 0.0, 0.3]))
    for i in range(HELD + 5):
        rig.hold(window(knocked, 1000 + 10 * i), 1.0, None, 3.0)
        rig.keep()
    np.testing.assert_array_equal(rig.mounts(None)["left"][:3, :3], before[:3, :3])
    np.testing.assert_allclose(rig.mounts(None)["left"], before, atol=0.01)
    before = rig.mounts(None)["left"]
    found = rig.report(NAMES, None)
    assert "camera left does not stand where it stood" in found.fault
    assert "17 clockwise" in found.fault and "is it loose?" in found.fault
    rig.move(2.0)
    np.testing.assert_allclose(rig.mounts(None)["left"][:3, 3], 2.0 * before[:3, 3])


def test_measurements_grow_with_the_world_and_stay_as_many():
    rig = learnt(MOUNTS, {}, SURE)
    before = rig.report(NAMES, None).cameras[1]
    rig.move(3.0)
    after = rig.report(NAMES, None).cameras[1]
    assert before.windows == after.windows == SURE
    assert before.estimated is not None and after.estimated is not None
    np.testing.assert_allclose(after.estimated[:3, 3], 3.0 * before.estimated[:3, 3])
    np.testing.assert_allclose(after.estimated[:3, :3], before.estimated[:3, :3])


def test_a_refused_window_teaches_nothing():
    rig = learnt(MOUNTS, {}, 3)
    before = rig.mounts(None)
    nonsense = {
        name: moved(pose, 90.0, 2.0, np.random.default_rng(4)) for name, pose in MOUNTS.items()
    }
    rig.hold(window(nonsense, 500), 1.0, None, 3.0)
    rig.drop()
    for name in NAMES:
        np.testing.assert_allclose(rig.mounts(None)[name], before[name])


def anywhere(windows: int, described: dict[str, np.ndarray]) -> Rig:
    """The left camera shares no view with the others: the network puts it anywhere, each time."""
    rig, random = Rig(NAMES), np.random.default_rng(5)
    rig.describe(described, {})
    for i in range(windows):
        seen = {name: moved(pose, 0.5, 0.01, random) for name, pose in MOUNTS.items()}
        seen["left"] = moved(MOUNTS["left"], 60.0, 0.5, random)
        rig.hold(window(seen, 10 * i), 1.0, None, 3.0)
        rig.keep()
    return rig


def test_a_camera_that_the_network_puts_anywhere_stands_as_described_and_counts_little():
    rig, random = anywhere(20, MOUNTS), np.random.default_rng(6)
    assert rig.report(NAMES, 1.0).fault == ""
    np.testing.assert_allclose(rig.mounts(1.0)["left"], between(MOUNTS, "front", "left"))
    assert {pair.mounted[0, 3] for pair in rig.pairs(window(MOUNTS))} == {
        between(MOUNTS, "front", "right")[0, 3]
    }
    seen = {**MOUNTS, "left": moved(MOUNTS["left"], 60.0, 0.5, random)}
    held = rig.hold(window(seen, 900), 1.0, 1.0, 3.0)
    for row, name in enumerate(NAMES):
        known = between(MOUNTS, "front", name)
        assert turned(held.window_from_camera[row], known) < 1.0
        np.testing.assert_allclose(held.window_from_camera[row][:3, 3], known[:3, 3], atol=0.02)


def test_a_camera_that_neither_tf_nor_the_images_place_is_named():
    found = anywhere(HELD + 1, {}).report(NAMES, None)
    assert [each.held for each in found.cameras] == [False, False, True]
    assert "where camera left stands is not known: /tf does not say" in found.fault
    assert "describe it in /tf, or let the cameras overlap" in found.fault
