# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Two streams: from an official checkpoint the official network, and what the mask then does."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_model import CONFIG, case, max_error, official, weights
from safetensors.numpy import save_file

from vggt_ros.model.checkpoint import open_weights, save
from vggt_ros.model.config import Config
from vggt_ros.model.vggt import PRESETS, abstract_model, functional
from vggt_ros.model.weights import abstract, flatten, read

pytestmark = pytest.mark.slow

DUAL = replace(CONFIG, layout="dual_stream")
HEADS = ("camera", "depth")
POSE, DENSE = 1e-5, 7e-5  # rounding between two programs of one network (see engine_rig)


@cache
def loaded():
    """Weights of two streams from the official ones, and the report."""
    return read(DUAL, official(), HEADS)


@cache
def network(config: Config):
    return jax.jit(functional(abstract_model(config, HEADS))[0])


def outputs(config, tree):
    images = jnp.asarray(np.moveaxis(case("mini_rect")["in.images"], -3, -1))
    tree = {name: part for name, part in tree.items() if name not in ("point_head", "track_head")}
    return network(config)(tree, images)


def changed(*path, value):
    """The weights with one array of the aggregator replaced."""
    flat = flatten(loaded()[0])
    tree: dict = {}
    for key, leaf in flat.items():
        node = tree
        for part in key[:-1]:
            node = node.setdefault(part, {})
        node[key[-1]] = value if key[1:] == path else leaf
    return tree


def test_from_an_official_checkpoint_it_is_the_official_network():
    found, expected = outputs(DUAL, loaded()[0]), outputs(CONFIG, weights())
    assert max_error(found.pose_encoding, expected.pose_encoding) <= POSE
    assert max_error(found.depth, expected.depth) <= DENSE
    assert max_error(found.depth_confidence, expected.depth_confidence) <= DENSE


def test_the_new_parts_are_reported_as_copies_and_as_neutral():
    tree, report = loaded()
    assert report.complete and not report.unexpected
    blocks = [name for name in report.loaded if "_blocks." in name and "patch_embed" not in name]
    assert len(report.copied) == 2 * len(blocks)
    assert ("aggregator.pose_frame_blocks.2.attn.qkv.weight",
            "aggregator.frame_blocks.2.attn.qkv.weight") in report.copied  # fmt: skip
    assert set(report.neutral) == {
        *(f"aggregator.lambda_{kind}_logit" for kind in ("pose", "geo")),
        *(f"aggregator.spatial_mask_head.{part}.{leaf}" for part in ("norm", "mlp.fc1", "mlp.fc2")
          for leaf in ("weight", "bias")),
    }  # fmt: skip
    assert "which is fine: new parts that start as copies: aggregator.geo_frame" in str(report)
    stage, ours = tree["aggregator"]["stages"][1], weights()["aggregator"]["stages"][1]
    for stream in ("pose", "geo"):
        copy = stage[f"{stream}_global_blocks"]["attn"]["qkv"]["kernel"]
        assert np.array_equal(copy, ours["global_blocks"]["attn"]["qkv"]["kernel"])


def test_each_stream_has_its_readers():
    """A change of one stream's last blocks reaches the heads that read it, and no others."""
    straight = outputs(DUAL, loaded()[0])
    last = max(loaded()[0]["aggregator"]["stages"])
    apart = jnp.full((), -1e9)  # no exchange
    for stream, moved, kept in (
        ("pose", "pose_encoding", "depth"),
        ("geo", "depth", "pose_encoding"),
    ):
        path = ("stages", last, f"{stream}_global_blocks", "mlp", "fc2", "bias")
        tree = changed(*path, value=jnp.full((1, 48), 0.5))
        for kind in ("pose", "geo"):
            tree["aggregator"][f"lambda_{kind}_logit"] = apart
        found = outputs(DUAL, tree)
        assert max_error(getattr(found, moved), getattr(straight, moved)) > 1e-3
        assert max_error(getattr(found, kept), getattr(straight, kept)) <= DENSE


def test_what_the_mask_takes_for_moving_is_not_seen_by_the_cameras():
    """With the weight of every patch at zero only special tokens are attended to."""
    graph = nnx.split(abstract_model(DUAL, ()))[0]
    tree = changed("spatial_mask_head", "mlp", "fc2", "bias", value=jnp.full(1, 200.0))
    tree = {part: tree[part] for part in ("encoder", "aggregator")}
    x = jax.random.normal(jax.random.key(0), (1, 2, 9, 48))

    @jax.jit
    def both(tree, x):
        aggregator = nnx.merge(graph, tree).aggregator
        stage = aggregator.stages[0]
        layers = {
            name: jax.tree.map(lambda w: w[0], getattr(stage, f"{name}_blocks"))
            for name in ("pose_frame", "pose_global", "geo_frame", "geo_global")
        }
        bias = aggregator.log_weights(x)
        seen = layers["pose_global"](x.reshape(1, 18, 48), key_bias=bias.reshape(1, 18))
        special = jnp.concatenate([x[:, 0, :5], x[:, 1, :5]], axis=1)
        alone = layers["pose_global"](special, None, special)
        return bias, seen.reshape(1, 2, 9, 48)[:, :, :5].reshape(1, 10, 48), alone

    bias, seen, alone = both(tree, x)
    assert not bias[:, :, :5].any() and (bias[:, :, 5:] < -100).all()
    assert max_error(seen, alone) <= 1e-5


def test_gradients_reach_every_new_part():
    tree = loaded()[0]
    images = jnp.asarray(np.moveaxis(case("mini_rect")["in.images"], -3, -1))[:1]
    graph = nnx.split(abstract_model(DUAL, HEADS))[0]

    def loss(aggregator):
        network = nnx.merge(graph, tree | {"aggregator": aggregator})
        out = network(images)
        return (out.pose_encoding**2).sum() + out.depth.mean()

    # one exchange that is not of equal streams, so that its share matters
    aggregator = changed("spatial_mask_head", "mlp", "fc2", "bias", value=jnp.full(1, 1.0))
    found = jax.jit(jax.grad(loss))(aggregator["aggregator"])
    for name in ("lambda_pose_logit", "lambda_geo_logit"):
        assert abs(float(found[name])) > 0
    assert float(jnp.abs(found["spatial_mask_head"]["mlp"]["fc2"]["kernel"]).max()) > 0


def test_a_file_of_ours_is_widened_and_written(tmp_path):
    save(tmp_path / "official.safetensors", CONFIG, weights())
    _, from_own, report = open_weights(tmp_path / "official.safetensors", DUAL, HEADS)
    assert report.complete and report.copied and report.neutral
    for path, leaf in flatten(from_own).items():
        assert np.array_equal(leaf, flatten(loaded()[0])[path]), path
    small = replace(PRESETS["small"].config, layout="dual_stream")
    assert open_weights("small", small, HEADS)[2].complete  # a file of version 1
    save(tmp_path / "dual.safetensors", DUAL, from_own)
    config, back, report = open_weights(tmp_path / "dual.safetensors")
    assert config == DUAL and report.balanced and not (report.copied or report.neutral)
    assert flatten(back).keys() == flatten(abstract(DUAL, HEADS)).keys()
    half = {n: t for n, t in official().items() if "frame_blocks.1." not in n}
    save_file(half, tmp_path / "half.safetensors")
    _, report = open_weights(tmp_path / "half.safetensors", DUAL, HEADS, partial=True)[1:]
    assert {n.split(".")[1] for n in report.missing} == {"pose_frame_blocks", "geo_frame_blocks"}
