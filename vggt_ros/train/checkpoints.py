# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What survives a kill: states kept by Orbax, and weights in the files that others read."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from vggt_ros.errors import UserError
from vggt_ros.model import checkpoint, weights
from vggt_ros.model.config import Config
from vggt_ros.model.tensor_files import write_safetensors
from vggt_ros.model.vggt import Weights
from vggt_ros.train.trainer import State


class Keeper:
    """The newest `keep` states of a run, each written whole or not at all."""

    def __init__(self, folder: Path, keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
        try:
            self._manager = ocp.CheckpointManager(folder.resolve(), options=options)
        except OSError as fault:
            raise UserError(f"{folder} cannot hold checkpoints: {fault.strerror}") from fault
        self.folder = folder

    @property
    def newest(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: State) -> None:
        """Write the state; where that fails the older ones stay as they are."""
        step = int(state.step)
        if step == self.newest:
            return
        try:
            self._manager.save(step, args=ocp.args.StandardSave(state._asdict()))
        except (OSError, ValueError) as fault:
            older = f"step {self.newest} is intact" if self.newest is not None else "none is older"
            raise UserError(
                f"{self.folder}: step {step} could not be saved ({_reason(fault)}); {older}; "
                "make room and start again to go on from there"
            ) from fault

    def restore(self, abstract: State) -> State:
        """The newest state, placed as `abstract` says: the device count may have changed."""
        args = ocp.args.StandardRestore(abstract._asdict())
        return State(**self._manager.restore(self.newest, args=args))

    def close(self) -> None:
        self._manager.close()


def export(path: Path, config: Config, tree: Weights, dtype: Any = jnp.bfloat16) -> None:
    """Weights as one file of ours; what has 2 or more dimensions in `dtype`, the rest float32."""
    stored = jax.tree.map(lambda x: _cast(np.asarray(x), dtype), tree)
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save(part, config, stored)
        part.replace(path)
    except OSError as fault:
        part.unlink(missing_ok=True)
        raise UserError(f"{path} could not be written: {fault.strerror}") from fault


def export_official(path: Path, config: Config, tree: Weights) -> None:
    """Weights under the official names and layouts, float32; a config.json goes beside them."""
    write_safetensors(path, dict(weights.official(config, tree)), {"format": "pt"})
    beside = path.parent / "config.json"
    beside.write_text(json.dumps({"config": config.to_dict()}, indent=1) + "\n")


def _cast(leaf: np.ndarray, dtype: Any) -> np.ndarray:
    return leaf.astype(dtype if leaf.ndim > 1 else np.float32)


def _reason(fault: Exception) -> str:
    return getattr(fault, "strerror", None) or " ".join(str(fault).split())[:160]
