# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Training that holds the features which dense heads read to those of a teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_rig import MICRO, batch_of, recipe_of

from vggt_ros.errors import UserError
from vggt_ros.train.config import recipe_from
from vggt_ros.train.distillation import TEACHER, features_loss, teacher_of
from vggt_ros.train.run import Run, open_teacher
from vggt_ros.train.trainer import Trainer


def trainer_of(folder, **loss: float) -> Trainer:
    return Trainer(recipe_of(folder, heads=["camera"], start="small", loss=loss), MICRO)


def changed(weights):
    """The same network with attention of another strength."""
    new = jax.tree.map(lambda x: 3 * x if x.ndim > 2 else x, weights["aggregator"])
    return {**weights, "aggregator": new}


def test_the_change_of_features_is_that_of_normalised_tokens():
    random = np.random.default_rng(0).normal(size=(2, 6, 50, 64))
    first, unrelated = jnp.asarray(random, jnp.float32)
    assert float(features_loss([first], [5 * first + 1])) < 1e-9
    assert float(features_loss([first], [unrelated])) == pytest.approx(2, abs=0.1)
    half = float(features_loss([first, first], [first, unrelated]))
    assert half == pytest.approx(1, abs=0.05)


def test_a_recipe_that_weights_features_holds_them_to_the_teacher(tmp_path):
    plain, held = trainer_of(tmp_path), trainer_of(tmp_path, features=3.0)
    weights, batch = plain.start().weights, batch_of(2)
    other = changed(weights)

    @jax.jit
    def evaluate(weights, teacher, batch):
        held_weights = weights | {TEACHER: teacher}
        (loss, parts), grads = jax.value_and_grad(held.loss, has_aux=True)(held_weights, batch)
        return loss - plain.loss(weights, batch)[0], parts["features"], grads

    extra, own, _ = evaluate(weights, teacher_of(weights), batch)
    assert abs(float(own)) < 1e-9 and float(extra) == pytest.approx(0, abs=1e-5)
    extra, features, grads = evaluate(weights, teacher_of(other), batch)
    assert 1e-4 < float(features) < 2
    assert float(extra) == pytest.approx(3 * float(features), rel=1e-2)
    assert not any(np.any(g) for g in jax.tree.leaves(grads[TEACHER]))
    assert any(np.any(g) for g in jax.tree.leaves(grads["aggregator"]))


def test_steps_bring_features_back_to_those_of_a_teacher_that_stays(tmp_path):
    trainer = trainer_of(tmp_path, camera=0.0, features=10.0)
    first = trainer.start().weights
    teacher = jax.tree.map(np.array, {**first})
    state, batch = trainer.start(changed(first), first), trainer.shard_batch(batch_of(2))
    found = []
    for _ in range(40):
        state, report = trainer.step(state, batch)
        found.append(float(report.parts["features"]))
    assert found[-1] < 0.5 * found[0]
    same = jax.tree.map(np.array_equal, state.weights[TEACHER], teacher_of(teacher))
    assert all(jax.tree.leaves(same))


def test_the_initial_weights_are_the_teacher_where_none_is_named(tmp_path):
    trainer = trainer_of(tmp_path, features=1.0)
    state = trainer.start()
    before = jax.tree.map(np.array, state.weights["aggregator"])
    state, report = trainer.step(state, trainer.shard_batch(batch_of(2)))
    assert float(report.parts["features"]) == pytest.approx(0, abs=1e-9)
    same = jax.tree.map(np.array_equal, state.weights[TEACHER]["aggregator"], before)
    assert all(jax.tree.leaves(same))


def test_a_teacher_is_not_exported(tmp_path, monkeypatch):
    from vggt_ros.train.precompile import Programs

    monkeypatch.setattr("vggt_ros.train.run.compile_programs", lambda trainer: Programs({}, {}))
    recipe = recipe_of(tmp_path, steps=0, start="small", loss={"features": 1.0})
    run = Run(recipe, tmp_path / "run")
    assert TEACHER in run.train().weights and TEACHER not in run.network_weights


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"teacher": "small"}, "used by loss.features alone"),
        ({"loss": {"features": 1.0}}, "name them by teacher or start"),
    ],
)
def test_a_teacher_without_its_loss_is_refused(settings, said):
    with pytest.raises(UserError, match=said):
        recipe_from(settings)


def test_a_teacher_of_another_kind_is_refused(tmp_path):
    recipe = recipe_of(tmp_path, teacher="small", loss={"features": 1.0})
    with pytest.raises(UserError, match="another dino and aggregator"):
        open_teacher(recipe, MICRO)
