# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Motions of the training windows: each kind by its geometry, and all of them in a room."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vggt_ros.train.rooms import motions, scenes
from vggt_ros.train.rooms.motions import MAX_STEP, MOTION_KINDS
from vggt_ros.train.rooms.sampling import RandomStream
from vggt_ros.train.rooms.trajectories import about

pytestmark = pytest.mark.slow
FRAMES, COUNT = 4, 128
SLOPES = jnp.array([0.8, 0.6])  # of the rays at the image's edges


class Paths(NamedTuple):
    """Paths of one kind, without sway, in depths of the scene."""

    position: np.ndarray  # level frame: x right, y down, z ahead
    rotation: np.ndarray  # level_from_camera
    ahead: np.ndarray  # the optical axis at the middle: where the scene is, one depth away

    @property
    def moves(self) -> np.ndarray:
        """From the first frame to the last, of those that move."""
        whole = self.position[:, -1] - self.position[:, 0]
        length = np.linalg.norm(whole, axis=-1)
        return whole[length > 0.02] / length[length > 0.02, None]

    @property
    def steps(self) -> np.ndarray:
        return np.linalg.norm(np.diff(self.position, axis=1), axis=-1)

    @property
    def turned(self) -> np.ndarray:
        """The camera's rotations between neighbouring frames, in its own axes."""
        return np.swapaxes(self.rotation[:, :-1], -1, -2) @ self.rotation[:, 1:]


@pytest.fixture(scope="module")
def paths_of():
    @jax.jit
    def sample(key, kind):
        random = RandomStream(key, 13 + 7 * FRAMES)
        tilt = (
            about(0, random(1, low=-0.6, high=0.3))[0] @ about(2, random(1, low=-0.3, high=0.3))[0]
        )
        draws = motions.draws_of(random, FRAMES)
        draws = draws._replace(sway=jnp.zeros_like(draws.sway))
        chosen = jax.tree.map(lambda column: column[kind], motions.kinds())
        path = motions.path_of(chosen, draws, tilt, jnp.float32(1.0))
        return path.position, path.level_from_camera, tilt[:, 2]

    keys = jax.random.split(jax.random.key(0), COUNT)

    def paths(name: str) -> Paths:
        found = jax.vmap(sample, (0, None))(keys, list(MOTION_KINDS).index(name))
        return Paths(*map(np.asarray, found))

    return paths


def degrees(cosine):
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def angles(rotation):
    return degrees((np.trace(rotation, axis1=-2, axis2=-1) - 1) / 2)


def test_no_kind_has_more_than_a_quarter_of_the_windows():
    shares = [row[0] for row in MOTION_KINDS.values()]
    assert sum(shares) == pytest.approx(1.0) and max(shares) <= 0.25
    assert sum(MOTION_KINDS[name][0] for name in ("robot", "approach")) <= 0.25  # what goes ahead


@pytest.mark.parametrize(
    ("name", "axis"), [("robot", (0, 0, 1)), ("backwards", (0, 0, -1)), ("sideways", (1, 0, 0)),
                       ("vertical", (0, 1, 0))],
)  # fmt: skip
def test_translations_are_along_their_axis(paths_of, name, axis):
    along = paths_of(name).moves @ np.array(axis, float)
    both = name in ("sideways", "vertical")
    assert degrees(np.abs(along) if both else along).max() < 15
    assert not both or 0.3 < np.mean(along > 0) < 0.7
    assert angles(paths_of(name).turned).max() < 1.5 * MOTION_KINDS[name][6] + 0.1


@pytest.mark.parametrize("name", ["arc", "orbit"])
def test_arcs_and_orbits_keep_distance_and_gaze(paths_of, name):
    paths = paths_of(name)
    scene = paths.ahead[:, None] - paths.position
    np.testing.assert_allclose(np.linalg.norm(scene, axis=-1), 1.0, atol=1e-4)
    np.testing.assert_allclose(
        np.einsum("bsi,bsi->bs", scene, paths.rotation[..., 2]), 1, atol=1e-4
    )
    height = np.abs(np.ptp(paths.position[..., 1], axis=1))
    travelled = paths.steps.sum(axis=1)
    if name == "arc":  # at one height
        assert (height <= 0.12 * travelled + 1e-5).all()
    else:
        assert np.median(height / travelled) > 0.15
    way = np.sign((paths.position[:, -1] - paths.position[:, 0])[:, 0])
    assert 0.3 < np.mean(way > 0) < 0.7  # to both sides


def test_an_approach_keeps_the_scene_in_the_middle_and_comes_closer(paths_of):
    paths = paths_of("approach")
    scene = paths.ahead[:, None] - paths.position
    distance = np.linalg.norm(scene, axis=-1)
    off = degrees(np.einsum("bsi,bsi->bs", scene, paths.rotation[..., 2]) / distance)
    assert np.median(off) < 3 and off.max() < 12  # a roll about nearly the axis moves it a little
    assert (np.diff(distance, axis=1) < 1e-6).all() and distance[:, -1].min() < 0.7


def test_rotations_have_every_axis_and_rolls_that_of_the_image(paths_of):
    turning, rolling = paths_of("turning"), paths_of("rolling")
    assert turning.steps.max() < 0.04
    for paths, spread in ((turning, True), (rolling, False)):
        first = paths.turned[:, 0][angles(paths.turned[:, 0]) > 1]
        axis = np.stack([
            first[:, 2, 1] - first[:, 1, 2], first[:, 0, 2] - first[:, 2, 0],
            first[:, 1, 0] - first[:, 0, 1],
        ], axis=-1)  # fmt: skip
        axis /= np.linalg.norm(axis, axis=-1, keepdims=True)
        largest = np.abs(axis).argmax(axis=1)
        shares = np.bincount(largest, minlength=3) / len(largest)
        assert shares.min() > 0.15 if spread else shares[2] == 1.0
        assert np.abs(axis.mean(axis=0)).max() < 0.25  # either way


def test_free_motions_go_in_every_direction(paths_of):
    moves = paths_of("free").moves
    assert all(np.mean(moves[:, i] * sign > 0.5) > 0.08 for i in range(3) for sign in (-1, 1))


def test_baselines_reach_from_nothing_to_half_of_the_depth(paths_of):
    steps = np.concatenate([paths_of(name).steps.ravel() for name in MOTION_KINDS])
    assert np.quantile(steps, 0.1) < 0.02 and 0.35 < steps.max() <= 1.6 * MAX_STEP
    typical = np.median(paths_of("sideways").steps)
    assert 0.1 < typical < 0.3


def test_overlap_is_the_share_of_points_in_view_of_every_frame():
    points = jnp.stack([jnp.linspace(-0.79, 0.79, 100), jnp.zeros(100), jnp.ones(100)], axis=-1)
    position = jnp.array([[0.0, 0, 0], [0.4, 0, 0], [0.8, 0, 0]])  # a quarter, a half of the width
    path = motions.Path(position, jnp.broadcast_to(jnp.eye(3), (3, 3, 3)))
    assert float(motions.overlap(path, points, SLOPES)) == pytest.approx(0.5, abs=0.01)
    behind = path._replace(level_from_camera=path.level_from_camera.at[2].set(-jnp.eye(3)))
    assert float(motions.overlap(behind, points, SLOPES)) == 0.0


@pytest.fixture(scope="module")
def windows():
    """Worlds and trajectories of many windows, with their order in time."""

    @jax.jit
    @jax.vmap
    def sample(key):
        keys = jax.random.split(key, 3)
        world = scenes.sample_world(keys[0])
        viewpoint = motions.sample_viewpoint(RandomStream(keys[1], 7), world.room)
        world, trajectory = motions.sample_motion(keys[2], world, viewpoint, SLOPES, FRAMES)
        return world.room, trajectory

    return jax.tree.map(np.asarray, sample(jax.random.split(jax.random.key(1), COUNT)))


def test_cameras_stay_in_their_room_and_are_rigid(windows):
    room, trajectory = windows
    position = trajectory.position
    assert (np.abs(position[..., :2]) < room[:, None, :2] / 2).all()
    assert (position[..., 2] > 0).all() and (position[..., 2] < room[:, None, 2]).all()
    turn, shift = trajectory.camera_from_world[..., :3], trajectory.camera_from_world[..., 3]
    np.testing.assert_allclose(
        turn @ np.swapaxes(turn, -1, -2), np.broadcast_to(np.eye(3), turn.shape), atol=1e-5
    )
    np.testing.assert_allclose(np.linalg.det(turn), 1, atol=1e-5)
    np.testing.assert_allclose(np.einsum("bsij,bsj->bsi", turn, position), -shift, atol=1e-4)


def test_half_of_the_windows_have_their_frames_in_another_order(windows):
    order = np.argsort(windows[1].seconds, axis=1)
    assert 0.3 < np.mean((order == np.arange(FRAMES)).all(axis=1)) < 0.7
    assert len(np.unique(order[:, 0])) == FRAMES  # any frame of the path is the first one
    np.testing.assert_allclose(
        np.sort(windows[1].seconds, axis=1)[0], 0.1 * np.arange(FRAMES), atol=1e-6
    )
