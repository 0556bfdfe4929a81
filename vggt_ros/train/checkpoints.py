# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a run: training states (Orbax), and weight files that other commands load."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from vggt_ros.errors import UserError
from vggt_ros.model import checkpoint, weights
from vggt_ros.model.config import Config
from vggt_ros.model.legacy_names import version_1_name
from vggt_ros.model.vggt import Weights
from vggt_ros.train.trainer import State


class CheckpointManager:
    """The latest `keep` states of a run in a folder, each written whole or not at all.

    Raises UserError for a folder that cannot be written.
    """

    def __init__(self, folder: Path, keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
        try:
            self._manager = ocp.CheckpointManager(folder.resolve(), options=options)
        except OSError as fault:
            raise UserError(f"{folder} cannot hold checkpoints: {fault.strerror}") from fault
        self.folder = folder

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: State) -> None:
        """Write the state.  Raises UserError where that fails; older states stay intact."""
        step = int(state.step)
        if step == self.latest_step:
            return
        try:
            self._manager.save(step, args=ocp.args.StandardSave(_to_stored(state)))
        except (OSError, ValueError) as fault:
            last = self.latest_step
            older = f"step {last} is intact" if last is not None else "there is no older one"
            raise UserError(
                f"{self.folder}: step {step} could not be saved ({_reason(fault)}); {older}; "
                "free disk space and run the same command to resume from there"
            ) from fault

    def restore(self, abstract: State) -> State:
        """The latest state, with the shardings of `abstract`: the device count may have changed."""
        args = ocp.args.StandardRestore(_to_stored(abstract))
        return _from_stored(self._manager.restore(self.latest_step, args=args), abstract)

    def close(self) -> None:
        self._manager.close()


def _to_stored(state: State) -> dict[str, Any]:
    """A state under its names on disk, which stay those of format version 1."""
    flat = weights.flatten(state.weights)
    stored = weights.unflatten({_stored_path(path): leaf for path, leaf in flat.items()})
    return {"step": state.step, "weights": stored, "moments": state.opt_state}


def _from_stored(stored: dict[str, Any], like: State) -> State:
    flat = weights.flatten(stored["weights"])
    paths = weights.flatten(like.weights)
    tree = weights.unflatten({path: flat[_stored_path(path)] for path in paths})
    return State(stored["step"], tree, stored["moments"])


def _stored_path(path: tuple) -> tuple:
    parts = version_1_name(path).split("/")
    return tuple(int(part) if part.isdigit() else part for part in parts)


def export(path: Path, config: Config, tree: Weights, dtype: Any = jnp.bfloat16) -> None:
    """Write weights as one file of our format: matrices in `dtype`, vectors in float32.

    Raises UserError where that fails; an older file then stays intact.
    """
    stored = jax.tree.map(lambda x: _cast(np.asarray(x), dtype), tree)
    _make_folder(path)
    checkpoint.save(path, config, stored)


def export_official(path: Path, config: Config, tree: Weights) -> None:
    """Write weights under the official names and layouts, float32, with a config.json beside.

    Raises UserError where that fails.
    """
    _make_folder(path)
    checkpoint.save_official(path, config, tree)


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise UserError(f"{path} cannot be written: {fault.strerror or fault}") from fault


def _cast(leaf: np.ndarray, dtype: Any) -> np.ndarray:
    return leaf.astype(dtype if leaf.ndim > 1 else np.float32)


def _reason(fault: Exception) -> str:
    return getattr(fault, "strerror", None) or " ".join(str(fault).split())[:160]
