# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Random weights, drawn by NumPy array by array: compiling initialisers takes longer than that."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vggt_ros.model.config import Config
from vggt_ros.model.legacy_names import drawing_order
from vggt_ros.model.new_parts import initial, is_new
from vggt_ros.model.official_names import Path, path_name
from vggt_ros.model.vggt import HEADS, Weights
from vggt_ros.model.weights import Shape, abstract, flatten, unflatten

POOL = 1 << 22  # random numbers, from which all weights are cut in the pooled variant


class Constant(NamedTuple):
    """An array filled with one value."""

    value: float


class Normal(NamedTuple):
    """Normal numbers of this standard deviation."""

    deviation: float


Drawn = Callable[[Shape, np.random.Generator], np.ndarray]  # an array of any other distribution
Rule = Callable[[Path, Shape], Constant | Normal | Drawn]


def untrained(path: Path, shape: Shape) -> Constant | Normal:
    """The rule for networks that are only run: kernels keep the variance of activations."""
    match path[-1]:
        case "scale":
            return Constant(1.0)
        case "gamma":
            return Constant(0.1)
        case "bias":
            return Constant(0.0)
        case "kernel":
            inputs = math.prod(shape[:3]) if len(shape) == 4 else shape[-2]
            return Normal(inputs**-0.5)
    return Normal(0.02)


def random_weights(
    config: Config,
    heads: Sequence[str] = HEADS,
    dtype: Any = jnp.float32,
    seed: int = 0,
    *,
    rule: Rule = untrained,
    pooled_on: Any = None,
) -> Weights:
    """Weights of these heads, each array drawn by its `rule`; the seed determines them.

    They are NumPy arrays: matrices of encoder and aggregator in `dtype`, the others float32.  With
    `pooled_on`, a JAX device, they are on that device, and cut from one pool of normal numbers:
    seconds for 10^9 weights, and the host never holds more than one array.
    """
    generator = np.random.default_rng(seed)
    pool = None if pooled_on is None else generator.standard_normal(POOL, np.float32)
    leaves = flatten(abstract(config, heads, dtype))
    flat = {}
    for path in drawing_order(leaves):
        leaf = leaves[path]
        if is_new(path_name(path)):  # of a layout: a trained start, whatever the rule
            array = initial(path, leaf.shape)
        else:
            array = _draw(rule(path, leaf.shape), leaf, generator, pool)
        if pooled_on is not None:
            array = jax.block_until_ready(jax.device_put(array, pooled_on))
        flat[path] = array
    return unflatten(flat)


def _draw(
    kind: Constant | Normal | Drawn,
    leaf: jax.ShapeDtypeStruct,
    generator: np.random.Generator,
    pool: np.ndarray | None,
) -> np.ndarray:
    if isinstance(kind, Constant):
        return np.full(leaf.shape, kind.value, leaf.dtype)
    if not isinstance(kind, Normal):
        return kind(leaf.shape, generator).astype(leaf.dtype)
    deviation = np.float32(kind.deviation)
    if pool is not None:
        cut = pool[generator.integers(POOL // 2) :] * deviation
        return np.resize(cut.astype(leaf.dtype), leaf.shape)
    return (generator.standard_normal(leaf.shape, np.float32) * deviation).astype(leaf.dtype)
