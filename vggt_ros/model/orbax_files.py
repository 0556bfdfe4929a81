# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Weights as an Orbax checkpoint: a folder, whose arrays are read some at a time.

Ours has the nested weights as `nnx.to_pure_dict` gives them (indices as text), and its metadata as
Orbax's custom metadata.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vggt_ros.errors import UserError
from vggt_ros.files import atomic_folder

MARK = "_METADATA"  # a file in the folder of every tree that Orbax wrote
STEP = "default"  # name of the tree in a step of a CheckpointManager
AT_ONCE = 256 * 2**20  # bytes of arrays read by one call, each of which opens the whole folder
FAULTS = (OSError, ValueError, KeyError, TypeError, AttributeError)


class Tree:
    """The leaves of a checkpoint; the part that was read last is kept."""

    def __init__(self, path: Path, leaves: list[Any], structure: jax.tree_util.PyTreeDef):
        self.path = path
        self.structure = structure
        self.parts = _parts([_size(leaf) for leaf in leaves])
        self._read: dict[int, np.ndarray] = {}

    def array(self, index: int) -> np.ndarray:
        """One leaf. Raises UserError for a damaged folder."""
        if index not in self._read:
            part = next(part for part in self.parts if index in part)
            self._read = {}  # freed before the next part is read
            self._read = dict(zip(part, self._restore(part), strict=True))
        return self._read[index]

    def _restore(self, part: range) -> list[np.ndarray]:
        import orbax.checkpoint as ocp

        count = self.structure.num_leaves
        places = [0 if index in part else ocp.PLACEHOLDER for index in range(count)]
        how = [ocp.RestoreArgs(restore_type=np.ndarray)] * count
        args = ocp.args.PyTreeRestore(
            item=self.structure.unflatten(places), restore_args=self.structure.unflatten(how)
        )
        try:
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
                found = jax.tree.leaves(reader.restore(self.path.resolve(), args=args))
        except FAULTS as fault:
            raise UserError(f"{self.path} is damaged ({_first_words(fault)})") from fault
        return [np.asarray(found[index]) for index in part]


@dataclass(frozen=True)
class Leaf:
    """One array of a checkpoint; `np.asarray` reads it."""

    tree: Tree
    index: int  # among its leaves
    shape: tuple[int, ...]
    dtype: np.dtype

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.tree.array(self.index).astype(dtype or self.dtype, copy=bool(copy))


def tree_folder(path: Path) -> Path | None:
    """The folder of a tree that Orbax wrote: this one, or the one in a step; None: neither."""
    return next((each for each in (path, path / STEP) if (each / MARK).is_file()), None)


def read_orbax(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Arrays by name and the metadata; reads no array.

    A name is the keys that lead to the array, joined as our files do where it is one of ours (it
    has metadata), else by dots. Raises UserError for a damaged folder.
    """
    import orbax.checkpoint as ocp

    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            found = reader.metadata(path.resolve()).item_metadata
        metadata = dict(found.custom_metadata or {})
        leaves, structure = jax.tree_util.tree_flatten_with_path(found.tree)
        between = "/" if metadata else "."
        tree = Tree(path, [leaf for _, leaf in leaves], structure)
        return {
            between.join(str(getattr(key, "key", getattr(key, "idx", key))) for key in keys): Leaf(
                tree, index, tuple(leaf.shape), np.dtype(leaf.dtype)
            )
            for index, (keys, leaf) in enumerate(leaves)
            if getattr(leaf, "shape", None) is not None
        }, metadata
    except FAULTS as fault:
        raise UserError(
            f"{path} is damaged or no Orbax checkpoint of one tree ({_first_words(fault)})"
        ) from fault


def write_orbax(path: Path, tensors: Mapping[str, Any], metadata: dict[str, str]) -> None:
    """Write arrays of names with slashes as a nested tree; an older checkpoint is replaced whole.

    Raises UserError where that fails, and for a folder of anything else.
    """
    import orbax.checkpoint as ocp

    if path.exists() and not (path.is_dir() and (tree_folder(path) or not any(path.iterdir()))):
        raise UserError(f"{path} is there and no Orbax checkpoint; choose another --to")
    tree: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *parents, last = name.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = np.asarray(tensor)
    try:
        with atomic_folder(path) as folder:
            inside = folder / "tree"  # Orbax wants to make the folder itself
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as writer:
                args = ocp.args.PyTreeSave(tree, custom_metadata=metadata)
                writer.save(inside.resolve(), args=args)
            for each in inside.iterdir():
                each.rename(folder / each.name)
            inside.rmdir()
    except (OSError, ValueError) as fault:
        raise UserError(f"{path} cannot be written: {_first_words(fault)}") from fault


def _size(leaf: Any) -> int:
    """Bytes of a leaf by its metadata; 0: it is no array."""
    shape = getattr(leaf, "shape", None)
    return 0 if shape is None else math.prod(shape) * np.dtype(leaf.dtype).itemsize


def _parts(sizes: list[int]) -> list[range]:
    """Consecutive leaves of at most `AT_ONCE` bytes together, and at least one."""
    begins, total = [0], 0
    for index, size in enumerate(sizes):
        if total + size > AT_ONCE and index > begins[-1]:
            begins.append(index)
            total = 0
        total += size
    return [range(a, b) for a, b in itertools.pairwise([*begins, len(sizes)])]


def _first_words(fault: Exception) -> str:
    return getattr(fault, "strerror", None) or " ".join(str(fault).split())[:160]
