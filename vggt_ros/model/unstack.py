# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Stacked weights as one array a layer, for programs whose layers are unrolled.

A loop over stacked weights copies a layer's matrices before it multiplies with them.  On a CPU that
is negligible beside the products.  On an H100 it was 5 of the 66 ms of a step of VGGT-1B at S = 8,
and as much at S = 1.  Unrolled, XLA also optimises across layers; and only where a norm's gain is
not a slice of a stack does it fuse a norm into one kernel instead of three.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vggt_ros.model.official_names import official_name
from vggt_ros.model.vggt import Weights
from vggt_ros.model.weights import flatten


def unstack_layers(weights: Weights) -> list[Any]:
    """Flat weights (arrays or shapes); each stack becomes a tuple of one array a layer."""
    return [
        _layers(leaf) if "{row}" in official_name(path) else leaf
        for path, leaf in flatten(weights).items()
    ]


def stack_layers(flat: list[Any]) -> list[Array]:
    """The inverse of `unstack_layers`, for use inside a program whose layers are unrolled.

    It costs nothing there: XLA replaces a layer's slice of a stack by the array that was stacked.
    """
    return [jnp.stack(leaf) if isinstance(leaf, tuple) else leaf for leaf in flat]


def _layers(leaf: Any) -> tuple[Any, ...]:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return (jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype),) * leaf.shape[0]
    return tuple(leaf[i] for i in range(len(leaf)))
