# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the features that tracks follow should tell apart: one place from all others of its frame.

The tracker hears of its features only through the few cells around where it already is.  Asking
each query for its true place among all cells of a frame, as matching networks do (InfoNCE, in
MASt3R for instance), teaches the same features at every cell, from the first step on.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vggt_ros.model.correlation import sample

SHARPNESS = 3.0  # of the softmax: normalised features alone could not outweigh a thousand cells


def surprise(
    maps: Float[Array, "b s h w c"], queries: Float[Array, "b n 2"], truth: Float[Array, "b s n 2"]
) -> Float[Array, "b s n"]:
    """-log p of the true places, p a softmax of similarity over the cells of each frame.

    Queries are places in frame 0; all places in cells.  Between cells the log is interpolated.
    """
    asked = sample(maps[:, 0], queries) * (SHARPNESS / maps.shape[-1] ** 0.5)
    whole = jax.nn.logsumexp(jnp.einsum("bnc,bshwc->bsnhw", asked, maps), axis=(-2, -1))
    there = jax.vmap(sample, (1, 1), 1)(maps, truth)
    return whole - jnp.einsum("bnc,bsnc->bsn", asked, there)
