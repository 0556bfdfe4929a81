# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Synthetic rooms and the bundled clip obey the pinhole camera model."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vggt_ros.geometry import inverse_rigid, unproject
from vggt_ros.train.rooms import rays, render, scenes, trajectories
from vggt_ros.train.rooms.solids import removed

pytestmark = pytest.mark.slow
HEIGHT, WIDTH, FRAMES = 48, 64, 3
cast = jax.jit(rays.cast)
CLIP = Path(__file__).resolve().parent.parent / "vggt_ros" / "assets" / "clip"


class Shot(NamedTuple):
    world: scenes.World
    trajectory: trajectories.Trajectory
    rendering: render.Rendering
    tracks: render.Tracks


@pytest.fixture(scope="module")
def intrinsics():
    return render.intrinsics_for(jnp.float32(1.2), HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def queries():
    grid = np.stack(np.meshgrid(np.arange(2, WIDTH, 5), np.arange(2, HEIGHT, 5)), axis=-1)
    return jnp.asarray(grid.reshape(-1, 2), jnp.float32)


@pytest.fixture(scope="module")
def shoot(intrinsics, queries):
    @jax.jit
    def shoot(key):
        keys = jax.random.split(key)
        world = scenes.sample_world(keys[0])
        trajectory = trajectories.sample_trajectory(keys[1], world.room, FRAMES)
        world = scenes.cleared(world, trajectory.position)
        rendering = render.draw(world, trajectory, intrinsics, HEIGHT, WIDTH, 1)
        tracks = render.track(world, trajectory, intrinsics, HEIGHT, WIDTH, queries)
        return Shot(world, trajectory, rendering, tracks)

    return shoot


@pytest.fixture(scope="module")
def shots(shoot):
    return [shoot(jax.random.key(seed)) for seed in range(6)]


@pytest.fixture(scope="module")
def empty(shots):
    """An empty room of 4 x 6 x 3 m, and the same with one ball."""
    world = shots[0].world._replace(room=jnp.array([4.0, 6.0, 3.0]))
    gone = jnp.ones(world.solids.half.shape[0], bool)
    bare = world._replace(solids=removed(world.solids, gone))
    ball = bare.solids._replace(
        centre=bare.solids.centre.at[scenes.BOXES].set(jnp.array([1.0, 0.0, 1.0])),
        half=bare.solids.half.at[scenes.BOXES].set(0.25),
    )
    return bare, bare._replace(solids=ball)


def test_motion_scale_multiplies_strides_and_turns():
    keys, room = jax.random.split(jax.random.key(3), 64), jnp.array([7.0, 5.5, 2.8])

    def motion(scale: float) -> tuple[float, float]:
        sampled = jax.vmap(
            lambda key: trajectories.sample_trajectory(key, room, FRAMES, 0.1, (scale, scale))
        )(keys)
        turns = sampled.camera_from_world[..., :3]
        turn = jnp.einsum("bij,bkj->bik", turns[:, 1], turns[:, 0])
        angle = jnp.arccos(jnp.clip((jnp.trace(turn, axis1=1, axis2=2) - 1) / 2, -1, 1))
        stride = jnp.linalg.norm(jnp.diff(sampled.position, axis=1), axis=-1)
        return float(jnp.median(stride)), float(jnp.median(angle))

    assert motion(3.0) == pytest.approx([3 * part for part in motion(1.0)], rel=0.1)


def test_rays_in_an_empty_room_end_at_its_walls(empty):
    directions = jnp.array([[1.0, 0, 0], [0, -1, 0], [0, 0, -1], [0, 0, 2]]).T
    hit = cast(empty[0], jnp.array([0.5, 0.0, 1.0]), directions)
    np.testing.assert_allclose(hit.t, [1.5, 3.0, 1.0, 1.0], atol=1e-5)
    assert hit.surface.tolist() == [1, 1, 0, 2]


def test_rays_hit_a_ball_at_its_radius(empty):
    directions = jnp.array([[1.0, 0, 0], [1.0, 0.3, 0], [0, 1, 0], [0, 0, 1]]).T
    hit = cast(empty[1], jnp.array([0.0, 0.0, 1.0]), directions)
    np.testing.assert_allclose(hit.t, [0.75, 2.0, 3.0, 2.0], atol=1e-5)
    assert hit.surface[0] == 3 + scenes.BOXES and hit.surface[1] == 1


def test_images_and_depths_are_in_range(shots):
    for shot in shots:
        assert float(shot.rendering.images.min()) >= 0 and float(shot.rendering.images.max()) <= 1
        assert float(shot.rendering.images.std()) > 0.03, "an image without contrast"
        diagonal = float(jnp.linalg.norm(shot.world.room))
        assert (
            0.05 < float(shot.rendering.depth.min())
            and float(shot.rendering.depth.max()) < diagonal
        )


def test_a_key_determines_the_room(shoot, shots):
    again = shoot(jax.random.key(0))
    np.testing.assert_array_equal(again.rendering.images, shots[0].rendering.images)
    assert float(jnp.abs(shots[1].rendering.images - shots[0].rendering.images).mean()) > 0.01


def test_tracks_start_at_their_queries(shots, queries):
    for shot in shots:
        np.testing.assert_allclose(shot.tracks.uv[0], queries, atol=2e-3)
        assert float(shot.tracks.visible[0].mean()) > 0.99


def test_tracks_are_the_reprojection_of_depth_in_static_rooms(shots, intrinsics, queries):
    """Depth of frame 0, unprojected and projected by geometry.py, agrees with the tracks."""
    for shot in shots:
        static = jnp.abs(shot.world.solids.swing).max() == 0
        points = unproject(shot.rendering.depth[0], intrinsics)
        u, v = np.asarray(queries, int).T
        points = points[v, u]
        camera = shot.trajectory.camera_from_world
        back = inverse_rigid(camera[0])
        world = points @ back[:, :3].T + back[:, 3]
        for pose, uv in zip(camera, shot.tracks.uv, strict=True):
            seen = world @ pose[:, :3].T + pose[:, 3]
            expected = (seen @ intrinsics.T)[:, :2] / seen[:, 2:]
            ahead = np.asarray(seen[:, 2] > 0.2)
            error = np.abs(np.asarray(expected - uv))[ahead].max(axis=1, initial=0)
            # A moving object may carry a few of the points.
            assert np.quantile(error, 1.0 if static else 0.8) < 0.02


def test_large_kernels_render_the_same(shots, intrinsics, monkeypatch):
    monkeypatch.setattr(rays, "prefers_large_kernels", lambda: True)
    monkeypatch.setattr(render, "prefers_large_kernels", lambda: True)
    world, trajectory, expected, _ = shots[0]
    found = jax.jit(lambda: render.draw(world, trajectory, intrinsics, HEIGHT, WIDTH, 1))()
    close = np.isclose(found.depth, expected.depth, rtol=1e-4)
    assert close.mean() > 0.99  # an edge may fall to either side
    assert np.quantile(np.abs(found.images - expected.images)[close], 0.99) < 1e-3


def test_colours_and_depths_agree_between_frames(shots):
    """A visible point has the same colour in all frames."""
    finite, colour, chance = [], [], []
    for shot in shots:
        images, depth = np.asarray(shot.rendering.images), np.asarray(shot.rendering.depth)
        start = np.asarray(shot.tracks.uv[0]).round().astype(int)
        for i in (1, 2):
            ok = np.asarray(shot.tracks.visible[i])
            u, v = np.asarray(shot.tracks.uv[i])[ok].round().astype(int).T
            u, v = u.clip(0, WIDTH - 1), v.clip(0, HEIGHT - 1)
            first = images[0][start[ok, 1], start[ok, 0]]
            then = images[i][v, u]
            colour.append(np.abs(first - then).mean())
            chance.append(np.abs(first - np.roll(then, 7, axis=0)).mean())
            finite.append(np.isfinite(depth[i][v, u]).all())
    assert all(finite)
    assert np.mean(colour) < 0.4 * np.mean(chance)


def test_intrinsics_have_the_requested_field_of_view(intrinsics):
    edge = (jnp.array([-0.5, WIDTH - 0.5]) - intrinsics[0, 2]) / intrinsics[0, 0]
    np.testing.assert_allclose(jnp.arctan(edge), [-0.6, 0.6], atol=1e-6)
    assert intrinsics[0, 0] == intrinsics[1, 1]


def test_cameras_are_rigid_and_keep_their_distance(shots):
    for shot in shots:
        rotation = np.asarray(shot.trajectory.camera_from_world[:, :, :3])
        np.testing.assert_allclose(
            rotation @ rotation.swapaxes(1, 2), np.tile(np.eye(3), (3, 1, 1)), atol=1e-5
        )
        np.testing.assert_allclose(np.linalg.det(rotation), 1, atol=1e-5)
        assert float(shot.rendering.depth.min()) > 0.05


# ---- the clip ---------------------------------------------------------------------------------


def test_the_clip_is_a_bag_with_ground_truth(clip=CLIP):
    from rosbags.highlevel import AnyReader

    facts = json.loads((clip / "clip.json").read_text())
    poses = np.loadtxt(clip / "trajectory.tum")
    with AnyReader([clip / "bag"]) as bag:
        topics = {connection.topic: connection.msgcount for connection in bag.connections}
        stamps = []
        for connection, _, raw in bag.messages():
            if connection.topic == facts["topics"]["image"]:
                message: Any = bag.deserialize(raw, connection.msgtype)
                stamps.append(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)
    assert topics == {name: facts["frames"] for name in facts["topics"].values()}
    assert (np.diff(stamps) > 0).all() and stamps[0] == 1_700_000_000 * 10**9
    assert len(poses) == facts["frames"] == 48
    assert sum(path.stat().st_size for path in clip.rglob("*")) < 4_000_000


def test_the_depth_of_the_clip_is_consistent_between_frames(clip=CLIP):
    """Points of frame 0, transformed by the true poses, lie on the surfaces of frame 6."""
    facts = json.loads((clip / "clip.json").read_text())
    rows = np.load(clip / "depth.npz")["rows"]
    depth = np.cumsum(rows[[0, 6]], axis=2, dtype=np.uint16) / 1000.0
    intrinsics = np.array(facts["intrinsics"]) * [[0.5], [0.5], [1.0]]  # every second pixel
    poses = np.loadtxt(clip / "trajectory.tum")
    first, then = (pose_from_tum(poses[i]) for i in (0, 6))
    points = unproject(depth[0], intrinsics).reshape(-1, 3)
    seen = transform_by(inverse_rigid(then) @ homogeneous(first), points)
    uv = (seen @ intrinsics.T)[:, :2] / seen[:, 2:]
    inside = ((uv > 1) & (uv < np.array(depth.shape[2:0:-1]) - 2)).all(axis=1)
    u, v = uv[inside].round().astype(int).T
    ratio = depth[1][v, u] / seen[inside, 2]
    assert inside.mean() > 0.5
    assert np.mean(np.abs(ratio - 1) < 0.03) > 0.9


def pose_from_tum(row):
    from vggt_ros.geometry import rotation_from_quaternion

    return np.column_stack([rotation_from_quaternion(row[4:8]), row[1:4]])


def homogeneous(pose):
    return np.vstack([pose, [0, 0, 0, 1]])


def transform_by(pose, points):
    return points @ pose[:3, :3].T + pose[:3, 3]
