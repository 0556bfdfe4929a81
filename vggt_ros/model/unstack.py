# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Stacks of equal layers taken apart, for programs that have their layers written out.

A loop over stacked weights copies a layer's matrices before it multiplies with them.  On a CPU that
is nothing beside the products.  On an H100 it was 5 of the 66 ms of a step of VGGT-1B at S = 8, and
as much at S = 1.  Written out, the compiler also sees across layers; and only where a norm's gain
is no slice of a stack does it make one kernel of a norm instead of three.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vggt_ros.model.vggt import Weights
from vggt_ros.model.weights import flatten, official_name


def apart(weights: Weights) -> list[Any]:
    """Flat weights (or their shapes); what is stacked is a tuple, one array a layer."""
    return [
        _layers(leaf) if "{row}" in official_name(path) else leaf
        for path, leaf in flatten(weights).items()
    ]


def together(flat: list[Any]) -> list[Array]:
    """As the model takes them; inside a program that has its layers written out it costs nothing.

    XLA replaces a layer's slice of a stack by what was stacked.
    """
    return [jnp.stack(leaf) if isinstance(leaf, tuple) else leaf for leaf in flat]


def _layers(leaf: Any) -> tuple[Any, ...]:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return (jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype),) * leaf.shape[0]
    return tuple(leaf[i] for i in range(len(leaf)))
