# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Weights from the hub, from official files and from our own; writing our own.

Ours is a safetensors file with the stacked arrays under their paths ("aggregator/stages/0/...");
its metadata hold the format's version, the configuration and the heads, so that no other file is
needed.  Version 1 has other paths (`legacy_names.py`); it is read, and version 2 written.
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
from vggt_ros.model.legacy_names import current_names
from vggt_ros.model.official_names import path_name
from vggt_ros.model.tensor_files import TORCH, TensorFiles, open_files, write_safetensors
from vggt_ros.model.vggt import HEADS, PRESETS, Weights, heads_in
from vggt_ros.model.weights import Report

FORMAT = "vggt_ros"
VERSION, OLDER_VERSIONS = "2", ("1",)
TRACKER_FIXED = replace(VGGT_1B, track_head=replace(VGGT_1B.track_head, pos_embed=True))


def open_weights(
    source: str | Path,
    config: Config | None = None,
    heads: Sequence[str] | None = None,
    dtype: Any = None,
) -> tuple[Config, Weights, Report]:
    """Weights on the default device: matrices of encoder and aggregator in `dtype`, else float32.

    `source` is a hub repository (owner/name), a .safetensors or .pt file, an index of shards, a
    directory with one of them, or a preset that comes with weights.  `config` defaults to the one
    in the file, in a config.json beside it, or VGGT-1B; `heads` to all that the file was written
    with; `dtype` to float32.  Tensors are read one at a time: the host holds little more than the
    result.  Raises UserError for a source that does not exist, is damaged or does not fit.
    """
    paths = locate(source)
    files = open_files(paths)
    config = config or config_of(files, paths[0])
    try:
        return config, *load(config, files, heads or heads_of(files), dtype or jnp.float32)
    except UserError as fault:
        raise UserError(f"{source}: {fault}") from fault


def open_config(source: str | Path, heads: Sequence[str]) -> Config:
    """The configuration of a source's weights; reads no tensor.

    A hub repository is downloaded.  Raises UserError where the weights of these heads do not fit.
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
    return read(config, _tensors(config, files), tuple(heads), jnp.dtype(dtype))


def balance(config: Config, files: TensorFiles, heads: Sequence[str]) -> Report:
    """Names and shapes in the files against what the model needs; reads no tensor."""
    balance = _balance_own if is_own(files) else weights.balance
    return balance(config, _shapes(_tensors(config, files)), heads)


# ---- where the files are ----------------------------------------------------------------------


def locate(source: str | Path) -> list[Path]:
    """The weight file of a source; a hub repository is downloaded unless it is in the cache."""
    preset = PRESETS.get(str(source))
    if preset is not None and preset.weights is not None:
        return [preset.weights]
    path = Path(source).expanduser()
    if path.is_dir():
        return [_in_directory(path)]
    if path.exists():
        return [path]
    if path.suffix in (".safetensors", ".json", *TORCH) or not hub.is_repository(str(source)):
        raise UserError(f"{source} does not exist, and is not a hub repository (owner/name) either")
    return [hub.fetch(str(source))]


def _in_directory(directory: Path) -> Path:
    for pattern in (*hub.FILES, "*.safetensors.index.json", "*.safetensors", "*.pt"):
        match sorted(directory.glob(pattern)):
            case [path]:
                return path
            case [first, second, *_]:
                raise UserError(f"{directory} holds {first.name}, {second.name}: name one of them")
    raise UserError(f"{directory} holds no .safetensors and no .pt file")


# ---- what they hold ----------------------------------------------------------------------------


def is_own(files: TensorFiles) -> bool:
    """Whether this file was written by `save`.  Raises UserError for a version of the future."""
    if files.metadata.get("format") != FORMAT:
        return False
    version = files.metadata.get("version")
    if version not in (VERSION, *OLDER_VERSIONS):
        raise UserError(
            f"the file has format version {version}; this vggt_ros reads versions up to {VERSION}:"
            " update it"
        )
    return True


def config_of(files: TensorFiles, path: Path) -> Config:
    """The configuration of the files: their own, the one beside them, or VGGT-1B."""
    if is_own(files):
        return Config.from_dict(json.loads(files.metadata["config"]))
    beside = path.parent / "config.json"
    if beside.is_file() and "config" in (tree := read_json(beside)):
        return Config.from_dict(tree["config"])
    return TRACKER_FIXED if "tracker_fixed" in path.name else VGGT_1B


def heads_of(files: TensorFiles) -> tuple[str, ...]:
    """The heads that our own file was written with; official files have all."""
    return tuple(json.loads(files.metadata["heads"])) if is_own(files) else HEADS


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or a UserError that names the file."""
    try:
        tree = json.loads(path.read_text())
    except OSError as fault:
        raise UserError(f"{path} cannot be read: {fault.strerror}") from fault
    except ValueError as fault:
        raise UserError(f"{path} is not valid JSON: {fault}") from fault
    if not isinstance(tree, dict):
        raise UserError(f"{path} does not hold a JSON object")
    return tree


# ---- our own file -----------------------------------------------------------------------------


def save(path: Path, config: Config, tree: Weights) -> None:
    """Write weights, each in its own dtype, which may be less precise than the one in use.

    Raises UserError where the file cannot be written.
    """
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "config": json.dumps(config.to_dict()),
        "heads": json.dumps(heads_in(tree)),
    }
    flat = weights.flatten(tree)
    write_safetensors(path, {path_name(key): leaf for key, leaf in flat.items()}, metadata)


def _tensors(config: Config, files: TensorFiles) -> dict[str, Any]:
    """Tensors by their official name, or by today's path where the file is one of ours."""
    if files.metadata.get("version") in OLDER_VERSIONS and is_own(files):
        return current_names(files.tensors, _leaves(config, HEADS))
    return files.tensors


def _shapes(tensors: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _balance_own(
    config: Config, shapes: dict[str, tuple[int, ...]], heads: Sequence[str]
) -> Report:
    needed = {path_name(key): leaf.shape for key, leaf in _leaves(config, heads).items()}
    return weights.compare(shapes, needed, {path_name(key) for key in _leaves(config, HEADS)})


def _read_own(
    config: Config, tensors: dict[str, Any], heads: Sequence[str], dtype: Any
) -> tuple[Weights, Report]:
    report = _balance_own(config, _shapes(tensors), heads)
    report.require_balance()
    flat = {}
    for key, leaf in _leaves(config, heads, dtype).items():
        name = path_name(key)
        stored = weights.check_finite(name, np.asarray(tensors[name]))
        flat[key] = jax.device_put(stored.astype(leaf.dtype, copy=False))
    return weights.unflatten(flat), report


def _leaves(config: Config, heads: Sequence[str], dtype: Any = jnp.float32) -> dict:
    return weights.flatten(weights.abstract(config, tuple(heads), dtype))
