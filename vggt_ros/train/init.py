# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Weights that nobody has trained yet."""

import jax
import numpy as np
from jaxtyping import Float

from vggt_ros.model.config import Config
from vggt_ros.model.vggt import Weights
from vggt_ros.model.weights import abstract
from vggt_ros.train.config import Recipe


def fresh_weights(config: Config, recipe: Recipe) -> Weights:
    """Weights to begin with, drawn by NumPy: the same everywhere, and nothing to compile."""
    random = np.random.default_rng(recipe.seed)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        names = [str(key.key) for key in path]
        last, shape = names[-1], leaf.shape
        if last in ("bias", "empty_pose_tokens"):
            return np.zeros(shape, np.float32)
        if last == "scale":
            return np.ones(shape, np.float32)
        if last == "gamma":
            given = 1.0 if names[0] == "encoder" else 0.01
            return np.full(shape, recipe.layer_scale or given, np.float32)
        if last == "pos_embed":
            return place_embedding(shape[1], shape[2], random)
        size = 0.02
        if last == "kernel":
            inputs = shape[0] if names[-2] in ("quadruple", "double") else shape[-2]
            inputs *= 9 if shape[:2] == (3, 3) else 1  # a convolution
            size = inputs**-0.5
        elif last in ("reference_token", "virtual"):
            size = 1.0
        return size * random.standard_normal(shape, np.float32)

    return jax.tree_util.tree_map_with_path(draw, abstract(config, recipe.heads))


def place_embedding(
    tokens: int, dim: int, random: np.random.Generator
) -> Float[np.ndarray, "1 t d"]:
    """Sines of where a patch is, mixed over all channels, as large as what it shows.

    Small random numbers, the habit, drown in the patches for as long as a small network trains:
    then tokens do not know where they are, and no motion can be read from them.
    """
    side = int((tokens - 1) ** 0.5)
    across = (np.arange(side) + 0.5) / side * 2 - 1
    waves = [wave(np.pi / 2 * k * across) for k in (1, 2, 4, 8) for wave in (np.sin, np.cos)]
    axis = np.sqrt(2) * np.stack([across, *waves], axis=-1)
    rows, columns = np.broadcast_to(axis[:, None], (side, *axis.shape)), axis[None]
    grid = np.concatenate(np.broadcast_arrays(rows, columns), axis=-1)
    mixed = grid @ random.standard_normal((grid.shape[-1], dim)) / grid.shape[-1] ** 0.5
    first = np.zeros((1, 1, dim))
    return np.concatenate([first, mixed.reshape(1, side**2, dim)], axis=1).astype(np.float32)
