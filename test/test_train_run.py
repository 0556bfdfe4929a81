# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Training runs: their loop and files, validation, resuming, stopping."""

import json
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_rig import MICRO, batch_of, random_window, recipe_of, write_co3d

from vggt_ros.errors import UserError
from vggt_ros.model.checkpoint import open_weights
from vggt_ros.train import metrics, score, trainer
from vggt_ros.train.auxiliary import LINEAR_PROBES, network_weights
from vggt_ros.train.checkpoints import CheckpointManager
from vggt_ros.train.precompile import Programs, batch_kind, drop_unused_tracks
from vggt_ros.train.run import Run
from vggt_ros.train.trainer import Trainer

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_rooms(monkeypatch):
    monkeypatch.setattr(trainer, "sample_window", random_window)


def distance_loss(_, weights, batch, dense=True):
    """A loss that compiles at once, for tests of the loop around the step."""
    loss = jnp.square(weights["encoder"]["cls_token"] - batch.images.mean()).mean()
    return loss, {"distance": loss}


def test_validation_writes_table_images_and_the_best_weights(tmp_path, monkeypatch):
    requested = []

    def rooms(frames, height, width, count, queries=4, views=1):
        requested.append(frames)
        return iter([batch_of(1, seed, frames, queries=queries) for seed in range(count)])

    monkeypatch.setattr(score, "held_out", rooms)
    monkeypatch.setattr(metrics, "held_out", rooms)
    recipe = recipe_of(tmp_path, heads=["camera", "depth"], check_windows=2)
    run = Run(recipe, tmp_path / "run")
    (tmp_path / "run" / "log.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    text = run.validate(1)
    assert requested == [2, 4, 8, 4]  # one rendering for network and baseline; then for the image
    rows = [line.split()[:2] for line in text.splitlines()[2:]]
    assert rows == [[side, s] for side in ("network", "nothing") for s in "248"]
    assert text in (tmp_path / "run" / "table.txt").read_text()
    for name in ("curve.png", "picture.png", "best.json", "best.safetensors"):
        assert (tmp_path / "run" / name).stat().st_size > 0


def test_a_run_on_synthetic_rooms_compiles_every_program_before_its_first_step(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(Trainer, "loss", distance_loss)
    recipe = recipe_of(tmp_path, steps=3, tracks_share=0.5, data={"rays": 1})
    run = Run(recipe, tmp_path / "run")
    kinds = []
    monkeypatch.setattr(
        "vggt_ros.train.run.drop_unused_tracks",
        lambda kind, batch: (kinds.append(kind), drop_unused_tracks(kind, batch))[1],
    )
    state = run.train()
    rows = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert int(state.step) == len(rows) == 3 and not (tmp_path / "run" / "table.txt").exists()
    assert kinds == [batch_kind(recipe, step) for step in range(3)] and len({*kinds}) == 2


def test_linear_probes_are_not_exported(tmp_path, monkeypatch):
    monkeypatch.setattr("vggt_ros.train.run.compile_programs", lambda trainer: Programs({}, {}))
    recipe = recipe_of(tmp_path, steps=0, loss={"motion": 0.5, "attention": 0.25})
    state = Run(recipe, tmp_path / "run").train(official=True)
    assert LINEAR_PROBES in state.weights
    expected = jax.tree.structure(network_weights(state.weights))
    for name in ("last.safetensors", "official/model.safetensors"):
        weights = open_weights(str(tmp_path / "run" / name), heads=["camera"], dtype=jnp.float32)[1]
        assert LINEAR_PROBES not in weights and jax.tree.structure(weights) == expected
    plain = Trainer(recipe_of(tmp_path), MICRO).start().weights
    assert jax.tree.structure(plain) == expected


RUN = """
import sys; sys.path.insert(0, "test")
from pathlib import Path
from training_rig import random_window, recipe_of
from vggt_ros.train import run, trainer
from vggt_ros.train.checkpoints import CheckpointManager
folder = Path(sys.argv[1])
save = CheckpointManager.save
def save_and_report(checkpoints, state):
    save(checkpoints, state)
    if int(state.step) == 3:
        print("saved 3", flush=True)
CheckpointManager.save = save_and_report
trainer.sample_window = random_window
run.Run(recipe_of(folder, save_minutes=0.0), folder / "killed").train()
"""


def test_a_killed_run_resumes_bit_for_bit(tmp_path, root):
    write_co3d(tmp_path / "co3d")
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path)], cwd=root, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout and any("saved 3" in line for line in process.stdout)
    time.sleep(0.05)  # somewhere within a later step, or within its save
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    recipe = recipe_of(tmp_path)
    killed = Run(recipe, tmp_path / "killed")
    reached = int(killed.state.step)
    assert killed.resumed and reached >= 3
    train_step, end = killed.trainer.step, reached + 3
    for run in (killed, straight := Run(recipe, tmp_path / "straight")):
        batches = run.batches(int(run.state.step), {})
        while int(run.state.step) < end:
            run.state, _ = train_step(run.state, next(batches))
    jax.tree.map(
        np.testing.assert_array_equal, jax.device_get(killed.state), jax.device_get(straight.state)
    )


def test_a_run_stops_at_its_time_limit_and_its_files_can_be_read(tmp_path):
    write_co3d(tmp_path / "co3d")
    folder = tmp_path / "run"
    state = Run(recipe_of(tmp_path), folder).train(minutes=1e-6)
    assert int(state.step) == 1 and CheckpointManager(folder / "states", 1).latest_step == 1
    config, weights, report = open_weights(folder / "last.safetensors")
    assert config == MICRO and report.balanced
    original = jax.device_get(state.weights)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-2, rtol=1e-2), original, weights
    )


def test_a_run_saves_and_ends_after_too_many_skipped_steps(tmp_path, monkeypatch):
    write_co3d(tmp_path / "co3d")

    def undefined_loss(_, weights, batch, dense=True):
        loss, parts = distance_loss(_, weights, batch)
        return loss * jnp.nan, parts

    monkeypatch.setattr(Trainer, "loss", undefined_loss)
    run = Run(recipe_of(tmp_path, nan_limit=3), tmp_path / "run")
    with pytest.raises(UserError, match="not finite in 3 steps in a row.*lower learning_rate"):
        run.train()
    assert run.checkpoints.latest_step == 3
    rows = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert np.isnan(json.loads(rows[-1])["loss"]) and "gradient" in json.loads(rows[-1])
