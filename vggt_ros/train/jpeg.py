# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Artefacts of JPEG compression, as a function of arrays on any device (ITU-T T.81).

Entropy coding loses nothing, so it is left out: colour transform, subsampled chroma, the discrete
cosine transform of blocks of 8x8 and the rounding of its coefficients.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

BLOCK = 8
# Steps of the coefficients at quality 50: tables K.1 (luminance) and K.2 (chrominance).
LUMINANCE = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56], [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
])  # fmt: skip
CHROMINANCE = np.full((BLOCK, BLOCK), 99)
CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
# RGB of 0..255 to luminance and the two chrominances (JFIF 1.02), which are centred on 0 here.
YCC_FROM_RGB = np.array([
    [0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312],
])  # fmt: skip


def compressed(
    images: Float[Array, "*b h w 3"], quality: Float[Array, ""]
) -> Float[Array, "*b h w 3"]:
    """Images in [0, 1] as they come back from JPEG of a quality from 1 to 100, chroma at half size.

    Sizes that blocks do not divide are filled with the last row and column, as encoders do.
    """
    height, width = images.shape[-3:-1]
    ahead = [(0, 0)] * (images.ndim - 3)
    fill = [*ahead, (0, -height % (2 * BLOCK)), (0, -width % (2 * BLOCK)), (0, 0)]
    channels = jnp.pad(images * 255.0, fill, mode="edge") @ YCC_FROM_RGB.T.astype(np.float32)
    luminance = _rounded(channels[..., 0] - 128.0, LUMINANCE, quality) + 128.0
    half = (
        channels[..., 1:].reshape(*channels.shape[:-3], *_pairs(channels.shape), 2).mean((-4, -2))
    )
    colour = [_rounded(half[..., i], CHROMINANCE, quality) for i in range(2)]
    chroma = [jnp.repeat(jnp.repeat(c, 2, axis=-1), 2, axis=-2) for c in colour]
    back = jnp.stack([luminance, *chroma], axis=-1) @ np.linalg.inv(YCC_FROM_RGB).T.astype(
        np.float32
    )
    return (back[..., :height, :width, :] / 255.0).clip(0.0, 1.0)


def steps(table: np.ndarray, quality: Float[Array, ""]) -> Float[Array, "8 8"]:
    """The table at a quality, by the rule of the Independent JPEG Group (1 to 255)."""
    scale = jnp.where(quality < 50, 5000.0 / jnp.maximum(quality, 1.0), 200.0 - 2.0 * quality)
    return jnp.clip(jnp.floor((table * scale + 50.0) / 100.0), 1.0, 255.0)


def _rounded(
    plane: Float[Array, "*b h w"], table: np.ndarray, quality: Float[Array, ""]
) -> Float[Array, "*b h w"]:
    """A plane with the coefficients of its blocks rounded to multiples of the steps."""
    *ahead, height, width = plane.shape
    blocks = plane.reshape(*ahead, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    cosines, step = jnp.asarray(_cosines()), steps(table, quality)[:, None, :]
    found = jnp.einsum("ij,...ajbk,lk->...aibl", cosines, blocks, cosines)
    found = jnp.round(found / step) * step
    return jnp.einsum("ji,...ajbk,kl->...aibl", cosines, found, cosines).reshape(plane.shape)


def _cosines() -> np.ndarray:
    """The orthonormal cosine transform of 8 samples (T.81, A.3.3): rows are frequencies."""
    place, frequency = np.arange(BLOCK), np.arange(BLOCK)[:, None]
    rows = np.cos((2 * place + 1) * frequency * np.pi / (2 * BLOCK)) / 2
    rows[0] /= np.sqrt(2)
    return rows.astype(np.float32)


def _pairs(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    return shape[-3] // 2, 2, shape[-2] // 2, 2
