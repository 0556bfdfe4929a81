# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The training step: losses by recipe, frozen weights, skipped steps, several devices."""

import os
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from training_rig import MICRO, batch_of, recipe_of

from vggt_ros.errors import UserError
from vggt_ros.train.auxiliary import network_weights
from vggt_ros.train.precompile import BatchKind, batch_kind, drop_unused_tracks, kinds_of
from vggt_ros.train.run import Run
from vggt_ros.train.trainer import Trainer, mesh_of

pytestmark = pytest.mark.slow
HEADS = ["camera", "depth", "tracks"]
AUXILIARY = {"motion": 0.5, "attention": 0.25}


class Losses(NamedTuple):
    """The loss of one batch under three recipes: the total, and its parts."""

    plain: tuple[Any, dict[str, Any]]
    matches: tuple[Any, dict[str, Any]]
    auxiliary: tuple[Any, dict[str, Any]]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory) -> Trainer:
    """All heads and losses, encoder frozen; its programs are compiled once for the module."""
    recipe = recipe_of(
        tmp_path_factory.mktemp("trainer"), heads=HEADS, steps=30, freeze=["encoder/.*"],
        remat=True, loss=AUXILIARY,
    )  # fmt: skip
    return Trainer(recipe, MICRO)


@pytest.fixture(scope="module")
def losses(tmp_path_factory) -> Losses:
    folder = tmp_path_factory.mktemp("losses")
    terms = {"plain": {}, "matches": {"matches": 0.5}, "auxiliary": AUXILIARY}
    trainers = {
        name: Trainer(recipe_of(folder, heads=["camera", "tracks"], loss=loss), MICRO)
        for name, loss in terms.items()
    }
    weights = trainers["auxiliary"].start().weights

    @jax.jit  # of all three at once: they share the forward pass
    def evaluate(weights, batch):
        plain = network_weights(weights)
        return Losses(
            trainers["plain"].loss(plain, batch),
            trainers["matches"].loss(plain, batch),
            trainers["auxiliary"].loss(weights, batch),
        )

    return jax.device_get(evaluate(weights, batch_of(2)))


def test_a_recipe_that_weights_matches_adds_their_loss(losses):
    (total, parts), (without, plain) = losses.matches, losses.plain
    assert float(total) == pytest.approx(float(without) + 0.5 * float(parts["matches"]), rel=1e-5)
    assert float(parts["matches"]) > 0 and "matches" not in plain


def test_a_recipe_that_weights_motion_adds_the_auxiliary_losses(losses):
    (total, parts), (without, _) = losses.auxiliary, losses.plain
    extra = 0.5 * float(parts["motion"]) + 0.25 * float(parts["attention"])
    assert float(total) == pytest.approx(float(without) + extra, rel=1e-5)


def test_a_network_overfits_one_batch_and_frozen_weights_stay(trainer):
    state, batch = trainer.start(), trainer.shard_batch(batch_of(2))
    before: Any = jax.device_get(state.weights)
    reports = []
    for _ in range(30):
        state, report = trainer.step(state, batch)
        reports.append(jax.device_get(report))
    assert reports[24].loss < 0.6 * reports[1].loss
    assert {"camera", "depth", "tracks", "visibility"} <= reports[0].parts.keys()
    for name in AUXILIARY:
        assert reports[-1].parts[name] < 0.8 * reports[0].parts[name], name
    after: Any = jax.device_get(state.weights)
    same = jax.tree.map(np.array_equal, before, after)
    assert all(jax.tree.leaves(same["encoder"])) and not any(
        jax.tree.leaves(same["depth_head"]["output_conv2"])
    )


def test_frozen_weights_cost_no_backward_pass(tmp_path):
    batch = batch_of(2)

    def products(*freeze):
        trainer = Trainer(recipe_of(tmp_path, freeze=list(freeze)), MICRO)
        grads = jax.grad(trainer.loss, has_aux=True)
        text = str(jax.make_jaxpr(grads)(trainer.abstract().weights, batch))
        return text.count("dot_general") + text.count("conv_general")

    forward = products(".*")
    two, one, none = products("encoder/.*", "aggregator/.*"), products("encoder/.*"), products()
    assert 0 < forward < two < one < none


def test_a_step_that_is_not_finite_is_skipped(trainer):
    state = trainer.start()
    before = jax.device_get(state.weights)
    poison = batch_of(2)
    poison.depth[0, 0, 0, 0] = np.nan
    state, report = trainer.step(state, trainer.shard_batch(poison))
    assert bool(report.skipped) and int(state.step) == 1
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(state.weights))


def test_steps_without_tracks_leave_the_track_head_unchanged(tmp_path):
    recipe = recipe_of(
        tmp_path, heads=["depth", "tracks"], freeze=["encoder/.*", "aggregator/.*"],
        tracks_share=0.5, warmup=0, weight_decay=0.0,
    )  # fmt: skip
    trainer = Trainer(recipe, MICRO)
    kinds = [batch_kind(recipe, step) for step in range(100)]
    assert 35 < sum(kind.tracks for kind in kinds) < 65
    state = trainer.start()
    before: Any = jax.device_get(state.weights)
    batch = trainer.shard_batch(drop_unused_tracks(BatchKind(0, tracks=False), batch_of(2)))
    state, report = trainer.step(state, batch)
    assert "tracks" not in report.parts and "depth" in report.parts
    after: Any = jax.device_get(state.weights)
    jax.tree.map(np.testing.assert_array_equal, before["track_head"], after["track_head"])
    kernels = [weights["depth_head"]["output_conv2"]["kernel"] for weights in (before, after)]
    assert np.any(kernels[0] != kernels[1])


def test_steps_of_cameras_alone_run_no_dense_head_but_the_terms_on_tokens(tmp_path):
    recipe = recipe_of(
        tmp_path, heads=["camera", "depth", "tracks"], dense_share=0.25, tracks_share=0.5,
        warmup=0, weight_decay=0.0, loss={"motion": 0.5, "surface": 0.3, "matches": 0.3},
    )  # fmt: skip
    trainer = Trainer(recipe, MICRO)
    kinds = [batch_kind(recipe, step) for step in range(200)]
    assert 30 < sum(kind.dense for kind in kinds) < 70
    assert 12 < sum(kind.tracks for kind in kinds) < 40
    assert not any(kind.tracks and not kind.dense for kind in kinds)
    assert {*kinds} == {*kinds_of(recipe, 0)}
    state = trainer.start()
    state, _ = trainer.step(state, trainer.shard_batch(batch_of(2)))  # all heads have momentum
    before: Any = jax.device_get(state.weights)
    kind = BatchKind(0, tracks=False, dense=False)
    batch = trainer.shard_batch(drop_unused_tracks(kind, batch_of(2)))
    state, report = trainer.step(state, batch, dense=kind.dense)
    assert {"camera", "motion"} < {*report.parts}
    assert not {"depth", "tracks", "matches", "surface"} & {*report.parts}
    after: Any = jax.device_get(state.weights)
    for head in ("depth_head", "track_head"):
        jax.tree.map(np.testing.assert_array_equal, before[head], after[head])
    changed = [weights["camera_head"]["embed_pose"]["kernel"] for weights in (before, after)]
    assert np.any(changed[0] != changed[1])


EIGHT = """
import sys; sys.path.insert(0, "test")
import jax, numpy as np
from pathlib import Path
from training_rig import MICRO, batch_of, recipe_of
from vggt_ros.train import trainer
from vggt_ros.train.checkpoints import CheckpointManager
from vggt_ros.train.trainer import Trainer, mesh_of
trainer.SHARDED_FROM = 1 << 10  # the micro network has no large arrays
recipe = recipe_of(Path(sys.argv[1]), batch=8)
found = []
for mesh in (mesh_of(1, jax.devices()[:1]), mesh_of(2)):
    trainer = Trainer(recipe, MICRO, mesh)
    state, losses = trainer.start(), []
    for i in range(3):
        state, report = trainer.step(state, trainer.shard_batch(batch_of(8, i)))
        losses.append(float(report.loss))
    found.append(losses)
np.testing.assert_allclose(*found, rtol=2e-5)
assert any(not x.sharding.is_fully_replicated for x in jax.tree.leaves(state.weights))
checkpoints = CheckpointManager(Path(sys.argv[1]) / "states", 1)
checkpoints.save(state)
fewer = Trainer(recipe, MICRO, mesh_of(1, jax.devices()[:4]))
back = checkpoints.restore(fewer.abstract())
jax.tree.map(np.testing.assert_array_equal, jax.device_get(back), jax.device_get(state))
assert len(jax.tree.leaves(back.weights)[0].sharding.device_set) == 4
print("same on", len(jax.devices()))
"""


def test_eight_devices_compute_what_one_does_and_four_resume_from_there(tmp_path, root):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", EIGHT, str(tmp_path)], cwd=root, text=True, capture_output=True,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}, check=False,
    )  # fmt: skip
    assert "same on 8" in done.stdout, done.stderr[-3000:]


def test_devices_must_divide_and_models_must_exist(tmp_path):
    with pytest.raises(UserError, match="groups of 3"):
        mesh_of(3, jax.devices()[:1])
    with pytest.raises(UserError, match="is not a preset"):
        Run(recipe_of(tmp_path, model="huge"), tmp_path)
