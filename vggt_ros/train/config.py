# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A recipe: all that a training run depends on, read from YAML.  A typo is refused, not ignored."""

import difflib
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml

from vggt_ros.errors import UserError


@dataclass(frozen=True)
class Data:
    """Where windows come from: rooms drawn on the fly, or folders in the Co3D layout."""

    kind: Literal["scenes", "co3d"] = "scenes"
    root: str = ""  # of the Co3D layout: root/category/frame_annotations.jgz
    rays: int = 2  # rays a pixel along each side, for drawn rooms
    at_once: int = 0  # rooms drawn together; 0: the whole batch (an accelerator's choice)
    interval: float = 0.1  # seconds between drawn frames
    paces: tuple[float, float] = (1.0, 1.0)  # range of what multiplies a drawn drive's motion
    threads: int = 4  # readers, for folders
    bad_limit: float = 0.05  # share of broken windows that stops the run


@dataclass(frozen=True)
class Loss:
    """Weights of the terms, and what shapes them."""

    camera: float = 5.0
    translation: float = 1.0  # this and the next two: shares within the camera term
    rotation: float = 1.0
    view: float = 0.5
    depth: float = 1.0
    points: float = 1.0
    tracks: float = 0.05
    matches: float = 0.0  # each track's feature against its whole map; not in the public training
    motion: float = 0.0  # how far each patch moved, read from its token (train/motion.py)
    attention: float = 0.0  # of each patch to its place in the first frame, head 0 of the tower
    alpha: float = 0.2  # price of low confidence
    gradient: float = 1.0  # share of the edge term in depth and points
    decay: float = 0.6  # of earlier iterations (cameras, tracks) against later ones


@dataclass(frozen=True)
class Recipe:
    """One training run."""

    out: str = "runs/small"
    model: str = "small"  # preset, or a checkpoint's own configuration when `start` names one
    start: str = ""  # weights to begin with: preset, file, folder or hub id; empty: fresh ones
    heads: tuple[str, ...] = ("camera", "depth", "tracks")
    seed: int = 0
    steps: int = 20_000
    batch: int = 8  # windows a step, over all devices
    buckets: tuple[tuple[int, int, int], ...] = ((4, 168, 224),)  # frames, height, width
    queries: int = 32  # tracked points a window
    tracks_share: float = 1.0  # of the steps: the others leave the tracks alone, and are faster
    optimiser: Literal["adamw", "muon"] = "adamw"  # muon: matrices by their direction alone
    learning_rate: float = 5e-4
    warmup: int = 500
    final_share: float = 0.01  # of the learning rate, at the end of the cosine
    weight_decay: float = 0.05
    clip: float = 1.0
    freeze: tuple[str, ...] = ()  # regular expressions on weight paths, e.g. "encoder/.*"
    layer_scale: float = 0.0  # what fresh layer scales start with; 0: as the model has them
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of the arithmetic
    remat: bool = False  # recompute activations in the backward pass
    weight_shards: int = 1  # devices that share one copy of the weights
    log_every: int = 20
    check_every: int = 1000  # steps between validations; 0: none
    check_windows: int = 16  # held-out windows of each length
    save_minutes: float = 5.0
    keep: int = 3
    nan_limit: int = 10  # refused steps in a row that end the run
    data: Data = field(default_factory=Data)
    loss: Loss = field(default_factory=Loss)


def read_recipe(path: Path) -> Recipe:
    """The recipe in a YAML file; what it leaves out keeps its default."""
    try:
        tree = yaml.safe_load(path.read_text()) or {}
    except OSError as fault:
        raise UserError(f"{path} cannot be read: {fault.strerror}") from fault
    except yaml.YAMLError as fault:
        raise UserError(f"{path} is no YAML: {' '.join(str(fault).split())}") from fault
    return recipe_from(tree, str(path))


def recipe_from(tree: Any, where: str = "recipe") -> Recipe:
    recipe = _read(Recipe, tree, where)
    if not recipe.buckets or any(len(b) != 3 or b[1] % 14 or b[2] % 14 for b in recipe.buckets):
        raise UserError(f"{where}: buckets are (frames, height, width), sizes in multiples of 14")
    paces = recipe.data.paces
    if len(paces) != 2 or not 0 < paces[0] <= paces[1]:
        raise UserError(
            f"{where}: data.paces are two positive numbers, low and high, as [1.0, 4.0]"
        )
    if recipe.data.kind == "co3d" and not recipe.data.root:
        raise UserError(f"{where}: data.kind co3d needs data.root, the folder of the categories")
    return recipe


def _read(kind: Any, tree: Any, where: str) -> Any:
    if not isinstance(tree, dict):
        raise UserError(f"{where}: expected `key: value` lines, found {tree!r}")
    known = {f.name: f for f in fields(kind)}
    values = {}
    for name, value in tree.items():
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(known)}"
            raise UserError(f"{where} has no key {name!r}; {hint}")
        values[name] = _value(known[name].type, value, f"{where}: {name}")
    return kind(**values)


def _value(kind: Any, value: Any, where: str) -> Any:
    """`value` as the field's type, or an error that says what was expected."""
    if is_dataclass(kind):
        return _read(kind, value, where)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise UserError(f"{where} is a list, not {value!r}")
        inner = get_args(kind)[0]
        return tuple(_value(inner, item, where) for item in value)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise UserError(f"{where} is one of {', '.join(get_args(kind))}, not {value!r}")
        return value
    if kind is float and isinstance(value, str):  # YAML reads 1e-3 as text
        try:
            return float(value)
        except ValueError:
            pass
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise UserError(f"{where} is a {kind.__name__}, not {value!r}")
    return value
