# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The weighted mean of a network's weights and of those that it had before fine-tuning.

Weights of one training lie close to each other, and their mean often has the abilities of both:
Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from vggt_ros.errors import UserError
from vggt_ros.model.checkpoint import open_weights
from vggt_ros.model.config import Config
from vggt_ros.model.vggt import Weights
from vggt_ros.model.weights import abstract


def open_averaged(
    first: str, second: str, share: float, config: Config, heads: Sequence[str], dtype: str
) -> Weights:
    """(1 - share) of the weights of `first`, and `share` of those of `second`; both as sources.

    Both are networks of `config` and have these `heads`. The mean is taken in float32; matrices of
    encoder and aggregator are then in `dtype`.
    Raises UserError for a share outside of 0 to 1, and for another network.
    """
    if not 0 <= share <= 1:
        raise UserError(f"a share of {share:g}: it must be between 0 and 1")
    weights = []
    for source in (first, second):
        own, found, _ = open_weights(source, heads=heads, dtype=jnp.float32)
        if own != config:
            raise UserError(f"{source} is another network than {first}: their mean has no meaning")
        weights.append(found)
    return jax.tree.map(
        lambda x, y, kind: ((1 - share) * x + share * y).astype(kind.dtype),
        *weights,
        abstract(config, heads, dtype),
    )
