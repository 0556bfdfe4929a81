# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The small reference network of test/golden, loaded once, and its recorded results."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import load_file, save_file

from vggt_ros.model.capture import capture_intermediates
from vggt_ros.model.config import Config
from vggt_ros.model.layers import ShapesOnly
from vggt_ros.model.vggt import VGGT, Weights, abstract_model
from vggt_ros.model.weights import flatten, read

GOLDEN = Path(__file__).parent / "golden"
CONFIG = Config.from_dict(json.loads((GOLDEN / "config.json").read_text())["config"])
TOLERANCE = json.loads((GOLDEN / "tolerance.json").read_text())
CASES = tuple(TOLERANCE)


@cache
def official() -> dict[str, np.ndarray]:
    """The reference's weights, under its names."""
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
    """Inputs, intermediates and outputs that the reference recorded."""
    return load_file(GOLDEN / f"{name}.safetensors")


@cache
def units() -> dict[str, np.ndarray]:
    """Inputs and outputs of single operations that the reference recorded."""
    return load_file(GOLDEN / "units.safetensors")


def intermediates_of(images: np.ndarray, queries: np.ndarray) -> dict[str, np.ndarray]:
    """Our intermediates for images in the reference's layout (b s 3 h w)."""
    out = capture_intermediates(
        CONFIG, weights(), jnp.asarray(images.transpose(0, 1, 3, 4, 2)), jnp.asarray(queries)
    )
    return {name: np.asarray(x) for name, x in out.items()}


@cache
def intermediates(name: str) -> dict[str, np.ndarray]:
    """Our intermediates and outputs for a recorded case."""
    return intermediates_of(case(name)["in.images"], case(name)["in.query_points"])


def official_file(folder: Path) -> Path:
    """A file with the reference's weights in `folder`, and config.json beside it."""
    save_file(official(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"config": CONFIG.to_dict()}))
    return folder / "model.safetensors"


def assert_equal_weights(found: Weights, expected: dict) -> None:
    """Compare weights with others by path: the same paths, dtypes and values."""
    flat = flatten(found)
    assert flat.keys() == expected.keys()
    for path, leaf in flat.items():
        assert leaf.dtype == expected[path].dtype
        np.testing.assert_array_equal(leaf, expected[path])


def filled(make, values: dict[str, Any]) -> Any:
    """A module whose parameters are these arrays, named "conv1/kernel"."""
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *parents, last = path.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = jnp.asarray(value)
    return nnx.merge(nnx.split(make(ShapesOnly()))[0], tree)


def max_error(x, y) -> float:
    """The largest absolute difference."""
    return float(np.abs(np.asarray(x, np.float64) - np.asarray(y, np.float64)).max())
