# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Official names <-> our stacked arrays: one table, and it must balance."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vggt_ros.errors import UserError
from vggt_ros.model.config import Config
from vggt_ros.model.tensor_files import aligned
from vggt_ros.model.vggt import HEADS, Weights, abstract_model, functional

Path = tuple[str | int, ...]
Shape = tuple[int, ...]


def _level(template: str) -> Callable[[re.Match], str]:
    """The reference counts pyramid levels from 1, we from 0."""
    return lambda match: template.format(int(match[1]) + 1)


# Ours -> official, every line in turn; {row} is the place in a stack of equal layers.
RENAMES = (
    (r"^encoder/patch/", r"aggregator/patch_embed/patch_embed/proj/"),
    (r"^encoder/", r"aggregator/patch_embed/"),
    (r"^tower/stages/\d+/frame/", r"aggregator/frame_blocks/{row}/"),
    (r"^tower/stages/\d+/scene/", r"aggregator/global_blocks/{row}/"),
    (r"^tower/", r"aggregator/"),
    (r"^camera/", r"camera_head/"),
    (r"^depth/(pyramid/)?", r"depth_head/"),
    (r"^points/(pyramid/)?", r"point_head/"),
    (r"^tracks/pyramid/", r"track_head/feature_extractor/"),
    (r"^tracks/", r"track_head/tracker/"),
    # stacks
    (r"embed/blocks/", r"embed/blocks/{row}/"),
    (r"/trunk/", r"/trunk/{row}/"),
    (r"/rounds/time/", r"/time_blocks/{row}/"),
    (r"/rounds/gather/", r"/space_virtual2point_blocks/{row}/"),
    (r"/rounds/mix/", r"/space_virtual_blocks/{row}/"),
    (r"/rounds/scatter/", r"/space_point2virtual_blocks/{row}/"),
    # cameras
    (r"/modulation/", r"/poseLN_modulation/1/"),
    # dense maps
    (r"/quadruple/", r"/resize_layers/0/"),
    (r"/double/", r"/resize_layers/1/"),
    (r"/halve/", r"/resize_layers/3/"),
    (r"/project/", r"/projects/"),
    (r"/reduce/(\d)/", _level("/scratch/layer{}_rn/")),
    (r"/fuse/(\d)/", _level("/scratch/refinenet{}/")),
    (r"/skip/", r"/resConfUnit1/"),
    (r"/unit/", r"/resConfUnit2/"),
    (r"(refinenet\d)/out/", r"\1/out_conv/"),
    (r"(head|extractor)/out/", r"\1/scratch/output_conv1/"),
    (r"/refine/", r"/scratch/output_conv2/0/"),
    (r"(depth|point)_head/predict/", r"\1_head/scratch/output_conv2/2/"),
    # tracks
    (r"tracker/norm/", r"tracker/fmap_norm/"),
    (r"tracker/reference_token", r"tracker/query_ref_token"),
    (r"tracker/correlation/", r"tracker/corr_mlp/"),
    (r"tracker/feature_norm/", r"tracker/ffeat_norm/"),
    (r"tracker/feature_update/", r"tracker/ffeat_updater/0/"),
    (r"tracker/visibility/", r"tracker/vis_predictor/0/"),
    (r"tracker/confidence/", r"tracker/conf_predictor/0/"),
    (r"tracker/updater/", r"tracker/updateformer/"),
    (r"updateformer/virtual$", r"updateformer/virual_tracks"),  # sic
    (r"updateformer/norm_in/", r"updateformer/input_norm/"),
    (r"updateformer/embed/", r"updateformer/input_transform/"),
    (r"updateformer/norm_out/", r"updateformer/output_norm/"),
    (r"updateformer/predict/", r"updateformer/flow_head/"),
    (r"(updateformer/.*)/attn/qkv/kernel", r"\1/attn/in_proj_weight"),
    (r"(updateformer/.*)/attn/qkv/bias", r"\1/attn/in_proj_bias"),
    (r"(updateformer/.*)/attn/proj/", r"\1/attn/out_proj/"),
    (r"(2virtual_blocks|2point_blocks)/{row}/attn/", r"\1/{row}/cross_attn/"),
    # leaves
    (r"/(kernel|scale)$", r"/weight"),
    (r"/", r"."),
)


class Layout(NamedTuple):
    """How an official tensor becomes ours, and back."""

    ours: Callable[[Any], Any]
    official: Callable[[Any], Any]


AS_IS = Layout(lambda w: w, lambda w: w)
LINEAR = Layout(lambda w: w.T, lambda w: w.T)
POINTWISE = Layout(lambda w: w[:, :, 0, 0].T, lambda w: w.T[:, :, None, None])
CONV = Layout(lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1))
UPSCALE = Layout(lambda w: w.transpose(0, 2, 3, 1), lambda w: w.transpose(0, 3, 1, 2))


def _patches(size: int) -> Layout:
    """A convolution as wide as its stride, as a matrix on flattened (row, column, rgb) patches."""
    return Layout(
        lambda w: w.transpose(2, 3, 1, 0).reshape(3 * size**2, -1),
        lambda w: w.reshape(size, size, 3, -1).transpose(3, 2, 0, 1),
    )


# The first line that matches our path; "patches" depends on the patch size.
LAYOUTS = (
    (r"encoder/patch/kernel", None),
    (r".*/(quadruple|double)/kernel", UPSCALE),
    (r".*/pyramid/(project/\d|fuse/\d/out)/kernel|(depth|points)/predict/kernel", POINTWISE),
    (r".*/pyramid/.*kernel|(depth|points)/refine/kernel", CONV),
    (r".*kernel", LINEAR),
    (r".*", AS_IS),
)


class Entry(NamedTuple):
    """One official tensor and its place with us: `weights[path][row] = layout.ours(tensor)`."""

    name: str
    path: Path
    row: int | None  # None: the whole array
    layout: Layout
    shape: Shape  # official


@cache
def abstract(config: Config, heads: tuple[str, ...] = HEADS, dtype: Any = jnp.float32) -> Weights:
    """Our weights as shapes and dtypes: matrices of encoder and tower in `dtype`, else float32."""
    if heads != HEADS:
        whole = abstract(config, HEADS, dtype)
        return {part: whole[part] for part in ("encoder", "tower", *heads)}
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
        name = official_name(path)
        place = "/".join(map(str, path))
        layout = next(found for pattern, found in LAYOUTS if re.fullmatch(pattern, place))
        layout = layout or _patches(config.aggregator.patch_size)
        if "{row}" not in name:
            yield Entry(name, path, None, layout, _shape(layout.official, leaf.shape))
            continue
        start = first_row.get(name, 0)  # a later stage goes on counting
        first_row[name] = start + leaf.shape[0]
        shape = _shape(layout.official, leaf.shape[1:])
        for row in range(leaf.shape[0]):
            yield Entry(name.format(row=start + row), path, row, layout, shape)


def official_name(path: Path) -> str:
    name = "/".join(map(str, path))
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _shape(function: Callable, shape: Shape) -> Shape:
    return function(np.broadcast_to(np.float32(0), shape)).shape


def flatten(weights: Weights) -> dict[Path, Any]:
    """Nested weights as one dict of paths."""
    flat = jax.tree_util.tree_flatten_with_path(weights)[0]
    return {tuple(key.key for key in path): leaf for path, leaf in flat}


def unflatten(flat: Mapping[Path, Any]) -> Weights:
    weights: Weights = {}
    for (*parents, last), leaf in flat.items():
        node = weights
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf
    return weights


class Report(NamedTuple):
    """What a checkpoint has, against what the model needs.  Printing it shows the balance."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong_shape: tuple[tuple[str, Shape, Shape], ...]  # name, found, needed
    switched_off: tuple[str, ...]  # of heads that were not asked for

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
        modules = sorted({name.split(".")[0] for names in columns.values() for name in names})
        lines = [f"{'module':<14}" + "".join(f"{title:>14}" for title in columns)]
        for module in [*modules, "total"]:
            counts = [
                sum(module in ("total", name.split(".")[0]) for name in names)
                for names in columns.values()
            ]
            lines.append(f"{module:<14}" + "".join(f"{count:>14,}" for count in counts))
        return "\n".join(lines)

    def fault(self) -> str:
        """The first thing wrong, in words."""
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


def balance(config: Config, shapes: Mapping[str, Shape], heads: Sequence[str] = HEADS) -> Report:
    """Compare names and shapes of a checkpoint with those of a model; no data is touched."""
    needed = {entry.name: entry.shape for entry in table(config, heads)}
    off = {entry.name for entry in table(config)} - set(needed)
    wrong = [
        (name, tuple(shapes[name]), shape)
        for name, shape in needed.items()
        if name in shapes and tuple(shapes[name]) != shape
    ]
    bad = {name for name, _, _ in wrong}
    return Report(
        loaded=tuple(name for name in needed if name in shapes and name not in bad),
        missing=tuple(name for name in needed if name not in shapes),
        unexpected=tuple(name for name in shapes if name not in needed and name not in off),
        wrong_shape=tuple(wrong),
        switched_off=tuple(name for name in shapes if name in off),
    )


def read(
    config: Config,
    tensors: Mapping[str, Any],
    heads: Sequence[str] = HEADS,
    dtype: Any = jnp.float32,
) -> tuple[Weights, Report]:
    """Official tensors (anything NumPy can read, with `.shape`) as our weights, on the device.

    Tensors are asked for one at a time and one stack is built at a time, so a lazy `tensors` keeps
    the peak near the result.  UserError on any imbalance (`balance` only looks), and on NaN.
    """
    report = balance(config, {name: tensor.shape for name, tensor in tensors.items()}, heads)
    if not report.balanced:
        raise UserError(f"these weights do not fit this model: {report.fault()}")
    leaves = flatten(abstract(config, tuple(heads), dtype))
    flat: dict[Path, Any] = {}
    for path, entries in groupby(table(config, heads), key=lambda entry: entry.path):
        host = aligned(leaves[path].shape, leaves[path].dtype)
        for entry in entries:
            tensor = finite(entry.name, np.asarray(tensors[entry.name]))
            host[... if entry.row is None else entry.row] = entry.layout.ours(tensor)
        flat[path] = jax.device_put(host)  # without a copy on a CPU
    return unflatten(flat), report


def finite(name: str, tensor: np.ndarray) -> np.ndarray:
    """The tensor itself, unless it would poison every output."""
    if not (np.isfinite(tensor.min()) and np.isfinite(tensor.max())):
        raise UserError(f"weight {name} holds NaN or infinity: the file is damaged; fetch it again")
    return tensor


def official(config: Config, weights: Weights) -> Iterator[tuple[str, np.ndarray]]:
    """Our weights under their official names and in their official layout, one at a time."""
    flat = flatten(weights)
    heads = tuple(head for head in HEADS if head in weights)
    for path, entries in groupby(table(config, heads), key=lambda entry: entry.path):
        host = np.asarray(flat[path])
        for entry in entries:
            row = host if entry.row is None else host[entry.row]
            yield entry.name, entry.layout.official(row)
