# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of training: exported weights, states on disk, a full disk."""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from training_rig import MICRO, recipe_of

from vggt_ros.errors import UserError
from vggt_ros.model.checkpoint import open_weights
from vggt_ros.train.checkpoints import CheckpointManager, export, export_official
from vggt_ros.train.init import fresh_weights
from vggt_ros.train.trainer import State, Trainer

pytestmark = pytest.mark.slow


def test_official_names_hold_the_same_weights(tmp_path):
    recipe = recipe_of(tmp_path, heads=["camera", "depth", "points", "tracks"])
    weights = fresh_weights(MICRO, recipe)
    export_official(tmp_path / "model.safetensors", MICRO, jax.tree.map(jnp.asarray, weights))
    config, back, report = open_weights(tmp_path / "model.safetensors")
    assert config == MICRO and report.balanced
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), b), back, weights)


def test_states_on_disk_have_the_names_of_format_version_1(tmp_path):
    recipe = recipe_of(tmp_path, optimiser="muon", loss={"motion": 0.5})
    trainer = Trainer(recipe, MICRO)
    state = trainer.start()
    checkpoints = CheckpointManager(tmp_path / "states", 1)
    checkpoints.save(state)
    folder = tmp_path / "states" / "0" / "default"
    stored = ocp.StandardCheckpointer().metadata(folder).item_metadata.tree
    assert set(stored) == {"step", "weights", "moments"}
    assert set(stored["weights"]) == {"encoder", "tower", "camera", "motion"}
    assert set(stored["weights"]["tower"]["stages"]["0"]) == {"frame", "scene"}
    back = checkpoints.restore(trainer.abstract())
    assert isinstance(back, State)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(back), jax.device_get(state))


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    state = Trainer(recipe_of(tmp_path), MICRO).start()
    checkpoints = CheckpointManager(tmp_path / "states", 2)
    checkpoints.save(state)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ocp.CheckpointManager, "save", full)
    with pytest.raises(UserError, match="No space left on device.*step 0 is intact"):
        checkpoints.save(state._replace(step=state.step + 1))
    assert CheckpointManager(tmp_path / "states", 2).latest_step == 0


def test_weights_that_cannot_be_written_are_an_error_that_names_the_file(tmp_path):
    (tmp_path / "run").write_text("a file where the folder should be")
    for write in (export, export_official):
        with pytest.raises(UserError, match="run/last.safetensors cannot be written"):
            write(tmp_path / "run" / "last.safetensors", MICRO, {})
