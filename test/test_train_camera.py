# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What cameras do to rendered images: JPEG as Pillow writes it, and rolling shutters."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vggt_ros.train import jpeg
from vggt_ros.train.rooms import materials, motions, render, sky, varied
from vggt_ros.train.rooms.sampling import RandomStream

INTRINSICS = jnp.array([[40.0, 0, 20.5], [0, 40.0, 13.5], [0, 0, 1]])


def coloured(height: int, width: int) -> np.ndarray:
    """Smooth colours with an edge and some noise."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    image = np.stack(
        [0.5 + 0.4 * np.sin(5 * x), 0.3 + 0.5 * y, np.where(x + y > 0.8, 0.8, 0.2)], -1
    )
    image += 0.03 * np.random.default_rng(0).standard_normal(image.shape)
    return np.rint(255 * image.clip(0, 1)).astype(np.uint8)


@pytest.mark.parametrize("size", [(48, 64), (84, 112)])  # blocks fit, and do not
@pytest.mark.parametrize("quality", [35, 75, 95])
def test_compressed_images_are_those_of_a_jpeg_library(size, quality):
    before = coloured(*size)
    file = io.BytesIO()
    Image.fromarray(before).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    library = np.asarray(Image.open(file), np.float32) / 255
    ours = np.asarray(jpeg.compressed(jnp.asarray(before / 255, jnp.float32), jnp.float32(quality)))
    done = np.abs(library - before / 255).mean()  # by the compression
    # Libraries smooth chroma when they bring it back to full size, and round to whole numbers.
    assert np.abs(ours - library).mean() < max(0.55 * done, 1.5 / 255)
    luma = np.array([0.299, 0.587, 0.114])
    assert np.abs((ours - library) @ luma).mean() < max(0.15 * done, 1 / 255)


def test_quality_100_keeps_what_half_the_chroma_can_show():
    grey = np.repeat(coloured(32, 32)[..., :1], 3, axis=-1) / 255
    ours = jpeg.compressed(jnp.asarray(grey, jnp.float32), jnp.float32(100.0))
    assert np.abs(np.asarray(ours) - grey).max() < 3 / 255


@pytest.fixture(scope="module")
def shot():
    """A function from a shutter to the images and depth of two frames of one scene."""
    world, viewpoint = jax.jit(varied.sample_varied)(jax.random.key(1), varied.NAMES.index("hall"))
    slopes = jnp.array([21.0, 14.0]) / 40
    world, trajectory = motions.sample_motion(jax.random.key(2), world, viewpoint, slopes, 2)
    return jax.jit(lambda turn: render.draw(world, trajectory, INTRINSICS, 28, 42, 1, turn))


def test_a_rolling_shutter_moves_rows_by_the_turn_and_leaves_depth(shot):
    still, turned = (shot(jnp.array([[0.0, y, 0.0]] * 2)) for y in (0.0, 0.1))
    np.testing.assert_array_equal(still.depth, turned.depth)
    assert np.abs(still.images - turned.images)[:, 13:15].mean() < 0.02
    # The last row sees what is 0.05 rad further right: 2 pixels at a focal length of 40.
    row = np.asarray(still.images)[0, -1].mean(-1)
    late = np.asarray(turned.images)[0, -1].mean(-1)
    errors = [np.abs(late[4:-4] - np.roll(row, -shift)[4:-4]).mean() for shift in range(-3, 4)]
    assert int(np.argmin(errors)) - 3 == 2
    early = np.asarray(turned.images)[0, 0].mean(-1)
    row = np.asarray(still.images)[0, 0].mean(-1)
    errors = [np.abs(early[4:-4] - np.roll(row, -shift)[4:-4]).mean() for shift in range(-3, 4)]
    assert int(np.argmin(errors)) - 3 == -2


def test_glossy_surfaces_mirror_the_sky_and_dull_ones_do_not():
    world, _ = jax.jit(varied.sample_varied)(jax.random.key(0), varied.NAMES.index("ground"))
    blue = jnp.array([0.1, 0.2, 0.9])
    world = world._replace(surroundings=world.surroundings._replace(horizon=blue, zenith=blue))
    up = jnp.array([[0.0], [0.0], [1.0]])
    down = jnp.array([[0.0], [0.6], [-0.8]])  # the eye sees the floor: what is mirrored is above
    black = jnp.zeros((3, 1))
    seen = sky.mirrored(world, black, jnp.array([0.9]), up, down)
    share = 0.9 + 0.1 * (1 - 0.8) ** 5
    expected = share * np.asarray(sky.above(world, down * jnp.array([[1.0], [1.0], [-1.0]])))
    np.testing.assert_allclose(seen, expected, rtol=1e-5)
    np.testing.assert_array_equal(sky.mirrored(world, black, jnp.array([0.0]), up, down), black)


def test_print_is_dark_on_light_and_fades_to_its_mean_far_away():
    paint = materials.sample_any(RandomStream(jax.random.key(3), 22), 1)
    page = jax.tree.map(lambda a: a[0], paint)._replace(
        base=jnp.full(3, 0.9), accent=jnp.full(3, 0.9), tone=0.0, hue=0.0, grain=0.0, ink=0.0,
        checker=0.0, seam=0.0, frame=0.0, printed=0.9,
    )  # fmt: skip
    page = jax.tree.map(lambda a: jnp.asarray(a)[..., None], page)
    uv = jnp.stack(jnp.meshgrid(*[jnp.arange(0.0, 1.2, 0.004)] * 2)).reshape(2, -1)
    near, far = (
        np.asarray(materials.paint(page, uv, jnp.full(uv.shape[1], 9.0), jnp.full(uv.shape[1], p)))
        for p in (0.001, 1.0)
    )
    assert 0.15 < (near[0] < 0.2).mean() < 0.3 and 0.6 < (near[0] > 0.85).mean() < 0.85
    assert far.std() < 1e-3 and far.mean() == pytest.approx(near.mean(), abs=0.03)
