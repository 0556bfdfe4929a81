# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""AdamW and Muon: updates, schedule, and that grouping of arrays does not change them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers, muon
from training_rig import MICRO, recipe_of

from vggt_ros.model.weights import abstract, flatten
from vggt_ros.train.optimiser import frozen, gathered, is_matrix, optimiser_for
from vggt_ros.train.schedule import learning_rate


def test_the_learning_rate_warms_up_and_decays(tmp_path):
    recipe = recipe_of(tmp_path, steps=100, warmup=10, weight_decay=0.0)
    optimiser = optimiser_for(recipe)
    weights = {"a": {"kernel": jnp.ones((2, 2))}}
    opt_state, sizes, update = optimiser.init(weights), [], jax.jit(optimiser.update)
    for _ in range(100):
        updates, opt_state = update(jax.tree.map(jnp.ones_like, weights), opt_state, weights)
        sizes.append(float(jnp.abs(updates["a"]["kernel"]).max()))
    assert sizes[0] == 0 and np.argmax(sizes) in range(9, 13) and sizes[-1] < 0.05 * max(sizes)


def test_the_learning_rate_is_optax_s_and_its_end_can_be_traced(tmp_path):
    recipe = recipe_of(tmp_path, steps=100, warmup=10, final_share=0.02)
    expected = optax.warmup_cosine_decay_schedule(0.0, 1e-2, 10, 100, 0.02 * 1e-2)
    rates = jax.jit(partial(learning_rate, recipe))(jnp.int32(100), jnp.arange(120))
    np.testing.assert_allclose(rates, expected(jnp.arange(120)), rtol=1e-5, atol=1e-9)
    late = learning_rate(recipe, jnp.int32(190), 100)  # half way from the warm-up to 190
    np.testing.assert_allclose(late, 0.51e-2, rtol=1e-5)


def test_muon_orthogonalises_matrices_and_leaves_tokens_to_adamw(tmp_path):
    recipe = recipe_of(tmp_path, optimiser="muon", warmup=0, weight_decay=0.0, clip=1e6)
    optimiser = optimiser_for(recipe)
    random = np.random.default_rng(0)
    grad = random.standard_normal((2, 8, 12)).astype(np.float32)
    grad[:, 0] *= 100  # one direction dominates
    weights = {"blocks": {"kernel": jnp.zeros((2, 8, 12))}, "pos_embed": jnp.zeros((1, 4, 8))}
    grads = {"blocks": {"kernel": jnp.asarray(grad)}, "pos_embed": jnp.ones((1, 4, 8))}
    update = jax.jit(optimiser.update)
    updates, _ = update(grads, optimiser.init(weights), weights)
    scaled, _ = update(jax.tree.map(lambda x: 10 * x, grads), optimiser.init(weights), weights)
    for layer in np.asarray(updates["blocks"]["kernel"]):
        sizes = np.linalg.svd(layer, compute_uv=False)
        assert sizes.max() < 3 * sizes.min()
    near = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-8)
    jax.tree.map(near, updates, scaled)
    token = -np.asarray(updates["pos_embed"]) / recipe.learning_rate  # Adam's sign, with momentum
    assert 0.9 < token.min() and token.max() < 1.6
    leaves = flatten(abstract(MICRO, ("camera", "depth"))).items()
    named = {"/".join(map(str, path)): x for path, x in leaves}
    matrix = {path for path, x in named.items() if is_matrix(path, x)}
    assert {"encoder/blocks/mlp/fc1/kernel", "depth_head/output_conv2/kernel"} <= matrix
    assert not {"depth_head/predict/kernel", "encoder/pos_embed", "encoder/norm/scale"} & matrix


def test_weights_are_frozen_by_their_names_or_those_of_format_version_1(tmp_path):
    weights = abstract(MICRO, ("camera",))
    masks = [
        flatten(frozen(recipe_of(tmp_path, freeze=[pattern]), weights))
        for pattern in ("aggregator/.*", "tower/.*")
    ]
    assert masks[0] == masks[1] == {path: path[0] == "aggregator" for path in masks[0]}


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_groups_have_the_order_of_format_version_1(tmp_path, kind):
    """Saved optimiser states are concatenated in this order."""
    recipe = recipe_of(tmp_path, optimiser=kind)
    weights = {
        "aggregator": {"kernel": jnp.ones((2, 2))},
        "camera_head": {"kernel": jnp.zeros((2, 2))},
    }
    (group,) = gathered(recipe, weights).values()
    assert group.ravel().tolist() == [0.0] * 4 + [1.0] * 4  # then "camera" and "tower"


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_grouped_arrays_get_the_updates_of_single_ones(tmp_path, kind):
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
    updates = jax.jit(together.update), jax.jit(alone.update)
    for _ in range(3):
        grads = draw(shapes)
        found, one = updates[0](grads, states[0], weights)
        expected, other = updates[1](grads, states[1], weights)
        states = one, other
        near = partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-7)
        jax.tree.map(near, found, expected)
        weights = optax.apply_updates(weights, found)
