# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Random weights: determined by the seed, with the shapes, dtypes and scales of their rules."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_model import CONFIG, assert_equal_weights

from vggt_ros.model.random_weights import Constant, Normal, random_weights, untrained
from vggt_ros.model.vggt import VGGT
from vggt_ros.model.weights import abstract, flatten

pytestmark = pytest.mark.slow

HEADS = ("camera", "depth")


def test_shapes_and_dtypes_are_those_of_the_model():
    found = flatten(random_weights(CONFIG, HEADS, jnp.bfloat16))
    needed = flatten(abstract(CONFIG, HEADS, jnp.dtype(jnp.bfloat16)))
    assert {path: (x.shape, x.dtype) for path, x in found.items()} == {
        path: (x.shape, x.dtype) for path, x in needed.items()
    }


def test_a_model_of_shapes_has_those_that_flax_draws():
    """Nothing is traced for the one; the other calls each initialiser with a key of its own.

    The layout has all that the official one has, and memory tokens.
    """
    config = replace(CONFIG, layout="sparse_global", strategy="memory_bank")
    drawn = nnx.eval_shape(lambda: VGGT(config, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    expected = flatten(nnx.to_pure_dict(nnx.state(drawn, nnx.Param)))
    found = flatten(abstract(config, dtype=jnp.bfloat16))
    assert {path: (x.shape, x.dtype) for path, x in found.items()} == {
        path: (x.shape, x.dtype) for path, x in expected.items()
    }
    assert {x.dtype for x in found.values()} == {jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32)}


def test_the_seed_determines_every_array():
    once, again = (random_weights(CONFIG, HEADS, seed=3) for _ in range(2))
    assert_equal_weights(once, flatten(again))
    other = flatten(random_weights(CONFIG, HEADS, seed=4))
    for path, x in flatten(once).items():
        drawn = isinstance(untrained(path, x.shape), Normal)
        assert np.array_equal(x, other[path]) != drawn, path


def test_kernels_keep_the_variance_of_activations():
    found = flatten(random_weights(CONFIG, HEADS))
    for path, x in found.items():
        match untrained(path, x.shape):
            case Constant(value):
                assert (x == np.float32(value)).all(), path
            case Normal(deviation):
                assert x.size < 1000 or abs(x.std() / deviation - 1) < 0.15, path
    kernel = found["encoder", "patch_embed", "kernel"]
    assert abs(kernel.std() * kernel.shape[0] ** 0.5 - 1) < 0.05


def test_a_rule_replaces_the_distribution_of_an_array():
    def rule(path, shape):
        if path[-1] == "gamma":
            return Constant(0.5)
        if path[-1] == "pos_embed":
            return lambda shape, generator: np.full(shape, generator.integers(7, 8))
        return untrained(path, shape)

    found = random_weights(CONFIG, HEADS, rule=rule)
    assert (found["encoder"]["blocks"]["ls1"]["gamma"] == 0.5).all()
    assert (found["encoder"]["pos_embed"] == 7).all()
    assert found["encoder"]["pos_embed"].dtype == np.float32


def test_pooled_weights_are_on_the_device_and_have_the_same_rules():
    device = jax.devices()[0]
    found = flatten(random_weights(CONFIG, HEADS, jnp.bfloat16, pooled_on=device))
    needed = flatten(random_weights(CONFIG, HEADS, jnp.bfloat16))
    for path, x in found.items():
        assert isinstance(x, jax.Array) and x.devices() == {device}
        assert (x.shape, x.dtype) == (needed[path].shape, needed[path].dtype), path
        if x.size >= 1000:
            difference = np.std(np.asarray(x, np.float32)) - np.std(needed[path].astype(np.float32))
            assert abs(difference) <= 0.15 * np.std(needed[path].astype(np.float32)), path
