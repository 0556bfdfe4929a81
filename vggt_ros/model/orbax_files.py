# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Weights as an Orbax checkpoint: a folder, whose arrays are read one at a time.

Ours has the nested weights as `nnx.to_pure_dict` gives them (indices as text), and its metadata as
Orbax's custom metadata.
"""

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
FAULTS = (OSError, ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class Leaf:
    """One array of a checkpoint; `np.asarray` reads it."""

    path: Path
    structure: jax.tree_util.PyTreeDef  # of the whole checkpoint
    index: int  # among its leaves
    shape: tuple[int, ...]
    dtype: np.dtype

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        import orbax.checkpoint as ocp

        places = [ocp.PLACEHOLDER] * self.structure.num_leaves
        places[self.index] = 0
        how = [ocp.RestoreArgs(restore_type=np.ndarray)] * len(places)
        args = ocp.args.PyTreeRestore(
            item=self.structure.unflatten(places), restore_args=self.structure.unflatten(how)
        )
        try:
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
                found = reader.restore(self.path.resolve(), args=args)
        except FAULTS as fault:
            raise UserError(f"{self.path} is damaged ({_first_words(fault)})") from fault
        return np.asarray(jax.tree.leaves(found)[self.index]).astype(dtype or self.dtype)


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
        return {
            between.join(str(getattr(key, "key", getattr(key, "idx", key))) for key in keys): Leaf(
                path, structure, index, tuple(leaf.shape), np.dtype(leaf.dtype)
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


def _first_words(fault: Exception) -> str:
    return getattr(fault, "strerror", None) or " ".join(str(fault).split())[:160]
