# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The streaming engine in every layout, against the whole pass of the same window in it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engine_rig import DENSE, POSE, QUERIES, TRACK, golden, images_of, tensors

from vggt_ros.engine.compiler import HEADS
from vggt_ros.engine.engine import Engine, open_engine
from vggt_ros.engine.shapes import WindowProgram, by_views, of_views, prepared
from vggt_ros.errors import UserError
from vggt_ros.model.checkpoint import save
from vggt_ros.model.config import Config
from vggt_ros.model.random_weights import random_weights
from vggt_ros.model.vggt import Prediction, abstract_model, functional
from vggt_ros.model.weights import read

SETTINGS = {
    "dual_stream": {"layout": "dual_stream"},
    "landmark": {"layout": "sparse_global", "landmarks": 4},
    "memory_bank": {"layout": "sparse_global", "strategy": "memory_bank", "memory_tokens": 5},
    "view_time": {"layout": "view_time"},
}


def network(name: str) -> tuple[Config, dict]:
    """The golden network in a layout, whose new parts have an effect."""
    config = replace(golden()[0], **SETTINGS[name])
    weights, _ = read(config, tensors(), HEADS)
    random = np.random.default_rng(1)

    def shaken(x):
        noise = (0.02 * float(np.std(x)) or 0.02) * random.standard_normal(np.shape(x))
        return jnp.asarray(x + noise, x.dtype)

    return config, weights | {"aggregator": jax.tree.map(shaken, weights["aggregator"])}


def opened(config: Config, weights: dict) -> Engine:
    return Engine(
        "own", config, weights, device=jax.devices()[0], dtype=np.dtype("float32"),
        default_width=56, random=False,
    )  # fmt: skip


def whole_pass(config: Config, weights: dict):
    """A compiled function of images [s, h, w, 3], or [t, v, h, w, 3], of uint8."""
    apply = jax.jit(functional(abstract_model(config, HEADS))[0])

    def run(images: np.ndarray, queries: np.ndarray) -> Prediction:
        return apply(weights, jnp.asarray(images[None], jnp.float32) / 255, queries[None])

    return run


def compare(found, out: Prediction, frames: int, depth_frames: int) -> None:
    """`out` with its axes of instants and views as one."""

    def flat(x, tail: int) -> np.ndarray:
        return np.asarray(x).reshape(frames, *np.shape(x)[np.ndim(x) - tail :])

    near = np.testing.assert_allclose
    near(found.pose_encoding, flat(out.pose_encoding, 1), atol=POSE)
    near(found.depth, flat(out.depth, 2)[-depth_frames:], atol=DENSE)
    near(found.confidence, flat(out.depth_confidence, 2)[-depth_frames:], atol=DENSE)
    if found.tracks is not None:
        near(found.tracks, flat(out.tracks, 2), atol=TRACK)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("unrolled", [False, True])
def test_a_sliding_window_equals_the_whole_pass(name: str, unrolled: bool, monkeypatch):
    monkeypatch.setattr("vggt_ros.engine.compiler.unrolls_layers", lambda _: unrolled)
    config, weights = network(name)
    engine, run, images = opened(config, weights), whole_pass(config, weights), images_of(4)
    for ids in ((0, 1, 2), (1, 2, 3)):
        window = [images[key] for key in ids]
        found = engine.infer(ids, window, depth_frames=1, queries=QUERIES)
        compare(found, run(np.stack(window), QUERIES), 3, 1)
        black = [np.zeros_like(image) for image in images[:3]]  # nothing is read again
        np.testing.assert_allclose(
            engine.infer(ids, black, depth_frames=1).depth, found.depth, atol=DENSE
        )


@pytest.mark.slow
def test_the_windows_of_a_rig_are_attended_by_views_and_others_as_one_sequence():
    config, weights = network("view_time")
    engine, run, images = opened(config, weights), whole_pass(config, weights), images_of(8)
    for first in (0, 2):  # by an instant of two cameras
        ids = tuple(range(first, first + 6))
        window = np.stack([images[key] for key in ids])
        found = engine.infer(ids, [*window], depth_frames=2, queries=QUERIES, views=2)
        compare(found, run(window.reshape(3, 2, *window.shape[1:]), QUERIES), 6, 2)
        as_sequence = engine.infer(ids, [*window], depth_frames=2)
        compare(as_sequence, run(window, QUERIES), 6, 2)
        assert np.abs(as_sequence.depth - found.depth).max() > 100 * DENSE
    alone = (0, 2, 4)  # the other camera is dead: views are of one camera, and time is among them
    window = np.stack([images[key] for key in alone])
    found = engine.infer(alone, [*window], depth_frames=1, views=1)
    compare(found, run(window[:, None], QUERIES), 3, 1)


def test_what_takes_the_place_of_a_window_by_views_has_whole_instants():
    wanted = WindowProgram((56, 56), 7, 6, 4, 0, views=2)
    assert str(wanted) == "window of 6 56x56, 2 views"
    assert [(shape.frames, shape.views) for shape in wanted.with_substitutes()] == [
        (6, 2), (4, 2), (2, 2), (1, 0)
    ]  # fmt: skip


@pytest.mark.parametrize("cameras", [2, 3])
def test_a_rig_whose_cameras_die_finds_its_programs(cameras: int):
    """Full windows of those that are left are by views too, and nobody waits for a compilation."""
    made = prepared((56, 56), 4, depth_frames=3, extra_views=1, track_queries=4, cameras=cameras)
    shapes = of_views(made, cameras)
    assert len(set(shapes)) == len(shapes) and shapes[:2] == [
        by_views(x, cameras) for x in made[:2]
    ]
    plain = {(x.frames, x.views) for x in shapes if isinstance(x, WindowProgram) and not x.queries}
    for alive in range(1, cameras + 1):
        assert (4 * alive, alive) in plain
    assert of_views(made, 0) == made, "of another layout"


@pytest.mark.slow
def test_the_layout_is_that_of_the_weights_or_the_one_that_is_named(tmp_path):
    config, weights = network("dual_stream")
    path = tmp_path / "own.safetensors"
    save(path, config, weights)
    assert open_engine(str(path)).layout == "dual_stream"
    official = golden()[0]
    path = tmp_path / "official.safetensors"
    save(path, official, random_weights(official, HEADS))
    assert open_engine(str(path)).layout == "joint"
    assert open_engine(str(path), layout="dual_stream").layout == "dual_stream"
    assert open_engine("tiny", layout="view_time").layout == "view_time"
    with pytest.raises(UserError, match="no layout is called 'views'"):
        open_engine("tiny", layout="views")
