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

SHARED = "encoder", "aggregator", "camera_head"  # what `share` is of, whatever dense heads have


def open_averaged(
    first: str,
    second: str,
    share: float,
    config: Config,
    heads: Sequence[str],
    dtype: str,
    dense_share: float | None = None,
) -> Weights:
    """(1 - share) of the weights of `first`, and `share` of those of `second`; both as sources.

    In the heads other than the camera's it is `dense_share`, if given. Both are networks of
    `config` and have these `heads`. The mean is taken in float32; matrices of encoder and
    aggregator are then in `dtype`.
    Raises UserError for a share outside of 0 to 1, and for another network.
    """
    dense_share = share if dense_share is None else dense_share
    if bad := [value for value in (share, dense_share) if not 0 <= value <= 1]:
        raise UserError(f"a share of {bad[0]:g}: it must be between 0 and 1")
    weights = []
    for source in (first, second):
        own, found, _ = open_weights(source, heads=heads, dtype=jnp.float32)
        if own != config:
            raise UserError(f"{source} is another network than {first}: their mean has no meaning")
        weights.append(found)
    kinds = abstract(config, heads, dtype)

    def mean(part: str) -> Weights:
        of_second = share if part in SHARED else dense_share
        return jax.tree.map(
            lambda x, y, kind: ((1 - of_second) * x + of_second * y).astype(kind.dtype),
            *(found[part] for found in weights), kinds[part],
        )  # fmt: skip

    return {part: mean(part) for part in kinds}
