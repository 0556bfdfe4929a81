# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""InfoNCE loss on the track head's feature maps: one cell against all others of its frame.

The track head itself passes gradients only to the few cells around its present estimate.  A
classification of the true cell among all cells of a frame, as matching networks use it (MASt3R for
instance), trains the features at every cell from the first step on.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vggt_ros.model.correlation import sample

SHARPNESS = 3.0  # of the softmax, which normalised features leave too flat over 1000 cells


def negative_log_likelihood(
    maps: Float[Array, "b s h w c"], queries: Float[Array, "b n 2"], truth: Float[Array, "b s n 2"]
) -> Float[Array, "b s n"]:
    """-log p of the true positions, p a softmax of similarity over the cells of each frame.

    Queries are positions in frame 0; all positions in cells.  Between cells log p is interpolated.
    """
    features = sample(maps[:, 0], queries) * (SHARPNESS / maps.shape[-1] ** 0.5)
    total = jax.nn.logsumexp(jnp.einsum("bnc,bshwc->bsnhw", features, maps), axis=(-2, -1))
    target = jax.vmap(sample, (1, 1), 1)(maps, truth)
    return total - jnp.einsum("bnc,bsnc->bsn", features, target)
