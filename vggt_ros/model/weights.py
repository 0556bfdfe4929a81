# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Official weights to our stacked arrays and back, by a table that must balance."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vggt_ros.errors import UserError
from vggt_ros.model.config import Config
from vggt_ros.model.official_names import Layout, Path, layout_of, official_name
from vggt_ros.model.tensor_files import aligned
from vggt_ros.model.vggt import HEADS, Weights, abstract_model, functional, heads_in, select_heads

Shape = tuple[int, ...]


class Entry(NamedTuple):
    """One official tensor and its place with us: `weights[path][row] = layout.ours(tensor)`."""

    name: str
    path: Path
    row: int | None  # None: the whole array
    layout: Layout
    shape: Shape  # official


@cache
def abstract(config: Config, heads: tuple[str, ...] = HEADS, dtype: Any = jnp.float32) -> Weights:
    """Our weights as shapes and dtypes: matrices of encoder and aggregator in `dtype`."""
    if heads != HEADS:
        return select_heads(abstract(config, HEADS, dtype), heads)
    return functional(abstract_model(config, heads, param_dtype=dtype))[1]


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


class Report(NamedTuple):
    """Tensors of a checkpoint against those a model needs; as text, their numbers by module."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong_shape: tuple[tuple[str, Shape, Shape], ...]  # name, found, needed
    switched_off: tuple[str, ...]  # of heads that were not requested

    @property
    def balanced(self) -> bool:
        return not (self.missing or self.unexpected or self.wrong_shape)

    def __str__(self) -> str:
        columns = {
            "loaded": self.loaded,
            "missing": self.missing,
            "unexpected": self.unexpected,
            "wrong shape": tuple(name for name, _, _ in self.wrong_shape),
            "switched off": self.switched_off,
        }
        modules = sorted({_module(name) for names in columns.values() for name in names})
        lines = [f"{'module':<14}" + "".join(f"{title:>14}" for title in columns)]
        for module in [*modules, "total"]:
            counts = [
                sum(module in ("total", _module(name)) for name in names)
                for names in columns.values()
            ]
            lines.append(f"{module:<14}" + "".join(f"{count:>14,}" for count in counts))
        return "\n".join(lines)

    def fault(self) -> str:
        """The imbalance in words, with an example of each kind."""
        parts = []
        if self.wrong_shape:
            name, found, needed = self.wrong_shape[0]
            count = len(self.wrong_shape)
            parts.append(f"{count} of another shape (e.g. {name} {found}, needed {needed})")
        if self.missing:
            parts.append(f"{len(self.missing)} missing (e.g. {self.missing[0]})")
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} without a place (e.g. {self.unexpected[0]})")
        return ", ".join(parts)

    def require_balance(self) -> None:
        """Raise UserError unless the tensors balance."""
        if not self.balanced:
            raise UserError(f"these weights do not fit this model: {self.fault()}")


def _module(name: str) -> str:
    """The first part of an official name, or of a path in our own file."""
    return re.split("[./]", name, maxsplit=1)[0]


def balance(config: Config, shapes: Mapping[str, Shape], heads: Sequence[str] = HEADS) -> Report:
    """Official names and shapes against those that a model needs; no data is read."""
    needed = {entry.name: entry.shape for entry in table(config, heads)}
    return compare(shapes, needed, {entry.name for entry in table(config)})


def compare(
    found: Mapping[str, Shape], needed: Mapping[str, Shape], known: Collection[str]
) -> Report:
    """Balance of names and shapes; what is `known` but not needed belongs to heads that are off."""
    wrong = tuple(
        (name, tuple(found[name]), shape)
        for name, shape in needed.items()
        if name in found and tuple(found[name]) != shape
    )
    bad = {name for name, _, _ in wrong}
    extra = [name for name in found if name not in needed]
    return Report(
        loaded=tuple(name for name in needed if name in found and name not in bad),
        missing=tuple(name for name in needed if name not in found),
        unexpected=tuple(name for name in extra if name not in known),
        wrong_shape=wrong,
        switched_off=tuple(name for name in extra if name in known),
    )


# ---- reading and writing ----------------------------------------------------------------------


def read(
    config: Config,
    tensors: Mapping[str, Any],
    heads: Sequence[str] = HEADS,
    dtype: Any = jnp.float32,
) -> tuple[Weights, Report]:
    """Official tensors (anything NumPy can read, with `.shape`) as our weights, on the device.

    Tensors are read one at a time and stacks built one at a time, so that lazy `tensors` keep peak
    memory near the size of the result.  Raises UserError where they do not balance, and for NaN.
    """
    report = balance(config, {name: tensor.shape for name, tensor in tensors.items()}, heads)
    report.require_balance()
    leaves = flatten(abstract(config, tuple(heads), dtype))
    flat: dict[Path, Any] = {}
    for path, entries in groupby(table(config, heads), key=lambda entry: entry.path):
        host = aligned(leaves[path].shape, leaves[path].dtype)
        for entry in entries:
            tensor = check_finite(entry.name, np.asarray(tensors[entry.name]))
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
