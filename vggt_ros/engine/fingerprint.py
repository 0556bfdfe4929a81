# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What tells one network from another: a hash of its configuration and a sample of its weights."""

import hashlib
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vggt_ros.model.config import Config

MATRICES = 32  # that are sampled, spread over encoder, aggregator and heads
SAMPLES = 64  # at most, of the first and of the last row or layer of each
SMALLEST = 1024  # weights of an array that is sampled; small ones may be constants


def fingerprint(config: Config, flat_weights: list[Any]) -> str:
    """32 hexadecimal digits; `flat_weights` as `Compiler.place_weights` returns them.

    They depend neither on the device, nor on the arithmetic (float32 or bfloat16), nor on the name
    or place of the file.  Few weights are read, so it takes as long for 10^9 of them: half a
    second, for compiling.
    """
    shapes = [_shape(leaf) for leaf in flat_weights]
    matrices = [
        leaf
        for leaf, shape in zip(flat_weights, shapes, strict=True)
        if len(shape) > 1 and math.prod(shape) >= SMALLEST
    ]
    chosen = matrices[:: max(1, len(matrices) // MATRICES)]
    content = json.dumps([config.to_dict(), shapes]).encode()
    sampled = np.asarray(jax.jit(_sample)(chosen)).astype("<f4").tobytes()
    return hashlib.sha256(content + sampled).hexdigest()[:32]


def _shape(leaf: Any) -> tuple[int, ...]:
    """Of an array, or of a stack that is given as a tuple of its layers."""
    return (len(leaf), *leaf[0].shape) if isinstance(leaf, tuple) else tuple(leaf.shape)


def _sample(leaves: list[Any]) -> Array:
    ends = [end.ravel() for leaf in leaves for end in (leaf[0], leaf[-1])]
    steps = [max(1, end.size // SAMPLES) for end in ends]
    parts = [end[::step][:SAMPLES] for end, step in zip(ends, steps, strict=True)]
    return jnp.concatenate([part.astype(jnp.bfloat16) for part in parts])
