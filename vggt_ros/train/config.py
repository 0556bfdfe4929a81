# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Recipes: all settings of a training run, read from YAML; unknown keys are errors."""

import difflib
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml

from vggt_ros.errors import UserError

RECIPES = Path(__file__).with_name("recipes")  # those that come with the package
# Old name of a key -> its name: recipes that were written for earlier releases stay valid.
OLD_KEYS = {"paces": "motion_scale"}


@dataclass(frozen=True)
class Data:
    """Source of the windows: synthetic rooms rendered on the fly, or folders in the Co3D layout."""

    kind: Literal["scenes", "co3d"] = "scenes"
    root: str = ""  # of the Co3D layout: root/category/frame_annotations.jgz
    rays: int = 2  # rays a pixel along each side, for synthetic rooms
    at_once: int = 0  # rooms rendered together; 0: the whole batch, best on an accelerator
    interval: float = 0.1  # seconds between rendered frames
    motion_scale: tuple[float, float] = (1.0, 1.0)  # range of the factor on camera motion
    motions: Literal["robots", "varied"] = "robots"  # how cameras move: `rooms/motions.py`
    rooms_share: float = 1.0  # of the windows show rooms; the others scenes of `rooms/varied.py`
    robots_share: float = 0.0  # of the windows are of robots in rooms, whatever `motions` says
    threads: int = 4  # readers, for folders
    bad_limit: float = 0.05  # share of broken windows that stops the run


@dataclass(frozen=True)
class Loss:
    """Weights and shape parameters of the loss terms.

    See `losses.py`, `auxiliary.py`, `consistency.py` and `distillation.py`.
    """

    camera: float = 5.0
    translation: float = 1.0  # this and the next two: shares within the camera term
    rotation: float = 1.0
    view: float = 0.5
    pairs: float = 0.0  # angles of rotation and of the direction of translation, between all frames
    depth: float = 1.0
    points: float = 1.0
    tracks: float = 0.05
    matches: float = 0.0  # InfoNCE on track features; not in the public training
    motion: float = 0.0  # displacement of each patch, from its token by a linear probe
    attention: float = 0.0  # of each patch to its position in frame 0, head 0 of the aggregator
    surface: float = 0.0  # this and the next three: agreement within a window, `consistency.py`
    reprojection: float = 0.0
    scale: float = 0.0
    calibration: float = 0.0  # of the confidence of depth
    features: float = 0.0  # change of what dense heads read, from `teacher`: `distillation.py`
    alpha: float = 0.2  # weight of -log(confidence)
    gradient: float = 1.0  # share of the edge term in depth and points
    decay: float = 0.6  # weight of an iteration (cameras, tracks) relative to the next

    @property
    def agreement(self) -> dict[str, float]:
        """The weights of `consistency.py` that are not 0, by name."""
        names = ("surface", "reprojection", "scale", "calibration")
        return {name: getattr(self, name) for name in names if getattr(self, name)}


@dataclass(frozen=True)
class Recipe:
    """Settings of one training run."""

    out: str = "runs/small"  # folder of the run, relative to the working directory
    model: str = "small"  # preset; the checkpoint's configuration if `start` names one
    layout: str = ""  # how images attend to each other (docs/layouts.md); empty: the model's own
    start: str = ""  # initial weights: preset, file, folder or hub id; empty: random ones
    teacher: str = ""  # weights whose features loss.features keeps; empty: those of `start`
    heads: tuple[str, ...] = ("camera", "depth", "tracks")
    seed: int = 0
    steps: int = 20_000
    schedule: Literal["steps", "minutes"] = "steps"  # what the learning rate falls over: the steps,
    # or the --minutes of the call, of which the rate of the first steps tells how many they allow
    batch: int = 8  # windows a step, over all devices
    buckets: tuple[tuple[int, int, int], ...] = ((4, 168, 224),)  # frames, height, width
    views: tuple[
        int, ...
    ] = ()  # cameras of the rig that the frames of each bucket are of; empty: 1
    queries: int = 32  # tracked points a window
    tracks_share: float = 1.0  # of the steps train the track head; the others are faster
    dense_share: float = 1.0  # of the steps run depth, points and tracks; the others cameras alone
    optimiser: Literal["adamw", "muon"] = "adamw"  # muon: orthogonalised updates of matrices
    learning_rate: float = 5e-4
    warmup: int = 500
    final_share: float = 0.01  # of the learning rate, at the end of the cosine
    weight_decay: float = 0.05
    clip: float = 1.0
    freeze: tuple[str, ...] = ()  # regular expressions on weight paths, e.g. "encoder/.*"
    layer_scale: float = 0.0  # initial value of layer scales; 0: the model's own
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of the arithmetic
    remat: bool = False  # recompute activations in the backward pass
    weight_shards: int = 1  # devices that share one copy of the weights
    log_every: int = 20
    check_every: int = 1000  # steps between validations; 0: none
    check_windows: int = 16  # held-out windows of each length
    save_minutes: float = 5.0
    keep: int = 3
    nan_limit: int = 10  # skipped steps in a row that end the run
    data: Data = field(default_factory=Data)
    loss: Loss = field(default_factory=Loss)

    @property
    def views_by_frames(self) -> dict[int, int]:
        """Cameras of the rig that windows of so many frames are of; frames are instants x views."""
        return {
            bucket[0]: views
            for bucket, views in zip(
                self.buckets, self.views or (1,) * len(self.buckets), strict=True
            )
        }


def read_recipe(name: str | Path) -> Recipe:
    """The recipe in a YAML file, or of that name in the package; missing keys keep their defaults.

    Raises UserError for a file that cannot be read, an unknown key or a value of the wrong kind.
    """
    path = find_recipe(name)
    try:
        tree = yaml.safe_load(path.read_text()) or {}
    except OSError as fault:
        raise UserError(f"{path} cannot be read: {fault.strerror}") from fault
    except yaml.YAMLError as fault:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(fault).split())}") from fault
    return recipe_from(tree, str(path))


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe: a path that exists, or the bare name of one in the package.

    Raises UserError, with the names of those in the package.
    """
    path, packaged = Path(name), {file.stem: file for file in sorted(RECIPES.glob("*.yaml"))}
    if path.is_file():
        return path
    if str(name) in packaged:
        return packaged[str(name)]
    raise UserError(
        f"there is no recipe {str(name)!r}: give the path of a YAML file, or one of the recipes "
        f"that come with the package: {', '.join(packaged)}"
    )


def recipe_from(tree: Any, where: str = "recipe") -> Recipe:
    """A recipe from parsed YAML, checked; `where` begins the error messages."""
    recipe = _read(Recipe, tree, where)
    if not recipe.buckets or any(len(b) != 3 or b[1] % 14 or b[2] % 14 for b in recipe.buckets):
        raise UserError(f"{where}: buckets are (frames, height, width), sizes in multiples of 14")
    _check_views(recipe, where)
    if recipe.loss.agreement and not {"camera", "depth"} <= set(recipe.heads):
        raise UserError(
            f"{where}: loss terms {', '.join(recipe.loss.agreement)} compare cameras with depth: "
            "heads must have both"
        )
    if not (0 <= recipe.dense_share <= 1 and 0 <= recipe.tracks_share <= 1):
        raise UserError(f"{where}: dense_share and tracks_share are between 0 and 1")
    if recipe.dense_share < 1 and "camera" not in recipe.heads:
        raise UserError(
            f"{where}: dense_share leaves steps to the camera head alone: heads must have camera"
        )
    _check_teacher(recipe, where)
    _check_data(recipe, where)
    return recipe


def _check_teacher(recipe: Recipe, where: str) -> None:
    """Raise UserError for a teacher without its loss, or that loss without a teacher."""
    if recipe.teacher and not recipe.loss.features:
        raise UserError(f"{where}: teacher is used by loss.features alone: give that a weight")
    if recipe.loss.features and not (recipe.teacher or recipe.start):
        raise UserError(
            f"{where}: loss.features keeps the features of weights: name them by teacher or start"
        )


def _check_data(recipe: Recipe, where: str) -> None:
    """Raise UserError for settings of the windows' source that exclude each other."""
    data = recipe.data
    scale = data.motion_scale
    if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
        raise UserError(
            f"{where}: data.motion_scale is two positive numbers, low and high, as [1.0, 4.0]"
        )
    robots = data.motions == "robots"
    if not robots and (scale != Data.motion_scale or data.kind != "scenes"):
        raise UserError(
            f"{where}: data.motions varied is of rendered scenes, in units of their depth: it "
            "needs data.kind scenes and no data.motion_scale"
        )
    if not 0 <= data.rooms_share <= 1 or (robots and data.rooms_share < 1):
        raise UserError(
            f"{where}: data.rooms_share is between 0 and 1; below 1 it needs data.motions varied, "
            "because robots drive in rooms only"
        )
    if data.robots_share < 0 or data.robots_share + data.rooms_share > 1 + 1e-9:
        raise UserError(
            f"{where}: data.rooms_share and data.robots_share are shares of all windows: their "
            "sum is at most 1"
        )
    if data.kind == "co3d" and not data.root:
        raise UserError(f"{where}: data.kind co3d needs data.root, the folder of the categories")


def _check_views(recipe: Recipe, where: str) -> None:
    """Raise UserError for rigs that do not fit the buckets, or the source of the windows."""
    views, frames = recipe.views, [bucket[0] for bucket in recipe.buckets]
    if not views:
        return
    if len(views) != len(frames) or any(
        n < 1 or f % n for n, f in zip(views, frames, strict=False)
    ):
        raise UserError(
            f"{where}: views has one number of cameras for each bucket, which divides its frames"
        )
    if len(set(zip(views, frames, strict=True))) > len(set(frames)):
        raise UserError(f"{where}: buckets of as many frames must have as many views")
    if recipe.data.kind != "scenes" and set(views) != {1}:
        raise UserError(f"{where}: rigs are rendered: views needs data.kind scenes")


def _read(kind: Any, tree: Any, where: str) -> Any:
    if not isinstance(tree, dict):
        raise UserError(f"{where}: expected `key: value` lines, found {tree!r}")
    known = {f.name: f for f in fields(kind)}
    values = {}
    for key, value in tree.items():
        name = OLD_KEYS.get(key, key)
        if name not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            raise UserError(f"{where}: unknown key {key!r}; {hint}")
        if name in values:
            raise UserError(f"{where}: {name} is given twice, once under its old name")
        values[name] = _value(known[name].type, value, f"{where}: {name}")
    return kind(**values)


def _value(kind: Any, value: Any, where: str) -> Any:
    """`value` as the field's type.  Raises UserError that names the expected one."""
    if is_dataclass(kind):
        return _read(kind, value, where)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise UserError(f"{where} must be a list, not {value!r}")
        inner = get_args(kind)[0]
        return tuple(_value(inner, item, where) for item in value)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise UserError(f"{where} must be one of {', '.join(get_args(kind))}, not {value!r}")
        return value
    if kind is float and isinstance(value, str):  # YAML reads 1e-3 as text
        try:
            return float(value)
        except ValueError:
            pass
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise UserError(f"{where} must be of type {kind.__name__}, not {value!r}")
    return value
