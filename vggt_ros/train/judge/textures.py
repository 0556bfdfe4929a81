# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Pictures for surfaces: noise of many spectra, stripes, glyph-like marks, tiles, plain."""

import numpy as np
from jaxtyping import Float, Float32

SIDE = 256  # texels


def texture(random: np.random.Generator) -> Float32[np.ndarray, "t t 3"]:
    """A picture that repeats without a seam, sRGB values in [0, 1]."""
    kind = random.choice(5, p=[0.4, 0.15, 0.15, 0.2, 0.1])
    pattern = (_noise, _stripes, _glyphs, _tiles, _plain)[kind](random)
    dark, light = np.sort(random.uniform(0.05, 0.95, (2, 3)), axis=0)
    if random.random() < 0.5:  # two hues rather than two shades of one
        light = random.permutation(light)
    picture = dark + (light - dark) * pattern[..., None]
    dirt = 0.08 * (_noise(random) - 0.5)
    return np.clip(picture + dirt[..., None], 0.02, 0.98).astype(np.float32)


def _noise(random: np.random.Generator) -> Float[np.ndarray, "t t"]:
    """Fractal noise whose amplitude falls with frequency to a power of 0.6 to 2.2."""
    frequency = np.fft.fftfreq(SIDE)
    radius = np.hypot(frequency[:, None], frequency[None]) * SIDE
    radius[0, 0] = np.inf
    phase = np.exp(2j * np.pi * random.random((SIDE, SIDE)))
    amplitude = np.maximum(radius, random.uniform(1.0, 6.0)) ** -random.uniform(0.6, 2.2)
    return _to_unit(np.fft.ifft2(amplitude * phase).real)


def _stripes(random: np.random.Generator) -> Float[np.ndarray, "t t"]:
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    across, along = random.integers(0, 12), random.integers(1, 20)
    wave = np.sin(2 * np.pi * (across * x + along * y) + 2.0 * random.random() * _noise(random))
    return _to_unit(np.tanh(random.uniform(0.5, 8.0) * wave))


def _glyphs(random: np.random.Generator) -> Float[np.ndarray, "t t"]:
    """Rows of small strokes, as of print."""
    page = np.ones((SIDE, SIDE))
    height = int(random.integers(6, 20))
    for top in range(2, SIDE - height, int(1.6 * height)):
        left = int(random.integers(2, 20))
        while left < SIDE - height:
            mark = random.random((height, height // 2 + 1)) < 0.45
            if random.random() < 0.85:
                page[top : top + height, left : left + mark.shape[1]] -= mark
            left += mark.shape[1] + int(random.integers(1, 4))
    return np.clip(page, 0.0, 1.0)


def _tiles(random: np.random.Generator) -> Float[np.ndarray, "t t"]:
    """Tiles or bricks of several shades, with joints."""
    across, along = random.choice([2, 4, 8, 16], 2)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    row = np.floor(y * along).astype(int)
    shifted = (x * across + 0.5 * (row % 2) * (random.random() < 0.5)) % across
    shade = random.uniform(0.3, 1.0, (along, across))[row, shifted.astype(int)]
    joint = np.minimum(shifted % 1.0, (y * along) % 1.0) < random.uniform(0.03, 0.1)
    return np.where(joint, 0.0, shade)


def _plain(random: np.random.Generator) -> Float[np.ndarray, "t t"]:
    return np.full((SIDE, SIDE), random.random())


def _to_unit(field: Float[np.ndarray, "t t"]) -> Float[np.ndarray, "t t"]:
    low, high = np.quantile(field, [0.02, 0.98])
    return np.clip((field - low) / max(high - low, 1e-9), 0.0, 1.0)
