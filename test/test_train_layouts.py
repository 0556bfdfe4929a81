# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Training of layouts: rigs in rooms, windows by views, new parts that learn while others stay."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_rig import MICRO, batch_of, recipe_of

from vggt_ros.errors import UserError
from vggt_ros.model.checkpoint import save
from vggt_ros.model.random_weights import random_weights
from vggt_ros.model.vggt import abstract_model, functional
from vggt_ros.model.weights import flatten
from vggt_ros.train import score
from vggt_ros.train.config import read_recipe, recipe_from
from vggt_ros.train.rooms.trajectories import sample_rig, sample_trajectory
from vggt_ros.train.run import open_network
from vggt_ros.train.trainer import Trainer


@pytest.mark.parametrize("views", [2, 4])
def test_the_cameras_of_a_rig_are_rigid_and_look_to_alternating_sides(views):
    room = jnp.array([6.0, 6.0, 3.0])
    angles = []
    for seed in range(12):
        key = jax.random.key(seed)
        body = sample_trajectory(key, room, 3)
        rig = sample_rig(key, body, views)
        poses = np.asarray(rig.camera_from_world).reshape(3, views, 3, 4)
        np.testing.assert_allclose(poses[:, 0], body.camera_from_world, atol=1e-6)
        turn = poses[..., :3] @ poses[:, :1, :, :3].swapaxes(-1, -2)  # camera from first camera
        move = poses[..., 3:] - turn @ poses[:, :1, :, 3:]
        np.testing.assert_allclose(turn, np.broadcast_to(turn[:1], turn.shape), atol=1e-5)
        np.testing.assert_allclose(move, np.broadcast_to(move[:1], move.shape), atol=1e-4)
        assert (np.linalg.norm(move[..., 0], axis=-1) <= 0.3).all()
        np.testing.assert_allclose(turn[0, :, 1], np.eye(3)[[1] * views], atol=1e-5)  # level
        ahead = turn[0].swapaxes(-1, -2)[..., 2]  # optical axes, in the first camera
        yaw = np.rad2deg(np.arctan2(ahead[:, 0], ahead[:, 2]))
        angles.append(abs(yaw[1]))
        if views == 4 and angles[-1] < 60:
            assert yaw[1] > 0 > yaw[2] and yaw[2] == pytest.approx(-yaw[1], abs=0.1)
            assert yaw[3] == pytest.approx(2 * yaw[1], abs=0.1)
        assert np.array_equal(rig.seconds, np.repeat(body.seconds, views))
    angles = np.array(angles)
    assert ((angles > 9.9) & (angles < 120.1)).all() and not ((angles > 51) & (angles < 59)).any()
    assert (angles < 51).any() and (angles > 59).any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"views": [2, 2]}, "one number of cameras for each bucket"),
        ({"views": [3]}, "which divides its frames"),
        ({"views": [2]}, "needs data.kind scenes"),
        ({"buckets": [[2, 28, 28], [2, 28, 56]], "views": [1, 2]}, "must have as many views"),
    ],
)
def test_rigs_that_do_not_fit_a_recipe_are_refused(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        recipe_of(tmp_path, **changes)


def test_the_recipe_of_rigs_names_the_cameras_of_each_window():
    recipe = read_recipe("small_rig")
    assert recipe.views_by_frames == {4: 2, 6: 3, 8: 4} and recipe.layout == "view_time"
    assert read_recipe("small").views_by_frames == {2: 1, 4: 1, 8: 1}


@pytest.mark.slow
@pytest.mark.parametrize("frames, views", [(6, 3), (8, 4)])
def test_a_step_of_that_recipe_is_traced_for_three_and_four_cameras(frames, views):
    """From the rendered batch to the new weights, as it is compiled in a run; nothing runs.

    All is the recipe's but the depth of the network.
    """
    recipe = read_recipe("small_rig")
    trainer = Trainer(recipe, replace(MICRO, layout=recipe.layout))
    (bucket,) = [bucket for bucket in recipe.buckets if bucket[0] == frames]
    batch = jax.eval_shape(trainer.sampler(bucket), jax.ShapeDtypeStruct((), jnp.int32))
    assert batch.images.shape == (recipe.batch, *bucket, 3) and frames % views == 0
    state, without = trainer.abstract(), batch._replace(queries=None, tracks=None, visible=None)
    after, report = trainer.step.eval_shape(state, trainer.abstract_batch(without))
    assert {"camera", "depth"} <= set(report.parts)
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), each) for each in (state, after)]
    assert shapes[0] == shapes[1]


@pytest.mark.slow
def test_a_window_of_a_rig_is_predicted_as_the_layout_predicts_it(tmp_path):
    recipe = recipe_from({
        "model": "micro", "layout": "view_time", "heads": ["camera"], "batch": 2,
        "buckets": [[4, 28, 28]], "views": [2],
    })  # fmt: skip
    config, weights = open_network(recipe)
    assert config.layout == "view_time" and weights is None
    trainer = Trainer(recipe, config)
    images = jnp.asarray(batch_of(2, frames=4).images)
    tree = trainer.start().weights
    found = jax.jit(lambda w, x: trainer.predict(w, x, None))(tree, images).pose_encoding
    by_view = images.reshape(2, 2, 2, 28, 28, 3)
    apply = jax.jit(functional(abstract_model(config, ("camera",)))[0])
    expected = apply(tree, by_view).pose_encoding.reshape(2, 4, 9)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(apply(tree, images).pose_encoding - expected).max() > 1e-4


@pytest.mark.slow
def test_new_parts_of_a_checkpoint_learn_while_the_rest_is_frozen(tmp_path, capsys):
    start = tmp_path / "start.safetensors"
    save(start, MICRO, random_weights(MICRO, ("camera",)))
    recipe = recipe_of(
        tmp_path, start=str(start), layout="dual_stream",
        freeze=["encoder/.*", "(camera|depth|point)_head/.*",
                "aggregator/(stages/.*|camera_token|register_token)"],
    )  # fmt: skip
    config, weights = open_network(recipe)
    shown = capsys.readouterr().out
    assert "start as copies" in shown and "without an effect" in shown
    trainer = Trainer(recipe, config)
    before = {path: np.array(x) for path, x in flatten(trainer.start(weights).weights).items()}
    state = trainer.start(weights)
    for _ in range(3):
        state, report = trainer.step(state, trainer.shard_batch(batch_of(2)))
        assert not report.skipped
    moved = {
        "/".join(map(str, path))
        for path, x in flatten(state.weights).items()
        if not np.array_equal(x, before[path])
    }
    assert "aggregator/spatial_mask_head/mlp/fc2/kernel" in moved
    assert "aggregator/lambda_pose_logit" in moved
    assert all("spatial_mask_head" in name or "lambda" in name for name in moved)


def test_a_loss_of_joint_attention_is_refused_in_other_layouts(tmp_path):
    recipe = recipe_of(tmp_path, layout="dual_stream", loss={"attention": 0.3})
    with pytest.raises(UserError, match=r"loss.attention is of layout joint.*dual_stream"):
        open_network(recipe)
    config, _ = open_network(recipe_of(tmp_path, layout="sparse_global"))
    assert config == replace(MICRO, layout="sparse_global")


def test_a_network_of_rigs_that_is_scored_in_rooms_says_that_they_have_one_camera(
    monkeypatch, capsys
):
    for layout in ("joint", "view_time"):
        opened = replace(MICRO, layout=layout), {}, None
        monkeypatch.setattr(score, "open_weights", lambda *_, opened=opened, **__: opened)
        monkeypatch.setattr(score, "compare", lambda *_: {})
        assert score.score("own.safetensors", 1, (2,)) == {}
        assert ("scored as one sequence, as in joint" in capsys.readouterr().out) == (
            layout == "view_time"
        )
