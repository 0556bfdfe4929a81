# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Varied scenes obey the pinhole camera model; sky, fog and highlights; their share of a batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_rig import MICRO, random_window, recipe_of

from vggt_ros.errors import UserError
from vggt_ros.geometry import inverse_rigid, unproject
from vggt_ros.train import trainer
from vggt_ros.train.config import recipe_from
from vggt_ros.train.rooms import motions, rays, render, sky, varied
from vggt_ros.train.rooms.varied import NAMES

pytestmark = pytest.mark.slow
HEIGHT, WIDTH, SEEDS = 28, 42, 3
FOCAL = 26.0
INTRINSICS = jnp.array([[FOCAL, 0, 21.5], [0, FOCAL, 13.0], [0, 0, 1]])  # principal point off
QUERIES = np.stack(np.meshgrid(np.arange(1, WIDTH, 4), np.arange(1, HEIGHT, 4)), -1).reshape(-1, 2)


class Shot(NamedTuple):
    world: varied.World
    viewpoint: motions.Viewpoint
    trajectory: motions.Trajectory
    rendering: render.Rendering
    tracks: render.Tracks


@pytest.fixture(scope="module")
def shots():
    """Two frames of four scenes of every kind, by name."""

    @jax.jit
    def shoot(key, kind):
        keys = jax.random.split(key)
        world, viewpoint = varied.sample_varied(keys[0], kind)
        slopes = jnp.array([WIDTH, HEIGHT]) / 2 / FOCAL
        world, trajectory = motions.sample_motion(keys[1], world, viewpoint, slopes, 2)
        rendering = render.draw(world, trajectory, INTRINSICS, HEIGHT, WIDTH, 1)
        queries = jnp.asarray(QUERIES, jnp.float32)
        tracks = render.track(world, trajectory, INTRINSICS, HEIGHT, WIDTH, queries)
        return Shot(world, viewpoint, trajectory, rendering, tracks)

    return {
        name: [jax.device_get(shoot(jax.random.key(seed), kind)) for seed in range(SEEDS)]
        for kind, name in enumerate(NAMES)
    }


@pytest.mark.parametrize("name", NAMES)
def test_images_have_contrast_and_depth_in_front_of_the_camera(shots, name):
    for shot in shots[name]:
        images, depth = shot.rendering
        assert images.min() >= 0 and images.max() <= 1
        assert 0.1 < np.median(images) < 0.95
        assert images.std() > 0.01
        assert np.isfinite(depth).mean() > 0.2 and depth.min() > 0.05
    assert np.mean([shot.rendering.images.std() for shot in shots[name]]) > 0.05


@pytest.mark.parametrize("name", NAMES)
def test_tracks_are_the_reprojection_of_depth(shots, name):
    for shot in shots[name]:
        u, v = QUERIES.T
        depth = shot.rendering.depth[0]
        points, known = (
            unproject(np.where(np.isfinite(depth), depth, 1), INTRINSICS)[v, u],
            np.isfinite(depth)[v, u],
        )
        first, second = shot.trajectory.camera_from_world
        back = inverse_rigid(first)
        world = points @ back[:, :3].T + back[:, 3]
        seen = world @ second[:, :3].T + second[:, 3]
        expected = (seen @ np.asarray(INTRINSICS).T)[:, :2] / seen[:, 2:]
        ahead = known & (seen[:, 2] > 0.2)
        error = np.abs(expected - shot.tracks.uv[1])[ahead].max(axis=1, initial=0)
        # A moving thing may carry a few of the points.
        static = np.abs(shot.world.solids.swing).max() == 0
        assert np.quantile(error, 1.0 if static else 0.8) < 0.05


def test_sky_has_no_depth_and_no_visible_tracks_and_is_in_open_scenes_only(shots):
    u, v = QUERIES.T
    for name, found in shots.items():
        always_open = varied.SCENE_KINDS[name][0] == 1.0
        for shot in found:
            is_open = shot.world.surroundings.is_open > 0
            assert not always_open or is_open
            no_depth = ~np.isfinite(shot.rendering.depth)
            assert is_open or not no_depth.any()
            assert not shot.tracks.visible[:, no_depth[0][v, u]].any()
            assert not shot.tracks.visible[1][~np.isfinite(shot.tracks.uv[1]).all(axis=1)].any()
    assert any((~np.isfinite(shot.rendering.depth)).mean() > 0.05 for shot in shots["ground"])


def test_kinds_differ_in_what_stands_where(shots):
    def shown(name, part):
        """Half extents and centres of the solids that a scene has."""
        for shot in shots[name]:
            solids = jax.tree.map(lambda x: x[part], shot.world.solids)
            there = solids.centre[:, 2] > -10
            yield solids.half[there], solids.centre[there]

    things = slice(varied.STRUCTURE, None)
    for _, centre in shown("shelf", things):
        assert (np.abs(centre[:, 1] - 1.7) < 0.3).all()  # all on the boards, which are the first
    for half, centre in shown("table", things):
        lowest = centre[:, 2] - half[:, 2]
        assert np.mean(np.abs(lowest - 1.0) < 0.02) > 0.7  # the others float
    for half, _ in shown("wood", slice(varied.BOXES + varied.BALLS, None)):
        assert np.median(half[:, 2] / half[:, 0]) > 8  # trunks
    hills = [half for half, _ in shown("ground", slice(varied.BOXES, varied.BOXES + varied.HILLS))]
    assert (np.concatenate(hills)[:, :2] >= 1.0).all()
    for half, centre in shown("stairs", slice(0, 6)):
        assert (np.diff(centre[:, 2] + half[:, 2]) > 0.1).all()  # each step is higher
    widths = [shot.world.room[1] for shot in shots["corridor"]]
    assert max(widths) < 3.3
    assert all(len(half) > 5 for half, _ in shown("street", slice(0, varied.STRUCTURE)))


def test_kinds_are_drawn_alike_and_a_key_determines_the_scene():
    def facts(key):
        world, viewpoint = varied.sample_varied(key)
        return world.room, world.surroundings.is_open, world.surroundings.fog, viewpoint.position

    keys = jax.random.split(jax.random.key(5), 256)
    room, is_open, fog, eye = map(np.asarray, jax.jit(jax.vmap(facts))(keys))
    corridors = np.mean((room[:, 1] < 3.3) & (is_open == 0))
    assert 0.05 < corridors < 0.22  # one of eight
    assert 0.3 < is_open.mean() < 0.7 and 0.1 < np.mean(fog > 0) < 0.4
    assert (np.abs(eye[:, :2]) < room[:, :2] / 2).all() and (eye[:, 2] < room[:, 2]).all()
    again = jax.jit(facts)(keys[3])
    np.testing.assert_allclose(again[3], eye[3], rtol=1e-6)


def test_fog_hides_what_is_far_and_the_sky_is_at_the_shell():
    world, _ = varied.sample_varied(jax.random.key(0), NAMES.index("ground"))
    around = world.surroundings._replace(
        is_open=jnp.float32(1), fog=jnp.float32(0.5), horizon=jnp.array([0.2, 0.4, 0.6]),
        zenith=jnp.array([0.2, 0.4, 0.6]),
    )  # fmt: skip
    world = world._replace(surroundings=around)
    hit = rays.Hit(jnp.array([2.0, 30.0, 30.0, 30.0]), jnp.array([5, 5, 1, 0]))
    directions = jnp.array([[2.0, 0, 0]] * 4).T  # two units long: distances are 4 and 60
    seen = np.asarray(sky.through_air(world, hit, directions, jnp.ones((3, 4))))
    clear = np.exp(-0.5 * 4)
    np.testing.assert_allclose(
        seen[:, 0], clear + (1 - clear) * np.array([0.2, 0.4, 0.6]), rtol=1e-5
    )
    np.testing.assert_allclose(seen[:, 1:], np.tile([[0.2], [0.4], [0.6]], 3), rtol=1e-5)
    assert np.asarray(sky.covers(world, hit)).tolist() == [False, False, True, False]
    closed = world._replace(surroundings=around._replace(is_open=jnp.float32(0)))
    assert not np.asarray(sky.covers(closed, hit)).any()


def test_highlights_are_where_the_normal_halves_lamp_and_eye():
    up = jnp.array([[0.0], [0.0], [1.0]])
    lamp, eye = (jnp.array([[x], [0.0], [0.8]]) for x in (0.6, -0.6))
    assert float(sky.highlight(up, lamp, eye)[0]) == pytest.approx(1.0)
    beside = float(sky.highlight(up, lamp, lamp)[0])
    assert beside == pytest.approx(0.8**sky.SHARPNESS, rel=1e-4)


def test_exposure_brings_the_median_to_the_middle():
    light = jnp.tile(jnp.linspace(0.5, 1.5, 101) * 3.0, (3, 1))
    value = (1 - np.exp(-float(sky.exposure(light)) * 3.0)) ** (1 / 2.2)
    assert value == pytest.approx(sky.EXPOSED, rel=1e-4)


def test_a_batch_has_the_recipe_s_share_of_rooms(tmp_path, monkeypatch):
    drawn = []

    def window(key, frames, *args, varied, **kwargs):
        drawn.append(varied)
        window = random_window(key, frames)
        return window._replace(depth=window.depth * 0 + (2.0 if varied == "scenes" else 1.0))

    monkeypatch.setattr(trainer, "sample_window", window)
    data = {"kind": "scenes", "motions": "varied", "rooms_share": 0.25}
    recipe = recipe_of(tmp_path, batch=4, data=data)
    batch = trainer.Trainer(recipe, MICRO).sampler(recipe.buckets[0])(0)
    assert batch.depth[:, 0, 0, 0].tolist() == [1.0, 2.0, 2.0, 2.0]
    assert set(drawn) == {"motions", "scenes"}
    drawn.clear()
    recipe = recipe_of(tmp_path, batch=4, data=data | {"robots_share": 0.5})
    batch = trainer.Trainer(recipe, MICRO).sampler(recipe.buckets[0])(0)
    assert batch.depth[:, 0, 0, 0].tolist() == [1.0, 1.0, 1.0, 2.0]
    assert drawn == ["", "motions", "scenes"]


def test_varied_scenes_need_varied_motions():
    with pytest.raises(UserError, match="robots drive in rooms only"):
        recipe_from({"data": {"rooms_share": 0.5}})
    with pytest.raises(UserError, match="between 0 and 1"):
        recipe_from({"data": {"rooms_share": 1.5, "motions": "varied"}})
