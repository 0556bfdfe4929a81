# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""AdamW or Muon on concatenated arrays of one kind: the same updates as one by one.

A network has hundreds of small arrays.  Updated one by one they were two thirds of the kernels of
a training step of `small`, and of its compile time.
"""

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Int
from optax.contrib import MuonDimensionNumbers, muon

from vggt_ros.model.legacy_names import drawing_order, version_1_name
from vggt_ros.model.official_names import Path, is_upscale_kernel, path_name
from vggt_ros.model.vggt import Weights
from vggt_ros.train.config import Recipe
from vggt_ros.train.distillation import TEACHER
from vggt_ros.train.schedule import learning_rate

LARGE = 1 << 24  # elements from which an array is a group of its own: a copy would cost more

Groups = dict[str, Any]


def optimiser_for(
    recipe: Recipe, steps: int | Int[Array, ""] | None = None
) -> optax.GradientTransformation:
    """AdamW or Muon with clipping, warm-up and cosine schedule; weight decay on matrices only.

    The learning rate is at its end after `steps`, which may be traced; None: those of the recipe.

    A weight whose gradient is zero throughout, as of a head that a step did not run, stays as it
    is: momentum alone would move it, and Muon's updates are as large however small momentum is.
    """
    rate = partial(learning_rate, recipe, recipe.steps if steps is None else steps)
    if recipe.optimiser == "muon":
        # Updates have AdamW's root mean square (about 0.2), so one learning rate serves both kinds.
        rule = muon(
            rate, beta=0.95, consistent_rms=0.2, adam_b1=0.9, adam_b2=0.95,
            weight_decay=recipe.weight_decay, muon_weight_dimension_numbers=_directions,
        )  # fmt: skip
    else:
        rule = optax.adamw(
            rate, b1=0.9, b2=0.95, weight_decay=recipe.weight_decay,
            mask=_decaying,
        )  # fmt: skip
    chain = optax.chain(optax.clip_by_global_norm(recipe.clip), rule)

    def init(weights: Weights) -> Any:
        return chain.init(gathered(recipe, weights))

    def update(grads: Weights, opt_state: Any, weights: Weights | None = None) -> tuple[Any, Any]:
        assert weights is not None
        updates, opt_state = chain.update(
            gathered(recipe, grads), opt_state, gathered(recipe, weights)
        )
        updates = _scattered(recipe, updates, weights)
        return jax.tree.map(lambda x, g: jnp.where((g != 0).any(), x, 0), updates, grads), opt_state

    return optax.GradientTransformation(init, update)


def gathered(recipe: Recipe, weights: Weights) -> Groups:
    """All trainable arrays, concatenated by group; frozen ones are left out."""
    return {
        name: _joined(name, [leaf for _, leaf in leaves])
        for name, leaves in _groups(recipe, weights).items()
    }


def frozen(recipe: Recipe, weights: Weights) -> Any:
    """A tree of booleans: whether a weight is the teacher's, or a `freeze` pattern has its path.

    Patterns may also use the names of format version 1 (`tower/...`, see `legacy_names.py`).
    """
    patterns = [re.compile(pattern) for pattern in recipe.freeze]

    def matches(path: tuple, _: Any) -> bool:
        keys = _keys(path)
        if keys[0] == TEACHER:
            return True
        names = path_name(keys), version_1_name(keys)
        return any(pattern.fullmatch(name) for pattern in patterns for name in names)

    return jax.tree_util.tree_map_with_path(matches, weights)


def is_matrix(path: str, x: Any) -> bool:
    """Whether Muon updates a weight as a matrix; AdamW updates the others.

    Kernels of hidden layers only: not tokens, embeddings or output layers, whose rows have no
    common scale, and not transposed convolutions, whose matrices are too wide for their rank.
    """
    *above, leaf = path.split("/")
    if leaf != "kernel" or "pose_branch" in above:
        return False
    if is_upscale_kernel(path):
        return False
    return above[-1] not in ("predict", "flow_head", "vis_predictor", "conf_predictor")


def _groups(recipe: Recipe, weights: Weights) -> dict[str, list[tuple[int, Any]]]:
    """Trainable leaves by the name of their group, each with its index among all leaves.

    Order and names are those of format version 1: saved optimiser states stay valid.
    """
    groups: dict[str, list[tuple[int, Any]]] = {}
    flat = jax.tree_util.tree_flatten_with_path(weights)[0]
    is_frozen = jax.tree.leaves(frozen(recipe, weights))
    leaves = {_keys(path): (index, x) for index, (path, x) in enumerate(flat)}
    for keys in drawing_order(leaves):
        index, x = leaves[keys]
        if not is_frozen[index]:
            groups.setdefault(_group(recipe, keys, x), []).append((index, x))
    return groups


def _group(recipe: Recipe, path: Path, x: Any) -> str:
    large = f" {version_1_name(path).replace('/', '.')}" if x.size >= LARGE else ""
    if recipe.optimiser == "muon" and is_matrix(path_name(path), x):
        _, rows, columns = _as_matrices(x).shape
        return f"matrices {rows}x{columns}{large}"
    return ("tables" if x.ndim > 1 else "vectors") + large


def _joined(name: str, leaves: list[Any]) -> Any:
    if name.startswith("matrices"):
        return jnp.concatenate([_as_matrices(x) for x in leaves])
    return jnp.concatenate([x.ravel() for x in leaves])


def _as_matrices(x: Any) -> Any:
    """(count, rows, columns): the layers of a stack, or a convolution with all inputs as rows."""
    rows = -1 if x.ndim == 4 else x.shape[-2]
    return x.reshape(1 if x.ndim == 4 else -1, rows, x.shape[-1])


def _scattered(recipe: Recipe, groups: Groups, like: Weights) -> Any:
    """The inverse of `gathered`, in the structure of `like`; zeros for frozen weights."""
    leaves, structure = jax.tree.flatten(like)
    out: list[Array] = [jnp.zeros_like(x) for x in leaves]
    for name, members in _groups(recipe, like).items():
        numbers, start = groups[name].ravel(), 0
        for index, x in members:
            out[index] = numbers[start : start + x.size].reshape(x.shape)
            start += x.size
    return structure.unflatten(out)


def _decaying(groups: Any) -> dict[str, bool]:
    return {name: not name.startswith("vectors") for name in groups}


def _directions(groups: Groups) -> dict[str, MuonDimensionNumbers | None]:
    """Axes that form the matrices of each group, for Muon; None: AdamW."""
    return {
        name: MuonDimensionNumbers(1, 2) if name.startswith("matrices") else None for name in groups
    }


def _keys(path: tuple) -> Path:
    return tuple(key.key for key in path)
