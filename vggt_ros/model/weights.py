# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Official weights to our stacked arrays and back, by a table that must balance."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vggt_ros.errors import UserError
from vggt_ros.model.config import Config
from vggt_ros.model.loading_report import Report, Shape, compare, module_of
from vggt_ros.model.new_parts import initial
from vggt_ros.model.official_names import Layout, Path, layout_of, official_name
from vggt_ros.model.tensor_files import aligned
from vggt_ros.model.vggt import (
    HEAD_MODULES,
    HEADS,
    Weights,
    abstract_model,
    functional,
    heads_in,
    select_heads,
)


class Entry(NamedTuple):
    """One official tensor and its place with us: `weights[path][row] = layout.ours(tensor)`."""

    name: str
    path: Path
    row: int | None  # None: the whole array
    layout: Layout
    shape: Shape  # official


def abstract(config: Config, heads: Sequence[str] = HEADS, dtype: Any = jnp.float32) -> Weights:
    """Our weights as shapes and dtypes: matrices of encoder and aggregator in `dtype`."""
    whole = _abstract(config, jnp.dtype(dtype))
    return whole if tuple(heads) == HEADS else select_heads(whole, heads)


@cache
def _abstract(config: Config, dtype: np.dtype) -> Weights:
    return functional(abstract_model(config, HEADS, param_dtype=dtype))[1]


def table(config: Config, heads: Sequence[str] = HEADS) -> tuple[Entry, ...]:
    """Every official tensor that these heads need, in the order of our arrays."""
    return _table(config, tuple(heads))


@cache
def _table(config: Config, heads: tuple[str, ...]) -> tuple[Entry, ...]:
    return tuple(_entries(config, heads))


def _entries(config: Config, heads: tuple[str, ...]) -> Iterator[Entry]:
    first_row: dict[str, int] = {}
    for path, leaf in flatten(abstract(config, heads)).items():
        name, layout = official_name(path), layout_of(path, config.aggregator.patch_size)
        if "{row}" not in name:
            yield Entry(name, path, None, layout, _shape(layout.official, leaf.shape))
            continue
        start = first_row.get(name, 0)  # a later stage goes on counting
        first_row[name] = start + leaf.shape[0]
        shape = _shape(layout.official, leaf.shape[1:])
        for row in range(leaf.shape[0]):
            yield Entry(name.format(row=start + row), path, row, layout, shape)


def _shape(function: Callable, shape: Shape) -> Shape:
    return function(np.broadcast_to(np.float32(0), shape)).shape


def flatten(weights: Weights) -> dict[Path, Any]:
    """Nested weights as one dict of paths."""
    flat = jax.tree_util.tree_flatten_with_path(weights)[0]
    return {tuple(key.key for key in path): leaf for path, leaf in flat}


def unflatten(flat: Mapping[Path, Any]) -> Weights:
    """The inverse of `flatten`."""
    weights: Weights = {}
    for (*parents, last), leaf in flat.items():
        node = weights
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf
    return weights


# ---- balance ----------------------------------------------------------------------------------


def balance(config: Config, shapes: Mapping[str, Shape], heads: Sequence[str] = HEADS) -> Report:
    """Official names and shapes against those that a model needs; no data is read."""
    needed = {entry.name: entry.shape for entry in table(config, heads)}
    known = dict.fromkeys(entry.name for entry in table(config))
    return with_absent_heads(compare(shapes, needed, known), shapes, known, heads)


def with_absent_heads(
    report: Report, found: Collection[str], known: Collection[str], heads: Sequence[str]
) -> Report:
    """The report with what the heads need that are neither requested nor in the file.

    `known` are all names of the network, official ones or paths of our own file.
    """
    present = {module_of(name) for name in found}
    absent = {HEAD_MODULES[head] for head in HEADS if head not in heads} - present
    return report._replace(absent=tuple(n for n in known if module_of(n) in absent))


# ---- reading and writing ----------------------------------------------------------------------


def read(
    config: Config,
    tensors: Mapping[str, Any],
    heads: Sequence[str] = HEADS,
    dtype: Any = jnp.float32,
    rest: Weights | None = None,
) -> tuple[Weights, Report]:
    """Official tensors (anything NumPy can read, with `.shape`) as our weights, on the device.

    Tensors are read one at a time and stacks built one at a time, so that lazy `tensors` keep peak
    memory near the size of the result.  What does not fit has its values in `rest`, if given.
    Raises UserError where they do not fit and there is no `rest`, where none fits, and for NaN.
    """
    report = balance(config, {name: tensor.shape for name, tensor in tensors.items()}, heads)
    report.require(partial=rest is not None)
    others = {} if rest is None else flatten(rest)
    leaves = flatten(abstract(config, heads, dtype))
    sources = {name: name for name in report.loaded} | dict(report.copied)
    new = set(report.neutral)
    flat: dict[Path, Any] = {}
    for path, entries in groupby(table(config, heads), key=lambda entry: entry.path):
        host = aligned(leaves[path].shape, leaves[path].dtype)
        if path in others:
            host[...] = others[path]
        for entry in entries:
            if entry.name in new:
                host[...] = initial(path, host.shape)
            elif entry.name in sources:
                name = sources[entry.name]
                tensor = check_finite(name, np.asarray(tensors[name]))
                host[... if entry.row is None else entry.row] = entry.layout.ours(tensor)
        flat[path] = jax.device_put(host)  # without a copy on a CPU
    return unflatten(flat), report


def check_finite(name: str, tensor: np.ndarray) -> np.ndarray:
    """The tensor itself.  Raises UserError where it holds NaN or infinity."""
    if not (np.isfinite(tensor.min()) and np.isfinite(tensor.max())):
        raise UserError(f"weight {name} holds NaN or infinity: the file is damaged; fetch it again")
    return tensor


def official(config: Config, weights: Weights) -> Iterator[tuple[str, np.ndarray]]:
    """Our weights under their official names and in their official layout, one at a time."""
    flat = flatten(weights)
    for path, entries in groupby(table(config, heads_in(weights)), key=lambda entry: entry.path):
        host = np.asarray(flat[path])
        for entry in entries:
            row = host if entry.row is None else host[entry.row]
            yield entry.name, entry.layout.official(row)
