# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Accuracy on this device, against recorded outputs and between precisions."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from benchmarks.gpu_rows.setup import Setup, attempt
from vggt_ros.engine.compiler import Compiler
from vggt_ros.engine.device import choose_device
from vggt_ros.model.capture import capture_intermediates
from vggt_ros.model.config import Config
from vggt_ros.model.random_weights import random_weights
from vggt_ros.model.vggt import HEADS, Prediction, abstract_model, functional
from vggt_ros.model.weights import abstract, read
from vggt_ros.tools.bench.main import Row
from vggt_ros.tools.bench.step import Stepper

GOLDEN = Path(__file__).resolve().parents[2] / "test" / "golden"
NAMES = {  # ours: the reference's
    "pose_encoding": "out.pose_enc",
    "depth": "out.depth",
    "depth_confidence": "out.depth_conf",
    "points": "out.world_points",
    "points_confidence": "out.world_points_conf",
    "tracks": "out.track",
    "visibility": "out.vis",
    "track_confidence": "out.conf",
}
QUERIES = 16


def golden(setup: Setup) -> Iterator[Row]:
    """Errors against the reference's recorded outputs in float32, over their tolerances."""
    tree = json.loads((GOLDEN / "config.json").read_text())
    config = Config.from_dict(tree["config"])
    tensors = {k: v for file in tree["weight_files"] for k, v in load_file(GOLDEN / file).items()}
    weights = read(config, tensors)[0]
    tolerances = json.loads((GOLDEN / "tolerance.json").read_text())
    forward = jax.jit(functional(abstract_model(config))[0])
    for case, allowed in tolerances.items():

        def row(case: str = case, allowed: dict = allowed) -> list[Row]:
            expected = load_file(GOLDEN / f"{case}.safetensors")
            images = jnp.asarray(expected["in.images"].transpose(0, 1, 3, 4, 2))
            queries = jnp.asarray(expected["in.query_points"])
            with jax.default_matmul_precision("highest"):
                found = _named(forward(weights, images, queries))
                worst, share = worst_output(found, expected, allowed)
                against = f"at most 1; worst is {worst}"
                if not share <= 1:
                    try:
                        stages = capture_intermediates(config, weights, images, queries)
                        against += f"; first beyond is {_first_beyond(stages, expected, allowed)}"
                    except Exception as fault:  # the figure itself is known
                        against += f"; its stages could not be recorded ({type(fault).__name__})"
            return [Row(f"golden_over_tolerance/float32/{case}", share, "ratio", "lower", against)]

        yield from attempt(f"golden_over_tolerance/float32/{case}", row)


def errors(setup: Setup) -> Iterator[Row]:
    """A step against a full pass in float32, bfloat16 against float32; untrained weights."""
    device, s = choose_device(), min(setup.options.windows)
    whole = random_weights(setup.config, HEADS, np.float32, pooled_on=device)
    frames = np.random.default_rng(0).integers(0, 256, (s, *setup.size, 3), np.uint8)
    images = jax.device_put(frames[None].astype(np.float32) / 255, device)
    across = np.linspace(0.2, 0.8, QUERIES, dtype=np.float32)[None, :, None]
    queries = jax.device_put(across * np.float32(setup.size[::-1]), device)

    def forward(weights: Any, dtype: Any) -> Prediction:
        model = abstract_model(setup.config, HEADS, dtype, dtype)
        return jax.jit(functional(model)[0])(weights, images, queries)

    with jax.default_matmul_precision("highest"):
        exact = forward(whole, jnp.float32)
        yield from attempt(
            f"stream_off_full/float32/{setup.name(s)}",
            lambda: _stream_rows(setup, whole, frames, exact),
        )

    def half_rows() -> Iterator[Row]:
        shapes = abstract(setup.config, HEADS, jnp.bfloat16)
        half = jax.tree.map(lambda x, leaf: x.astype(leaf.dtype), whole, shapes)
        rough = forward(half, jnp.bfloat16)
        for name in NAMES:
            yield _off(f"bfloat16_error/{setup.name(s)}/{name}", rough, exact, name)

    yield from attempt(f"bfloat16_error/{setup.name(s)}", half_rows)


def _stream_rows(setup: Setup, weights: Any, frames: np.ndarray, full: Prediction) -> Iterator:
    """Outputs of a step and of the full pass: all cameras, depth of the newest frame."""
    s = len(frames)
    stepper = Stepper(setup.options, weights=weights)
    stepper.compile = Compiler(setup.config, np.dtype(np.float32), stepper.device, None)
    encode, infer = stepper.compiled(s)
    cache = stepper.empty_cache(s)
    for slot, frame in enumerate(frames):
        cache = encode(stepper.weights, cache, frame, np.int32(slot))
    nothing = np.zeros((0, 2), np.float32), np.zeros(0, bool), np.int32(0)
    order = np.arange(s, dtype=np.int32)
    pose, depth, confidence, *_ = infer(stepper.weights, cache, order, *nothing)
    found = Prediction(pose_encoding=pose, depth=depth, depth_confidence=confidence)
    assert full.pose_encoding is not None
    assert full.depth is not None and full.depth_confidence is not None
    expected = Prediction(
        pose_encoding=full.pose_encoding[0],
        depth=full.depth[0, -1:],
        depth_confidence=full.depth_confidence[0, -1:],
    )
    for name in ("pose_encoding", "depth", "depth_confidence"):
        yield _off(f"stream_off_full/float32/{setup.name(s)}/{name}", found, expected, name)


def _off(row: str, found: Prediction, expected: Prediction, name: str) -> Row:
    """Root mean square of the difference over that of the expected values."""
    x, y = (np.asarray(getattr(side, name), np.float64) for side in (found, expected))
    share = np.sqrt(((x - y) ** 2).mean() / (y**2).mean())
    against = f"of the values' root mean square; largest {np.abs(x - y).max():.3g}"
    return Row(row, float(share), "share", "lower", against)


def _named(prediction: Prediction) -> dict[str, np.ndarray]:
    found = {theirs: np.asarray(getattr(prediction, ours)) for ours, theirs in NAMES.items()}
    return found | {"out.depth": found["out.depth"][..., None]}


def worst_output(
    found: Mapping[str, Any], expected: Mapping[str, np.ndarray], allowed: Mapping[str, dict]
) -> tuple[str, float]:
    """The output of the largest error over its tolerance, and that ratio; NaN counts as largest."""
    shares = {
        name: float(np.abs(np.asarray(found[name], np.float64) - expected[name]).max())
        / allowed[name]["suggested_atol"]
        for name in found
        if name in expected and name in allowed
    }
    worst = max(shares, key=lambda name: np.nan_to_num(shares[name], nan=np.inf))
    return worst, shares[worst]


def _first_beyond(
    stages: Mapping[str, Any], expected: Mapping[str, np.ndarray], allowed: Mapping[str, dict]
) -> str:
    for name in allowed:  # in the order of computation; those of a compiled program are sorted
        if name in expected and name in stages:
            if not worst_output({name: stages[name]}, expected, allowed)[1] <= 1:
                return name
    return "none when compiled by itself"
