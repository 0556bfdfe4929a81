# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""AdamW and Muon: their steps, their schedule, and that arrays may learn together."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers, muon
from test_train import MICRO, recipe_of

from vggt_ros.model.weights import abstract, flatten
from vggt_ros.train.optimiser import is_matrix, optimiser_for


def test_the_learning_rate_warms_up_and_comes_down(tmp_path):
    recipe = recipe_of(tmp_path, steps=100, warmup=10, weight_decay=0.0)
    optimiser = optimiser_for(recipe)
    weights = {"a": {"kernel": jnp.ones((2, 2))}}
    moments, sizes, update = optimiser.init(weights), [], jax.jit(optimiser.update)
    for _ in range(100):
        change, moments = update(jax.tree.map(jnp.ones_like, weights), moments, weights)
        sizes.append(float(jnp.abs(change["a"]["kernel"]).max()))
    assert sizes[0] == 0 and np.argmax(sizes) in range(9, 13) and sizes[-1] < 0.05 * max(sizes)


def test_muon_steps_in_the_direction_of_a_matrix_and_leaves_tokens_to_adamw(tmp_path):
    recipe = recipe_of(tmp_path, optimiser="muon", warmup=0, weight_decay=0.0, clip=1e6)
    optimiser = optimiser_for(recipe)
    random = np.random.default_rng(0)
    slope = random.standard_normal((2, 8, 12)).astype(np.float32)
    slope[:, 0] *= 100  # one direction shouts
    weights = {"blocks": {"kernel": jnp.zeros((2, 8, 12))}, "pos_embed": jnp.zeros((1, 4, 8))}
    slopes = {"blocks": {"kernel": jnp.asarray(slope)}, "pos_embed": jnp.ones((1, 4, 8))}
    update = jax.jit(optimiser.update)
    change, _ = update(slopes, optimiser.init(weights), weights)
    louder, _ = update(jax.tree.map(lambda x: 10 * x, slopes), optimiser.init(weights), weights)
    for layer in np.asarray(change["blocks"]["kernel"]):
        sizes = np.linalg.svd(layer, compute_uv=False)
        assert sizes.max() < 3 * sizes.min()
    near = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-8)
    jax.tree.map(near, change, louder)
    token = -np.asarray(change["pos_embed"]) / recipe.learning_rate  # Adam's sign, with momentum
    assert 0.9 < token.min() and token.max() < 1.6
    named = {
        "/".join(map(str, path)): x for path, x in flatten(abstract(MICRO, recipe.heads)).items()
    }
    matrix = {path for path, x in named.items() if is_matrix(path, x)}
    assert {"encoder/blocks/mlp/fc1/kernel", "depth/refine/kernel"} <= matrix
    assert not {"depth/predict/kernel", "encoder/pos_embed", "encoder/norm/scale"} & matrix


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_arrays_learn_together_as_they_would_one_by_one(tmp_path, kind):
    recipe = recipe_of(tmp_path, optimiser=kind, warmup=0, clip=0.5)
    shapes = {
        "blocks": {"kernel": (3, 8, 12), "bias": (3, 12)}, "deeper": {"kernel": (2, 8, 12)},
        "conv": {"kernel": (3, 3, 4, 12)}, "predict": {"kernel": (8, 2)}, "token": (1, 5),
        "gain": (7,),
    }  # fmt: skip
    random = np.random.default_rng(0)
    draw = partial(
        jax.tree.map,
        lambda shape: jnp.asarray(random.standard_normal(shape), jnp.float32),
        is_leaf=lambda x: isinstance(x, tuple),
    )
    together, weights = optimiser_for(recipe), draw(shapes)
    rate = optax.warmup_cosine_decay_schedule(0.0, 1e-2, 0, recipe.steps, 1e-4)
    if kind == "adamw":
        mask = jax.tree.map(lambda x: x.ndim > 1, weights)
        rule = optax.adamw(rate, b1=0.9, b2=0.95, weight_decay=recipe.weight_decay, mask=mask)
    else:
        axes = jax.tree.map(lambda x: None, weights)
        axes["conv"]["kernel"] = MuonDimensionNumbers((0, 1, 2), 3)
        axes["blocks"]["kernel"] = axes["deeper"]["kernel"] = MuonDimensionNumbers(1, 2)
        rule = muon(
            rate, beta=0.95, consistent_rms=0.2, adam_b1=0.9, adam_b2=0.95,
            weight_decay=recipe.weight_decay, muon_weight_dimension_numbers=axes,
        )  # fmt: skip
    alone = optax.chain(optax.clip_by_global_norm(0.5), rule)
    states = together.init(weights), alone.init(weights)
    for _ in range(3):
        slopes = draw(shapes)
        found, one = together.update(slopes, states[0], weights)
        expected, other = alone.update(slopes, states[1], weights)
        states = one, other
        near = partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-7)
        jax.tree.map(near, found, expected)
        weights = optax.apply_updates(weights, found)
