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
from vggt_ros.train.precompile import Programs, batch_kind, compile_programs, drop_unused_tracks
from vggt_ros.train.run import Run
from vggt_ros.train.schedule import Schedule
from vggt_ros.train.trainer import Report, Trainer

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


def test_a_bucket_that_is_named_more_often_is_drawn_more_often_and_compiled_once(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(Trainer, "loss", distance_loss)
    recipe = recipe_of(
        tmp_path, buckets=[[2, 28, 28], [2, 28, 28], [2, 28, 28], [3, 28, 28]], data={"rays": 1}
    )
    programs = compile_programs(Trainer(recipe, MICRO))
    assert {kind.bucket for kind in programs.steps} == {*programs.samplers} == {0, 3}
    drawn = [batch_kind(recipe, step).bucket for step in range(200)]
    assert {*drawn} == {0, 3} and 30 < drawn.count(3) < 70


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


def test_the_learning_rate_falls_over_as_many_steps_as_the_minutes_allow(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("vggt_ros.train.schedule.time.monotonic", lambda: now[0])
    recipe = recipe_of(tmp_path, schedule="minutes", steps=500)
    schedule = Schedule(recipe, deadline=now[0] + 160)
    assert schedule.steps == 500  # before the first step is known
    found = []
    for step, seconds in ((10, 60.0), (20, 5.0), (30, 5.0), (40, 20.0), (50, 10.0), (60, 70.0)):
        now[0] += seconds  # the first 60 are of compilation and count towards no step
        found.append(schedule.reached(step))
    # 0.5 s a step, with 95 s and 90 left; then 1 s with 70 and 60; then no time is left
    assert found == [500, 210, 210, 110, 110, 60]
    quick = Schedule(recipe_of(tmp_path, schedule="minutes", steps=100), deadline=now[0] + 1e6)
    assert [quick.reached(1), (now.__setitem__(0, now[0] + 1), quick.reached(2))[1]] == [100, 100]
    fixed = Schedule(recipe_of(tmp_path, steps=500), deadline=now[0] + 10)
    for step in (10, 20):
        now[0] += 1.0
        assert fixed.reached(step) == 500


def test_a_run_by_minutes_passes_its_schedule_to_every_step_and_needs_the_minutes(
    tmp_path, monkeypatch
):
    write_co3d(tmp_path / "co3d")
    recipe = recipe_of(tmp_path, schedule="minutes", steps=6, log_every=2)
    with pytest.raises(UserError, match="schedule: minutes.*by --minutes"):
        Run(recipe, tmp_path / "run").train()
    received = []

    def step(state, batch, steps):
        received.append(int(steps))
        report = Report(jnp.float32(1), {}, jnp.float32(1), jnp.array(False))
        return state._replace(step=state.step + 1), report

    kind = batch_kind(recipe, 0)
    monkeypatch.setattr(
        "vggt_ros.train.run.compile_programs", lambda trainer: Programs({kind: step}, {})
    )
    monkeypatch.setattr(Schedule, "reached", lambda self, step: setattr(self, "steps", 100 + step))
    assert int(Run(recipe, tmp_path / "run").train(minutes=60.0).step) == 6
    assert received == [6, 6, 102, 102, 104, 104]


def test_a_run_that_its_time_ends_says_how_far_the_learning_rate_fell(tmp_path, capsys):
    write_co3d(tmp_path / "co3d")
    recipe = recipe_of(tmp_path, schedule="minutes", warmup=0)
    Run(recipe, tmp_path / "run").train(minutes=1e-6)
    assert "step 1; the learning rate was at 100% of its peak" in capsys.readouterr().out


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
