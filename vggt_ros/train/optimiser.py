# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""AdamW or Muon over arrays of one kind at once: the same numbers as one by one.

A network has hundreds of small arrays.  Updated each by itself they were two thirds of a step's
kernels for `small`, and of the minutes that the compiler takes for it.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from optax.contrib import MuonDimensionNumbers, muon

from vggt_ros.model.vggt import Weights
from vggt_ros.train.config import Recipe

LARGE = 1 << 24  # numbers: an array of so many stays by itself, a copy would cost more

Groups = dict[str, Any]


def optimiser_for(recipe: Recipe) -> optax.GradientTransformation:
    """AdamW or Muon with clipping, warm-up and cosine; matrices decay, gains and biases do not."""
    rate = optax.warmup_cosine_decay_schedule(
        0.0, recipe.learning_rate, recipe.warmup, max(recipe.steps, recipe.warmup + 1),
        recipe.final_share * recipe.learning_rate,
    )  # fmt: skip
    if recipe.optimiser == "muon":
        # An update's mean square is AdamW's (about 0.2 squared), so one rate serves both kinds.
        rule = muon(
            rate, beta=0.95, consistent_rms=0.2, adam_b1=0.9, adam_b2=0.95,
            weight_decay=recipe.weight_decay, muon_weight_dimension_numbers=_directions,
        )  # fmt: skip
    else:
        rule = optax.adamw(
            rate, b1=0.9, b2=0.95, weight_decay=recipe.weight_decay,
            mask=_decaying,
        )  # fmt: skip
    learner = optax.chain(optax.clip_by_global_norm(recipe.clip), rule)

    def init(weights: Weights) -> Any:
        return learner.init(gathered(recipe, weights))

    def update(slopes: Weights, moments: Any, weights: Weights | None = None) -> tuple[Any, Any]:
        assert weights is not None
        changes, moments = learner.update(
            gathered(recipe, slopes), moments, gathered(recipe, weights)
        )
        return _scattered(recipe, changes, weights), moments

    return optax.GradientTransformation(init, update)


def gathered(recipe: Recipe, weights: Weights) -> Groups:
    """Everything that learns, as few arrays; what does not learn is left out."""
    return {
        name: _joined(name, [leaf for _, leaf in leaves])
        for name, leaves in _groups(recipe, weights).items()
    }


def frozen(recipe: Recipe, weights: Weights) -> Any:
    """Which weights the recipe's `freeze` patterns name."""
    patterns = [re.compile(pattern) for pattern in recipe.freeze]

    def named(path: tuple, _: Any) -> bool:
        return any(pattern.fullmatch(_name(path)) for pattern in patterns)

    return jax.tree_util.tree_map_with_path(named, weights)


def is_matrix(path: str, x: Any) -> bool:
    """Whether Muon takes a weight as matrices, or leaves it to AdamW.

    Hidden layers only.  Tokens, embeddings and the last maps to outputs are no directions, and
    transposed convolutions are too wide for what they hold.
    """
    *above, leaf = path.split("/")
    if leaf != "kernel" or "pose_branch" in above:
        return False
    return not {"predict", "visibility", "confidence", "quadruple", "double"} & set(above[-1:])


def _groups(recipe: Recipe, weights: Weights) -> dict[str, list[tuple[int, Any]]]:
    """Leaves by the name of their group, each with its place among all leaves."""
    groups: dict[str, list[tuple[int, Any]]] = {}
    flat = jax.tree_util.tree_flatten_with_path(weights)[0]
    still = jax.tree.leaves(frozen(recipe, weights))
    for place, ((path, x), stays) in enumerate(zip(flat, still, strict=True)):
        if not stays:
            groups.setdefault(_group(recipe, _name(path), x), []).append((place, x))
    return groups


def _group(recipe: Recipe, path: str, x: Any) -> str:
    large = f" {path.replace('/', '.')}" if x.size >= LARGE else ""
    if recipe.optimiser == "muon" and is_matrix(path, x):
        _, rows, columns = _as_matrices(x).shape
        return f"matrices {rows}x{columns}{large}"
    return ("tables" if x.ndim > 1 else "vectors") + large


def _joined(name: str, leaves: list[Any]) -> Any:
    if name.startswith("matrices"):
        return jnp.concatenate([_as_matrices(x) for x in leaves])
    return jnp.concatenate([x.ravel() for x in leaves])


def _as_matrices(x: Any) -> Any:
    """(how many, rows, columns): a stack's layers, or a convolution with all inputs as rows."""
    rows = -1 if x.ndim == 4 else x.shape[-2]
    return x.reshape(1 if x.ndim == 4 else -1, rows, x.shape[-1])


def _scattered(recipe: Recipe, groups: Groups, like: Weights) -> Any:
    """The arrays of `groups` where their weights are; zeros where nothing learns."""
    leaves, structure = jax.tree.flatten(like)
    out: list[Array] = [jnp.zeros_like(x) for x in leaves]
    for name, members in _groups(recipe, like).items():
        numbers, start = groups[name].ravel(), 0
        for place, x in members:
            out[place] = numbers[start : start + x.size].reshape(x.shape)
            start += x.size
    return structure.unflatten(out)


def _decaying(groups: Any) -> dict[str, bool]:
    return {name: not name.startswith("vectors") for name in groups}


def _directions(groups: Groups) -> dict[str, MuonDimensionNumbers | None]:
    """Which axes Muon takes as a matrix."""
    return {
        name: MuonDimensionNumbers(1, 2) if name.startswith("matrices") else None for name in groups
    }


def _name(path: tuple) -> str:
    return "/".join(str(key.key) for key in path)
