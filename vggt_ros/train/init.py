# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Initial weights of a training run."""

import numpy as np
from jaxtyping import Float

from vggt_ros.model.config import Config
from vggt_ros.model.official_names import Path, is_upscale_kernel, path_name
from vggt_ros.model.random_weights import Constant, Drawn, Normal, Shape, random_weights, untrained
from vggt_ros.model.vggt import Weights
from vggt_ros.train.config import Recipe


def fresh_weights(config: Config, recipe: Recipe) -> Weights:
    """Initial weights of a run, determined by the recipe's seed."""

    def rule(path: Path, shape: Shape) -> Constant | Normal | Drawn:
        """Differences from the weights of an untrained network."""
        match path[-1]:
            case "empty_pose_tokens":
                return Constant(0.0)
            case "gamma":
                return Constant(recipe.layer_scale or (1.0 if path[0] == "encoder" else 0.01))
            case "query_ref_token" | "virtual_tracks":
                return Normal(1.0)
            case "pos_embed":
                return lambda shape, random: position_embedding(shape[1], shape[2], random)
            case "kernel" if is_upscale_kernel(path_name(path)):
                return Normal(shape[0] ** -0.5)  # its stride is its size: one input cell an output
        return untrained(path, shape)

    return random_weights(config, recipe.heads, seed=recipe.seed, rule=rule)


def position_embedding(
    tokens: int, dim: int, random: np.random.Generator
) -> Float[np.ndarray, "1 t d"]:
    """Sines of a patch's position, mixed over all channels, as large as the patch features.

    The usual initialisation, small random numbers, stays far below the patch features for as long
    as a small network trains: its tokens then hold no position, and no motion can be inferred.
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
