# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Global attention to some tokens: dense where it sees all, and what else it sees."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_model import CONFIG, case, max_error, official, weights

from vggt_ros.errors import UserError
from vggt_ros.model.config import Config
from vggt_ros.model.vggt import abstract_model, functional
from vggt_ros.model.weights import flatten, read

pytestmark = pytest.mark.slow

HEADS = ("camera", "depth")
ALL = replace(CONFIG, layout="sparse_global", landmarks=15)  # mini_rect has 15 patches
FEW = replace(ALL, landmarks=4)
NONE = replace(ALL, landmarks=0)
MEMORY = replace(CONFIG, layout="sparse_global", strategy="memory_bank", memory_tokens=6)


@cache
def loaded(config: Config):
    return read(config, official(), HEADS)


def outputs(config: Config, tree):
    images = jnp.asarray(np.moveaxis(case("mini_rect")["in.images"], -3, -1))
    tree = {name: part for name, part in tree.items() if name not in ("point_head", "track_head")}
    return jax.jit(functional(abstract_model(config, HEADS))[0])(tree, images)


def taps(config: Config, patches, memory_mask=None, weights=None):
    """The aggregator's outputs for patch tokens of a grid of 3 x 5."""
    graph = nnx.split(abstract_model(config, ()))[0]
    tree = weights or loaded(config)[0]
    tree = {part: tree[part] for part in ("encoder", "aggregator")}
    options = {} if memory_mask is None else {"memory_mask": jnp.asarray(memory_mask)}

    @jax.jit
    def run(tree, patches):
        return nnx.merge(graph, tree).aggregator(patches, (3, 5), **options)

    return run(tree, patches)


@cache
def patches(s: int = 3) -> jax.Array:
    return jax.random.normal(jax.random.key(s), (2, s, 15, 48))


def test_as_many_landmarks_as_patches_are_the_official_network():
    assert loaded(ALL)[1].balanced and not loaded(ALL)[1].neutral
    found, expected = outputs(ALL, weights()), outputs(CONFIG, weights())
    assert max_error(found.pose_encoding, expected.pose_encoding) <= 1e-5
    assert max_error(found.depth, expected.depth) <= 7e-5
    more = taps(replace(ALL, landmarks=99), patches())
    assert all(max_error(x, y) <= 5e-5 for x, y in zip(more, taps(ALL, patches()), strict=True))
    assert max_error(taps(FEW, patches())[-1], more[-1]) > 1e-3


def test_one_image_is_seen_whole_with_any_number_of_landmarks():
    for config in (FEW, NONE):
        for x, y in zip(taps(config, patches(1)), taps(ALL, patches(1)), strict=True):
            assert max_error(x, y) <= 5e-5


def test_an_image_sees_itself_all_special_tokens_and_landmarks_of_the_others():
    aggregator = abstract_model(FEW, ()).aggregator
    index, stands_for = aggregator.seen(3, 20)
    assert index.shape == stands_for.shape == (3, 20 + 2 * (5 + 4))
    special = np.arange(5)
    for image in range(3):
        seen = set(index[image])
        assert len(seen) == len(index[image]) and list(index[image]) == sorted(seen)
        for other in range(3):
            assert set(20 * other + special) <= seen
        assert set(range(20 * image, 20 * image + 20)) <= seen
        assert stands_for[image].sum() == pytest.approx(3 * 20)  # every patch is stood for


def test_a_sparse_block_is_masked_dense_attention():
    """Against dense attention with the tokens left out that an image does not see."""
    graph = nnx.split(abstract_model(FEW, ()))[0]
    tree = {part: loaded(FEW)[0][part] for part in ("encoder", "aggregator")}
    x = jax.random.normal(jax.random.key(1), (1, 3, 20, 48))

    @jax.jit
    def both(tree, x):
        aggregator = nnx.merge(graph, tree).aggregator
        block = jax.tree.map(lambda w: w[0], aggregator.stages[0].global_blocks)
        rope = aggregator.rope((3, 5))
        sparse = aggregator.sparse_block(block, x, jnp.zeros((1, 0, 48)), rope)[0]
        index, stands_for = aggregator.seen(3, 20)
        tokens, dense = x.reshape(1, 60, 48), []
        for image in range(3):
            bias = np.full(60, -1e30, np.float32)
            bias[index[image]] = np.log(stands_for[image])
            dense.append(block(tokens, rope, key_bias=jnp.asarray(bias)[None]))
        rows = [out[:, 20 * i : 20 * i + 20] for i, out in enumerate(dense)]
        return sparse.reshape(1, 60, 48), jnp.concatenate(rows, axis=1)

    sparse, dense = both(tree, x)
    assert max_error(sparse, dense) <= 1e-5


def test_memory_tokens_that_are_masked_out_change_nothing():
    report = loaded(MEMORY)[1]
    assert report.complete and report.neutral == ("aggregator.memory_tokens",)
    assert loaded(MEMORY)[0]["aggregator"]["memory_tokens"].shape == (1, 6, 48)
    without = taps(NONE, patches())
    hidden = taps(MEMORY, patches(), np.zeros(6, bool))
    for x, y in zip(hidden, without, strict=True):
        assert max_error(x, y) <= 5e-5
    seen = taps(MEMORY, patches())
    assert max_error(seen[-1], without[-1]) > 1e-3
    # those that are masked out may be any
    others = np.random.default_rng(3).normal(size=(1, 6, 48)).astype(np.float32)
    others[:, :3] = loaded(MEMORY)[0]["aggregator"]["memory_tokens"][:, :3]
    aggregator = loaded(MEMORY)[0]["aggregator"] | {"memory_tokens": jnp.asarray(others)}
    mask = np.arange(6) < 3
    changed = taps(MEMORY, patches(), mask, loaded(MEMORY)[0] | {"aggregator": aggregator})
    for x, y in zip(taps(MEMORY, patches(), mask), changed, strict=True):
        assert np.array_equal(x, y)


def test_memory_carries_what_other_images_show():
    """Without a patch of another image in sight, a change in it is seen through the memory."""
    x = patches()
    y = x.at[:, 2, 7].add(3.0)
    through_special = max_error(taps(NONE, x)[0][:, 1], taps(NONE, y)[0][:, 1])
    through_memory = max_error(taps(MEMORY, x)[0][:, 1], taps(MEMORY, y)[0][:, 1])
    assert through_special > 0 and through_memory > 0
    assert max_error(taps(MEMORY, x)[0][:, 0], taps(NONE, x)[0][:, 0]) > 1e-4


def test_faults_of_its_settings_are_named():
    tree = CONFIG.to_dict() | {"layout": "sparse_global"}
    with pytest.raises(UserError, match="no strategy is called 'topk': landmark or memory_bank"):
        Config.from_dict(tree | {"strategy": "topk"})
    with pytest.raises(UserError, match="landmarks must be 0 or more"):
        Config.from_dict(tree | {"landmarks": -1})
    assert Config.from_dict(MEMORY.to_dict()) == MEMORY
    assert {"strategy", "landmarks", "memory_tokens"} <= MEMORY.to_dict().keys()
    assert not {"strategy", "landmarks", "memory_tokens", "order"} & CONFIG.to_dict().keys()
    assert flatten(loaded(MEMORY)[0]).keys() - flatten(loaded(ALL)[0]).keys() == {
        ("aggregator", "memory_tokens")
    }
