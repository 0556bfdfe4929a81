# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Images of several cameras at several instants: each layout is what it says, weight by weight."""

import json
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_model import CONFIG, GOLDEN, max_error, official, weights
from safetensors.numpy import load_file, save_file

from vggt_ros.errors import UserError
from vggt_ros.model.capture import capture_intermediates
from vggt_ros.model.checkpoint import open_weights, read_config, save
from vggt_ros.model.config import Config
from vggt_ros.model.vggt import abstract_model, functional
from vggt_ros.model.weights import abstract, flatten
from vggt_ros.tools.verify import verify

pytestmark = pytest.mark.slow

VIEW_TIME = replace(CONFIG, layout="view_time")
TIME_VIEW = replace(CONFIG, layout="view_time", order=("time", "view"))
PARTS = tuple(GOLDEN / f"weights_{n}.safetensors" for n in ("aggregator", "camera_dpt", "track"))
# Rounding of other shapes of the same products, as between frames of a batch (see engine_rig).
POSE, DENSE = 1e-5, 7e-5


@cache
def images(t: int, v: int) -> np.ndarray:
    """Smooth random images of one scene."""
    random = np.random.default_rng(10 * t + v)
    coarse = random.random((1, t, v, 4, 6, 3), np.float32)
    return np.kron(coarse, np.ones((1, 1, 1, 7, 7, 1), np.float32))


@cache
def network(config: Config, heads=("camera", "depth")):
    return jax.jit(functional(abstract_model(config, heads))[0])


def outputs(config: Config, shown: np.ndarray, tree=None):
    """Pose encodings and depth, frames (or instants and views) first."""
    tree = {k: v for k, v in (tree or weights()).items() if k not in ("point_head", "track_head")}
    found = network(config)(tree, jnp.asarray(shown))
    return np.asarray(found.pose_encoding[0]), np.asarray(found.depth[0])


def assert_close(found, expected):
    assert max_error(found[0], expected[0]) <= POSE
    assert max_error(found[1], expected[1]) <= DENSE


@cache
def taps_of(config: Config, views: int | None):
    """The aggregator on patch tokens alone, as a function of its weights."""
    graph = nnx.split(abstract_model(config, ()))[0]

    @jax.jit
    def run(tree, patches):
        return nnx.merge(graph, tree).aggregator(patches, (2, 3), views)

    return run


def taps(config: Config, patches, views: int | None, tree=None) -> list[np.ndarray]:
    tree = tree or weights()
    tree = {"encoder": tree["encoder"], "aggregator": tree["aggregator"]}
    return [np.asarray(tap) for tap in taps_of(config, views)(tree, patches)]


@cache
def patches(s: int) -> jax.Array:
    return jax.random.normal(jax.random.key(s), (2, s, 6, 48))


# ---- golden cases -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rig_view_time", "rig_time_view"])
def test_every_tensor_of_a_recorded_rig_is_within_tolerance(name, capsys):
    """Recorded with the official blocks and heads in PyTorch, in the order of the file's name."""
    case = GOLDEN / f"{name}.safetensors"
    assert verify(GOLDEN / f"{name}.json", PARTS, case) == 0
    shown = capsys.readouterr().out
    compared = {line.split()[0] for line in shown.splitlines() if line.endswith(" yes")}
    assert compared == {key for key in load_file(case) if not key.startswith("in.")}
    assert {"agg.tokens_in", "agg.view.3", "agg.time.3", "out.pose_enc"} <= compared


def test_a_recorded_rig_is_another_network_than_the_official_one(capsys):
    assert verify(GOLDEN / "config.json", PARTS, GOLDEN / "rig_view_time.safetensors") == 1
    shown = capsys.readouterr().out
    assert "not compared, for this network has no such stage: agg.time.0" in shown


def test_a_layout_may_stand_beside_the_dimensions(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"config": CONFIG.to_dict(), "layout": "view_time", "order": ["time", "view"]})
    )
    assert read_config(tmp_path / "config.json") == TIME_VIEW
    assert read_config(GOLDEN / "rig_view_time.json") == VIEW_TIME


# ---- joint ------------------------------------------------------------------------------------


def test_joint_is_the_official_network_on_all_images_instant_by_instant():
    shown = images(2, 3)
    pose, depth = outputs(CONFIG, shown)
    expected = outputs(CONFIG, shown.reshape(1, 6, *shown.shape[3:]))
    assert pose.shape == (2, 3, 9) and depth.shape == (2, 3, 28, 42)
    assert_close((pose.reshape(6, 9), depth.reshape(6, 28, 42)), expected)


def test_every_output_has_both_axes_and_a_query_is_in_the_first_image():
    apply = functional(abstract_model(VIEW_TIME))[0]
    points = jnp.zeros((1, 5, 2))
    out = jax.eval_shape(apply, abstract(VIEW_TIME), jnp.zeros((1, 2, 3, 28, 42, 3)), points)
    shapes = {name: x.shape for name, x in out._asdict().items()}
    assert shapes["pose_encodings"] == (4, 1, 2, 3, 9) and shapes["points"] == (1, 2, 3, 28, 42, 3)
    assert shapes["tracks"] == (1, 2, 3, 5, 2) and shapes["track_iterations"] == (4, 1, 2, 3, 5, 2)
    case = load_file(GOLDEN / "rig_view_time.safetensors")
    shown = jnp.asarray(np.moveaxis(case["in.images"], -3, -1))
    found = capture_intermediates(VIEW_TIME, weights(), shown, jnp.asarray(case["in.query_points"]))
    assert np.array_equal(found["out.track"][:, 0, 0], case["in.query_points"])


# ---- view_time --------------------------------------------------------------------------------


def test_one_instant_in_the_order_time_view_is_the_official_network():
    shown = images(1, 4)
    pose, depth = outputs(TIME_VIEW, shown)
    assert_close((pose[0], depth[0]), outputs(CONFIG, shown[:, 0]))
    for found, expected in zip(
        taps(TIME_VIEW, patches(4), 4), taps(CONFIG, patches(4), None), strict=True
    ):
        assert np.array_equal(found, expected)


def test_one_view_in_the_order_view_time_is_the_official_network_with_its_blocks_exchanged():
    stages = weights()["aggregator"]["stages"]
    exchanged = {
        i: {"frame_blocks": s["global_blocks"], "global_blocks": s["frame_blocks"]}
        for i, s in stages.items()
    }
    tree = weights() | {"aggregator": weights()["aggregator"] | {"stages": exchanged}}
    for found, expected in zip(
        taps(VIEW_TIME, patches(3), 1), taps(CONFIG, patches(3), None, tree), strict=True
    ):
        frame, everywhere = np.split(expected, 2, axis=-1)  # in official order: frame, global
        assert np.array_equal(found, np.concatenate([everywhere, frame], axis=-1))


@pytest.mark.parametrize(("t", "v"), [(3, 1), (2, 3)])
@pytest.mark.parametrize("config", [VIEW_TIME, TIME_VIEW], ids=lambda config: config.order[0])
def test_each_attention_sees_its_slices_only(config, t, v):
    """Against a plain loop: every instant by itself, every view by itself, block by block."""
    graph = nnx.split(abstract_model(config, ()))[0]
    tree = {"encoder": weights()["encoder"], "aggregator": weights()["aggregator"]}

    @jax.jit
    def by_slices(tree, x):
        aggregator = nnx.merge(graph, tree).aggregator
        rope, out = aggregator.rope((2, 3)), []
        x = aggregator.embed(x)
        b, _, p, d = x.shape
        x = x.reshape(b, t, v, p, d)
        for stage in aggregator.stages:
            for i in range(len(jax.tree.leaves(stage.frame_blocks)[0])):
                record = {}
                for kind in config.order:
                    stack = stage.view_blocks if kind == "view" else stage.time_blocks
                    block = jax.tree.map(lambda w, i=i: w[i], stack)
                    if kind == "view":
                        slices = [block(x[:, j].reshape(b, v * p, d), rope) for j in range(t)]
                        x = jnp.stack([y.reshape(b, v, p, d) for y in slices], axis=1)
                    else:
                        slices = [block(x[:, :, j].reshape(b, t * p, d), rope) for j in range(v)]
                        x = jnp.stack([y.reshape(b, t, p, d) for y in slices], axis=2)
                    record[kind] = x
                both = jnp.concatenate([record["time"], record["view"]], axis=-1)
                out.append(both.reshape(b, t * v, p, 2 * d))
        return out

    for found, expected in zip(
        taps(config, patches(t * v), v)[:4], by_slices(tree, patches(t * v)), strict=True
    ):
        assert max_error(found, expected) <= 5e-5


def test_the_first_special_tokens_are_those_of_the_first_image_alone():
    shown = jnp.asarray(images(2, 2))
    found = capture_intermediates(VIEW_TIME, weights(), shown)["agg.tokens_in"]
    special = np.asarray(found)[0, :, :, :5].reshape(4, 5, 48)
    tokens = weights()["aggregator"]
    given = np.concatenate([tokens["camera_token"], tokens["register_token"]], axis=2)[0]
    assert np.array_equal(special, given[[0, 1, 1, 1]])


@pytest.mark.parametrize("axis", ["view", "time"])
def test_views_and_instants_other_than_the_first_may_be_permuted(axis):
    """There is no time signal, and time attention is not causal."""
    shown, order = images(4, 4), [0, 3, 1, 2]
    at = (slice(None), order) if axis == "time" else (slice(None), slice(None), order)
    straight, permuted = outputs(VIEW_TIME, shown), outputs(VIEW_TIME, shown[at])
    assert_close(permuted, [x[at[1:]] for x in straight])
    swapped = outputs(VIEW_TIME, shown[:, [1, 0, 2, 3]])
    assert max_error(swapped[1], straight[1][[1, 0, 2, 3]]) > 1e-3


def test_the_layout_is_chosen_by_the_rank_of_the_images():
    """One view is still a view, and a sequence without that axis is the official network."""
    shown = images(3, 1)
    sequence = outputs(VIEW_TIME, shown[:, :, 0])
    assert_close(sequence, outputs(CONFIG, shown[:, :, 0]))
    assert max_error(outputs(VIEW_TIME, shown)[1][:, 0], sequence[1]) > 1e-3


def test_a_weight_is_stored_once_and_has_both_names(tmp_path):
    shapes = flatten(abstract(VIEW_TIME))
    assert shapes.keys() == flatten(abstract(CONFIG)).keys()
    stage = abstract_model(VIEW_TIME, ()).aggregator.stages[0]
    assert stage.view_blocks is stage.global_blocks and stage.time_blocks is stage.frame_blocks
    renamed = {n.replace("global_blocks", "view_blocks"): x for n, x in official().items()}
    save_file(renamed, tmp_path / "model.safetensors")
    _, tree, report = open_weights(tmp_path / "model.safetensors", VIEW_TIME)
    assert report.balanced and flatten(tree).keys() == shapes.keys()
    save(tmp_path / "own.safetensors", TIME_VIEW, tree)
    assert open_weights(tmp_path / "own.safetensors")[0] == TIME_VIEW


def test_faults_of_a_layout_are_named_and_the_official_one_is_not_written():
    tree = CONFIG.to_dict()
    assert not {"layout", "order"} & tree.keys()
    with pytest.raises(UserError, match="no layout is called 'views'; there are joint, view_time"):
        Config.from_dict(tree | {"layout": "views"})
    with pytest.raises(UserError, match="must name view and time"):
        Config.from_dict(tree | {"layout": "view_time", "order": ["view", "frame"]})
    backwards = tree["aggregator"] | {"aa_order": ["global", "frame"]}
    with pytest.raises(UserError, match="blocks that alternate"):
        Config.from_dict(tree | {"layout": "view_time", "aggregator": backwards})
    by_aa_order = tree["aggregator"] | {"aa_order": ["time", "view"]}
    named = Config.from_dict(tree | {"layout": "view_time", "aggregator": by_aa_order})
    assert named == TIME_VIEW and Config.from_dict(named.to_dict()) == TIME_VIEW
