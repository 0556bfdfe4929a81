# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Feature distillation: the aggregator learns, and dense heads keep what they read.

Depth and tracks are decoded from patch tokens.  Where only cameras are trained, or at another size
than the heads were trained for, these tokens drift away from what the heads expect.  A frozen copy
of the first weights, the teacher, holds them (Li and Hoiem, Learning without Forgetting, 2016, on
features): steps of the cameras alone then cost one more forward pass, and no dense head.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vggt_ros.model.vggt import VGGT, Weights

TEACHER = "teacher"  # key of the frozen copy in the weights of a run; never exported
PARTS = ("encoder", "aggregator")


def teacher_of(weights: Weights) -> Weights:
    """What of a network's weights computes features."""
    return {part: weights[part] for part in PARTS}


def features(
    model: VGGT, weights: Weights, images: Float[Array, "b s h w 3"], views: int | None = None
) -> list[Float[Array, "_n p e"]]:
    """The patch tokens of all frames that dense heads would read, of `model` with these weights.

    `model` may be without values and heads; nothing is differentiated.
    """
    network = nnx.merge(nnx.split(model)[0], jax.lax.stop_gradient(weights))
    taps = network.aggregator(network.encode(images), network.grid(*images.shape[2:4]), views)
    return [network.patches(tap) for tap in taps[:4]]


def features_loss(
    levels: Sequence[Float[Array, "n p e"]], expected: Sequence[Float[Array, "n p e"]]
) -> Float[Array, ""]:
    """Mean squared change of the patch tokens, each normalised as dense heads do; 2 if unrelated.

    `levels` are the patch tokens that heads read, and `expected` those of the teacher.
    """
    changes = [
        jnp.square(_normalised(new) - _normalised(old)).mean()
        for new, old in zip(levels, expected, strict=True)
    ]
    return sum(changes, jnp.float32(0.0)) / len(changes)


def _normalised(tokens: Float[Array, "n p e"]) -> Float[Array, "n p e"]:
    return jax.nn.standardize(tokens.astype(jnp.float32), epsilon=1e-10)
