# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Weights from the hub, from official files and from our own; writing our own.

Ours holds the stacked arrays under their paths ("aggregator/stages/0/..."), as safetensors, npz or
an Orbax checkpoint; its metadata hold the format's version, the configuration and the heads, so
that no other file is needed.  Version 1 has other paths (`legacy_names.py`); it is read, and
version 2 written.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from vggt_ros.errors import UserError
from vggt_ros.model import foreign_names, hub, weights
from vggt_ros.model.config import LAYOUTS, VGGT_1B, Config
from vggt_ros.model.legacy_names import current_names
from vggt_ros.model.loading_report import Report, compare
from vggt_ros.model.new_parts import initial
from vggt_ros.model.npz_files import write_npz
from vggt_ros.model.official_names import path_name
from vggt_ros.model.orbax_files import tree_folder, write_orbax
from vggt_ros.model.random_weights import random_weights
from vggt_ros.model.tensor_files import TORCH, TensorFiles, open_files, write_safetensors
from vggt_ros.model.vggt import HEAD_MODULES, HEADS, PRESETS, Weights, heads_in

FORMAT = "vggt_ros"
VERSION, OLDER_VERSIONS = "2", ("1",)
TRACKER_FIXED = replace(VGGT_1B, track_head=replace(VGGT_1B.track_head, pos_embed=True))


def open_weights(
    source: str | Path,
    config: Config | Callable[[Config], Config] | None = None,
    heads: Sequence[str] | None = None,
    dtype: Any = None,
    *,
    optional: Sequence[str] = (),
    partial: bool = False,
    cache_dir: str | Path | None = None,
) -> tuple[Config, Weights, Report]:
    """Weights on the default device: matrices of encoder and aggregator in `dtype`, else float32.

    `source` is a hub repository (owner/name, or owner/name@revision), a .safetensors, .npz or .pt
    file, an index of shards, a directory with one of them, the folder of an Orbax checkpoint, or a
    preset that comes with weights.
    `config` defaults to the one in the file, in a config.json beside it, or VGGT-1B, and may be a
    function of that; `heads` defaults to all that are in the file, `dtype` to float32.  Heads that
    are `optional` are left out where the file has none.  With `partial`, weights that are missing
    or of another shape are drawn at random.  Downloads are kept in `cache_dir`, by default the
    hub's own.  Tensors are read one at a time: the host holds little more than the result.
    Raises UserError for a source that does not exist, is damaged or does not fit.
    """
    paths = locate(source, cache_dir)
    files = open_files(paths)
    if not isinstance(config, Config):
        own = config_of(files, paths[0])
        config = own if config is None else config(own)
    heads = heads_of(files) if heads is None else _without(optional, heads, files)
    try:
        return config, *load(config, files, heads, dtype or jnp.float32, partial=partial)
    except UserError as fault:
        raise UserError(f"{source}: {fault}") from fault


def _without(optional: Sequence[str], heads: Sequence[str], files: TensorFiles) -> tuple[str, ...]:
    """The requested heads without those that are optional and not in the file."""
    there = heads_of(files)
    return tuple(head for head in heads if head in there or head not in optional)


def open_config(
    source: str | Path, heads: Sequence[str], optional: Sequence[str] = ()
) -> tuple[Config, tuple[str, ...]]:
    """The configuration of a source's weights, and its heads of those asked for; reads no tensor.

    A hub repository is downloaded.  Raises UserError where the weights of these heads do not fit.
    """
    paths = locate(source)
    files = open_files(paths)
    config = config_of(files, paths[0])
    heads = _without(optional, heads, files)
    try:
        balance(config, files, heads).require()
    except UserError as fault:
        raise UserError(f"{source}: {fault}") from fault
    return config, heads


def load(
    config: Config,
    files: TensorFiles,
    heads: Sequence[str],
    dtype: Any = jnp.float32,
    *,
    partial: bool = False,
) -> tuple[Weights, Report]:
    """The weights of opened files; see `open_weights`."""
    read = _read_own if is_own(files) else weights.read
    named = _named(config, files)
    rest = random_weights(config, tuple(heads)) if partial else None
    tree, report = read(config, named.tensors, tuple(heads), jnp.dtype(dtype), rest)
    return tree, report._replace(notes=named.notes)


def balance(config: Config, files: TensorFiles, heads: Sequence[str]) -> Report:
    """Names and shapes in the files against what the model needs; reads no tensor."""
    balance = _balance_own if is_own(files) else weights.balance
    named = _named(config, files)
    return balance(config, _shapes(named.tensors), heads)._replace(notes=named.notes)


# ---- where the files are ----------------------------------------------------------------------


def locate(source: str | Path, cache_dir: str | Path | None = None) -> list[Path]:
    """The weight file of a source; a hub repository is downloaded unless it is in the cache."""
    if (preset := PRESETS.get(str(source))) is not None:
        if preset.weights is None:
            raise UserError(f"preset {source} has random weights, and no file; name a checkpoint")
        return [preset.weights]
    path = Path(source).expanduser()
    if path.is_dir():
        return [_in_directory(path)]
    if path.exists():
        return [path]
    if path.suffix in (".safetensors", ".json", ".npz", *TORCH) or not hub.is_repository(
        str(source)
    ):
        raise UserError(f"{source} does not exist, and is not a hub repository (owner/name) either")
    return [hub.fetch(str(source), cache_dir)]


def _in_directory(directory: Path) -> Path:
    if (tree := tree_folder(directory)) is not None:
        return tree
    for pattern in (*hub.FILES, "*.safetensors.index.json", "*.safetensors", "*.npz", "*.pt"):
        match sorted(directory.glob(pattern)):
            case [path]:
                return path
            case [first, second, *_]:
                raise UserError(f"{directory} holds {first.name}, {second.name}: name one of them")
    raise UserError(f"{directory} holds no .safetensors, .npz or .pt file and no Orbax checkpoint")


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
    if beside.is_file() and "config" in read_json(beside):
        return read_config(beside)
    return TRACKER_FIXED if "tracker_fixed" in path.name else VGGT_1B


def heads_of(files: TensorFiles) -> tuple[str, ...]:
    """The heads that are in the files, whole or not."""
    if is_own(files):
        return tuple(json.loads(files.metadata["heads"]))
    modules = foreign_names.head_modules(files.tensors)
    return tuple(head for head, module in HEAD_MODULES.items() if module in modules)


def read_config(path: Path) -> Config:
    """The configuration in a config.json; a layout may stand in it or beside it."""
    tree = read_json(path)
    dimensions = tree.get("config", tree)
    settings = ("layout", *(name for names in LAYOUTS.values() for name in names))
    beside = {key: tree[key] for key in settings if key in tree}
    return Config.from_dict({**beside, **dimensions})


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


Format = Literal["safetensors", "npz", "orbax"]
WRITERS: dict[str, Callable[[Path, Mapping[str, Any], dict[str, str]], None]] = {
    "safetensors": write_safetensors,
    "npz": write_npz,
    "orbax": write_orbax,
}


def save(path: Path, config: Config, tree: Weights, kind: Format = "safetensors") -> None:
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
    WRITERS[kind](path, {path_name(key): leaf for key, leaf in flat.items()}, metadata)


def save_official(path: Path, config: Config, tree: Weights) -> None:
    """Write safetensors under the official names and layouts, with a config.json beside.

    Raises UserError where that fails.
    """
    write_safetensors(path, dict(weights.official(config, tree)), {"format": "pt"})
    beside = path.parent / "config.json"
    beside.write_text(json.dumps({"config": config.to_dict()}, indent=1) + "\n")


def _named(config: Config, files: TensorFiles) -> foreign_names.Named:
    """Tensors by their official name, or by today's path where the file is one of ours."""
    if not is_own(files):
        known = {entry.name for entry in weights.table(config)}
        return foreign_names.official_names(files.tensors, known)
    tensors = files.tensors
    if files.metadata.get("version") in OLDER_VERSIONS:
        official = replace(config, layout="joint")  # the only one of that version
        tensors = current_names(tensors, _leaves(official, HEADS))
    return foreign_names.Named(tensors)


def _shapes(tensors: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _balance_own(
    config: Config, shapes: dict[str, tuple[int, ...]], heads: Sequence[str]
) -> Report:
    needed = {path_name(key): leaf.shape for key, leaf in _leaves(config, heads).items()}
    known = dict.fromkeys(path_name(key) for key in _leaves(config, HEADS))
    return weights.with_absent_heads(compare(shapes, needed, known), shapes, known, heads)


def _read_own(
    config: Config,
    tensors: dict[str, Any],
    heads: Sequence[str],
    dtype: Any,
    rest: Weights | None = None,
) -> tuple[Weights, Report]:
    report = _balance_own(config, _shapes(tensors), heads)
    report.require(partial=rest is not None)
    sources = {name: name for name in report.loaded} | dict(report.copied)
    flat, others = {}, {} if rest is None else weights.flatten(rest)
    for key, leaf in _leaves(config, heads, dtype).items():
        name = path_name(key)
        if name in sources:
            source = sources[name]
            stored = weights.check_finite(source, np.asarray(tensors[source]))
        else:
            new = name in report.neutral
            stored = initial(key, leaf.shape) if new else np.asarray(others[key])
        flat[key] = jax.device_put(stored.astype(leaf.dtype, copy=False))
    return weights.unflatten(flat), report


def _leaves(config: Config, heads: Sequence[str], dtype: Any = jnp.float32) -> dict:
    return weights.flatten(weights.abstract(config, heads, dtype))
