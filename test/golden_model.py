# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The small reference network of test/golden, loaded once, and what it should say."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import load_file

from vggt_ros.model.config import Config
from vggt_ros.model.layers import OneKey
from vggt_ros.model.vggt import VGGT, Weights, abstract_model, record
from vggt_ros.model.weights import read

GOLDEN = Path(__file__).parent / "golden"
CONFIG = Config.from_dict(json.loads((GOLDEN / "config.json").read_text())["config"])
TOLERANCE = json.loads((GOLDEN / "tolerance.json").read_text())
CASES = tuple(TOLERANCE)


@cache
def official() -> dict[str, np.ndarray]:
    files = json.loads((GOLDEN / "config.json").read_text())["weight_files"]
    return {name: x for file in files for name, x in load_file(GOLDEN / file).items()}


@cache
def weights() -> Weights:
    return read(CONFIG, official())[0]


@cache
def model() -> VGGT:
    return nnx.merge(nnx.split(abstract_model(CONFIG))[0], weights())


@cache
def case(name: str) -> dict[str, np.ndarray]:
    return load_file(GOLDEN / f"{name}.safetensors")


@cache
def units() -> dict[str, np.ndarray]:
    return load_file(GOLDEN / "units.safetensors")


def recorded(images: np.ndarray, queries: np.ndarray) -> dict[str, np.ndarray]:
    """Every stage for pictures in the reference's layout (b s 3 h w)."""
    out = record(
        CONFIG, weights(), jnp.asarray(images.transpose(0, 1, 3, 4, 2)), jnp.asarray(queries)
    )
    return {name: np.asarray(x) for name, x in out.items()}


@cache
def stages(name: str) -> dict[str, np.ndarray]:
    return recorded(case(name)["in.images"], case(name)["in.query_points"])


def filled(make, values: dict[str, Any]) -> Any:
    """A module whose parameters are these arrays, named "conv1/kernel"."""
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *parents, last = path.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = jnp.asarray(value)
    return nnx.merge(nnx.split(nnx.eval_shape(lambda: make(OneKey())))[0], tree)


def off(x, y) -> float:
    """The largest difference."""
    return float(np.abs(np.asarray(x, np.float64) - np.asarray(y, np.float64)).max())
