# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Weights from wherever they are - hub, official file, our own file - and our own file written.

Ours is a safetensors file with the stacked arrays under their paths ("tower/stages/0/...") and, in
its metadata, the format's version and the configuration, so that it needs nothing beside it.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vggt_ros.errors import UserError
from vggt_ros.model import hub, weights
from vggt_ros.model.config import VGGT_1B, Config
from vggt_ros.model.tensor_files import TORCH, TensorFiles, open_files, write_safetensors
from vggt_ros.model.vggt import HEADS, PRESETS, Weights
from vggt_ros.model.weights import Report

FORMAT = "vggt_ros"
VERSION = "1"
TRACKER_FIXED = replace(VGGT_1B, track_head=replace(VGGT_1B.track_head, pos_embed=True))


def open_weights(
    source: str | Path,
    config: Config | None = None,
    heads: Sequence[str] | None = None,
    dtype: Any = None,
) -> tuple[Config, Weights, Report]:
    """Weights on the default device: linear maps of encoder and tower in `dtype`, else float32.

    `source`: a hub repository (owner/name), a .safetensors or .pt file, an index of shards, a
    directory that holds one of them, or a preset that comes with weights. Without `config` it is
    what the file says of itself, what a config.json beside it says, or VGGT-1B. Without `heads` it
    is all that the file was written with; without `dtype` float32. Tensors are read one at a time:
    the host holds little more than the result. Raises UserError for whatever is wrong with it.
    """
    paths = locate(source)
    files = open_files(paths)
    config = config or config_of(files, paths[0])
    try:
        return config, *load(config, files, heads or heads_of(files), dtype or jnp.float32)
    except UserError as fault:
        raise UserError(f"{source}: {fault}") from fault


def open_config(source: str | Path, heads: Sequence[str]) -> Config:
    """What network a source's weights are for, without reading them.

    A hub repository is downloaded. Raises UserError where the weights of these heads do not fit.
    """
    paths = locate(source)
    files = open_files(paths)
    config = config_of(files, paths[0])
    report = balance(config, files, heads)
    if not report.balanced:
        raise UserError(f"{source}: these weights do not fit this model: {report.fault()}")
    return config


def load(
    config: Config, files: TensorFiles, heads: Sequence[str], dtype: Any = jnp.float32
) -> tuple[Weights, Report]:
    """The weights of opened files; see `open_weights`."""
    read = _read_own if is_own(files) else weights.read
    return read(config, files.tensors, tuple(heads), jnp.dtype(dtype))


def balance(config: Config, files: TensorFiles, heads: Sequence[str]) -> Report:
    """Names and shapes in the files against what the model needs; reads no tensor."""
    shapes = {name: tuple(tensor.shape) for name, tensor in files.tensors.items()}
    return (_balance_own if is_own(files) else weights.balance)(config, shapes, heads)


# ---- where the files are ----------------------------------------------------------------------


def locate(source: str | Path) -> list[Path]:
    """The weight file that a source stands for; a hub repository is downloaded if need be."""
    preset = PRESETS.get(str(source))
    if preset is not None and preset.weights is not None:
        return [preset.weights]
    path = Path(source).expanduser()
    if path.is_dir():
        return [_in_directory(path)]
    if path.exists():
        return [path]
    if path.suffix in (".safetensors", ".json", *TORCH) or not hub.is_repository(str(source)):
        raise UserError(f"{source} does not exist, and is no hub repository (owner/name) either")
    return [hub.fetch(str(source))]


def _in_directory(directory: Path) -> Path:
    for pattern in (*hub.FILES, "*.safetensors.index.json", "*.safetensors", "*.pt"):
        match sorted(directory.glob(pattern)):
            case [path]:
                return path
            case [first, second, *_]:
                raise UserError(f"{directory} holds {first.name}, {second.name}: name one of them")
    raise UserError(f"{directory} holds no .safetensors and no .pt file")


# ---- what they are ----------------------------------------------------------------------------


def is_own(files: TensorFiles) -> bool:
    """Was this file written by `save`?  Refuses versions from the future."""
    if files.metadata.get("format") != FORMAT:
        return False
    if (version := files.metadata.get("version")) != VERSION:
        raise UserError(f"the file has format version {version}; this vggt_ros reads {VERSION}")
    return True


def config_of(files: TensorFiles, path: Path) -> Config:
    """The configuration that belongs to the files: their own, the one beside them, or VGGT-1B."""
    if is_own(files):
        return Config.from_dict(json.loads(files.metadata["config"]))
    beside = path.parent / "config.json"
    if beside.is_file() and "config" in (tree := read_json(beside)):
        return Config.from_dict(tree["config"])
    return TRACKER_FIXED if "tracker_fixed" in path.name else VGGT_1B


def heads_of(files: TensorFiles) -> tuple[str, ...]:
    """The heads that our own file was written with; official files have them all."""
    return tuple(json.loads(files.metadata["heads"])) if is_own(files) else HEADS


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or a UserError that names the file."""
    try:
        tree = json.loads(path.read_text())
    except OSError as fault:
        raise UserError(f"{path} cannot be read: {fault.strerror}") from fault
    except ValueError as fault:
        raise UserError(f"{path} is no JSON: {fault}") from fault
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds no JSON object")
    return tree


# ---- our own file -----------------------------------------------------------------------------


def save(path: Path, config: Config, tree: Weights) -> None:
    """Write weights as they are, each in its own dtype; they may be less precise than in use."""
    flat = weights.flatten(tree)
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "config": json.dumps(config.to_dict()),
        "heads": json.dumps([head for head in HEADS if head in tree]),
    }
    write_safetensors(path, {_name(key): leaf for key, leaf in flat.items()}, metadata)


def _name(path: weights.Path) -> str:
    return "/".join(map(str, path))


def _balance_own(
    config: Config, shapes: dict[str, tuple[int, ...]], heads: Sequence[str]
) -> Report:
    needed = {_name(key): leaf.shape for key, leaf in _leaves(config, heads).items()}
    off = {_name(key) for key in _leaves(config, HEADS)} - needed.keys()
    wrong = tuple(
        (name, shapes[name], shape)
        for name, shape in needed.items()
        if name in shapes and shapes[name] != shape
    )
    bad = {name for name, _, _ in wrong}
    return Report(
        loaded=tuple(name for name in needed if name in shapes and name not in bad),
        missing=tuple(name for name in needed if name not in shapes),
        unexpected=tuple(name for name in shapes if name not in needed and name not in off),
        wrong_shape=wrong,
        switched_off=tuple(name for name in shapes if name in off),
    )


def _read_own(
    config: Config, tensors: dict[str, Any], heads: Sequence[str], dtype: Any
) -> tuple[Weights, Report]:
    report = _balance_own(config, {name: tuple(t.shape) for name, t in tensors.items()}, heads)
    if not report.balanced:
        raise UserError(f"these weights do not fit this model: {report.fault()}")
    flat = {}
    for key, leaf in _leaves(config, heads, dtype).items():
        stored = weights.finite(_name(key), np.asarray(tensors[_name(key)]))
        flat[key] = jax.device_put(stored.astype(leaf.dtype, copy=False))
    return weights.unflatten(flat), report


def _leaves(config: Config, heads: Sequence[str], dtype: Any = jnp.float32) -> dict:
    return weights.flatten(weights.abstract(config, heads, dtype))
