# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Losses on the agreement of depth, motion and confidence, against plain loops and by gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_rig import MICRO, batch_of, recipe_of

from vggt_ros.errors import UserError
from vggt_ros.geometry import rotation_from_quaternion
from vggt_ros.model.vggt import Prediction
from vggt_ros.train import consistency
from vggt_ros.train.config import recipe_from
from vggt_ros.train.consistency import STRIDE
from vggt_ros.train.data import Batch, normalised
from vggt_ros.train.trainer import Trainer

HEIGHT, WIDTH, FRAMES = 28, 42, 3
INTRINSICS = np.array([[40.0, 0, 18.0], [0, 38.0, 15.0], [0, 0, 1]])  # its principal point is off
losses_of = jax.jit(consistency.agreement_losses)


@pytest.fixture(scope="module")
def window() -> Batch:
    """Three cameras, turned and moved, in front of a slanted wall."""
    random = np.random.default_rng(0)
    turn = rotation_from_quaternion(
        np.array([[0, 0, 0, 1], [0.02, 0.06, 0.03, 1], [0, -0.08, 0, 1]])
    )
    shift = np.array([[0, 0, 0], [-0.3, 0.05, 0.1], [0.4, -0.1, -0.2]])
    normal, offset = np.array([0.2, 0.1, 1.0]), 2.0  # of the wall: normal . x = offset
    v, u = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(INTRINSICS).T
    depth = []
    for rotation, move in zip(turn, shift, strict=True):
        centre = -rotation.T @ move
        depth.append((offset - normal @ centre) / (rays @ rotation @ normal))
    valid = np.ones((FRAMES, HEIGHT, WIDTH), bool)
    valid[1, :10] = False
    batch = normalised(
        random.random((FRAMES, HEIGHT, WIDTH, 3)), np.array(depth), valid,
        np.concatenate([turn, shift[..., None]], axis=-1), np.tile(INTRINSICS, (FRAMES, 1, 1)),
        np.zeros((1, 2)), np.zeros((FRAMES, 1, 2)), np.ones((FRAMES, 1), bool),
    )  # fmt: skip
    as_float = [jnp.asarray(x[None], bool if x.dtype == bool else jnp.float32) for x in batch]
    return Batch(*as_float)


def predicted(window: Batch, depth=1.0, translation=1.0, noise=0.0) -> Prediction:
    """The truth with depth and translation multiplied, and noise on everything."""
    random = np.random.default_rng(1)

    def rough(shape):
        return jnp.asarray(noise * random.standard_normal(shape), jnp.float32)

    encoding = window.pose_encoding.at[..., :3].multiply(translation)
    return Prediction(
        pose_encoding=encoding + rough(encoding.shape),
        depth=depth * window.depth * jnp.exp(rough(window.depth.shape)),
        depth_confidence=1 + jnp.exp(20 * rough(window.depth.shape)),
    )


def test_the_truth_agrees_with_itself_and_a_common_scale_is_free(window):
    assert float(consistency.correspondence(window).valid.mean()) > 0.5
    for scale in (1.0, 1.4):
        found = losses_of(predicted(window, scale, scale), window)
        for name in ("surface", "reprojection"):
            assert float(found[name]) == pytest.approx(0, abs=2e-4), name
        # The baselines' offset keeps the logarithm of no motion finite.
        assert float(found["scale"]) == pytest.approx(0, abs=0.02)


def test_depth_and_motion_of_other_scales_disagree_by_their_ratio(window):
    found = losses_of(predicted(window, depth=1.5), window)
    assert float(found["scale"]) == pytest.approx(np.log(1.5), rel=0.02)
    assert float(found["surface"]) > 0.01 and float(found["reprojection"]) > 0.05


def test_surface_and_reprojection_equal_a_plain_loop(window):
    prediction = predicted(window, 1.1, 0.9, noise=0.02)
    found = losses_of(prediction, window)
    depth, truth = np.asarray(prediction.depth[0]), np.asarray(window.depth[0])
    valid = np.asarray(window.valid[0])
    poses, true_poses = (
        [
            (rotation_from_quaternion(np.asarray(e, float)[3:7]), np.asarray(e, float)[:3])
            for e in x[0]
        ]
        for x in (prediction.pose_encoding, window.pose_encoding)
    )
    surface, reprojection = [], []
    for i in range(FRAMES):
        j = (i + 1) % FRAMES
        for v in range(STRIDE // 2, HEIGHT, STRIDE):
            for u in range(STRIDE // 2, WIDTH, STRIDE):
                ray = np.linalg.inv(INTRINSICS) @ [u, v, 1.0]

                def placed(z, cameras, ray=ray, i=i, j=j):
                    (turn, move), (turn_then, move_then) = cameras[i], cameras[j]
                    return turn_then @ (turn.T @ (z * ray - move)) + move_then

                true = placed(truth[i, v, u], true_poses)
                column, row, _ = np.rint(INTRINSICS @ true / true[2]).astype(int)
                if not (0 <= column < WIDTH and 0 <= row < HEIGHT and valid[i, v, u]):
                    continue
                if not valid[j, row, column]:
                    continue
                there = truth[j, row, column]
                if true[2] < 0.05 or abs(true[2] - there) > 0.05 * there:
                    continue
                point = placed(depth[i, v, u], poses)
                surface.append(
                    abs(np.log(point[2] / true[2]) - np.log(depth[j, row, column] / there))
                )
                reprojection.append(np.abs(point[:2] / point[2] - true[:2] / true[2]).sum())
    assert len(surface) > 20
    assert float(found["surface"]) == pytest.approx(np.mean(surface), rel=1e-3)
    assert float(found["reprojection"]) == pytest.approx(np.mean(reprojection), rel=1e-3)


def test_scale_and_calibration_equal_a_plain_loop(window):
    prediction = predicted(window, 1.1, 0.9, noise=0.02)
    found = losses_of(prediction, window)
    depth, truth, valid = (np.asarray(x[0]) for x in (prediction.depth, window.depth, window.valid))
    ratio = np.log(depth / truth)
    by_depth = ratio[valid].mean()

    def centres(encodings):
        return [
            -rotation_from_quaternion(e[3:7]).T @ e[:3] for e in np.asarray(encodings[0], float)
        ]

    errors = []
    here, true = centres(prediction.pose_encoding), centres(window.pose_encoding)
    for a in range(FRAMES):
        for b in range(a + 1, FRAMES):
            lengths = [np.linalg.norm(c[a] - c[b]) + consistency.MIN_BASELINE for c in (here, true)]
            errors.append(abs(np.log(lengths[0] / lengths[1]) - by_depth))
    assert float(found["scale"]) == pytest.approx(np.mean(errors), rel=1e-3)

    confidence = np.asarray(prediction.depth_confidence[0])
    terms = []
    for error, sure in zip(np.abs(ratio - by_depth)[valid], confidence[valid], strict=True):
        asked = min(max(-np.log(error), 0.0), consistency.SUREST)
        terms.append(abs(np.log(sure) - asked))
    assert float(found["calibration"]) == pytest.approx(np.mean(terms), rel=1e-3)


def test_gradients_leave_a_common_scale_alone_and_bring_scales_together(window):
    def loss(scales, name):
        prediction = predicted(window)
        assert prediction.depth is not None and prediction.pose_encoding is not None
        depth = 1.3 * jnp.exp(scales[0]) * prediction.depth
        encoding = prediction.pose_encoding.at[..., :3].multiply(jnp.exp(scales[1]))
        changed = prediction._replace(depth=depth, pose_encoding=encoding)
        return consistency.agreement_losses(changed, window)[name]

    for name in ("surface", "reprojection", "scale"):
        by_depth, by_motion = jax.jit(jax.grad(partial(loss, name=name)))(jnp.zeros(2))
        # Depth is too large by 1.3: descent makes it smaller and the motion longer, alike.
        assert float(by_depth) > 0.01, name
        assert float(by_motion) == pytest.approx(-float(by_depth), rel=0.05), name


def test_calibration_moves_confidence_only_and_towards_the_error(window):
    prediction = predicted(window, noise=0.1)

    def loss(depth, log_confidence):
        found = consistency.calibration_loss(
            jnp.exp(log_confidence), depth, window.depth, window.valid
        )
        return found * window.valid.sum()

    ratio = jnp.log(prediction.depth / window.depth)
    error = jnp.abs(ratio - jnp.where(window.valid, ratio, 0).sum() / window.valid.sum())
    for offset in (-0.5, 0.5):
        sure = jnp.clip(-jnp.log(error), 0, consistency.SUREST) + offset
        by_depth, by_confidence = jax.grad(loss, (0, 1))(prediction.depth, sure)
        assert not np.any(by_depth)
        wanted = np.where(window.valid, np.sign(offset), 0.0)
        np.testing.assert_allclose(by_confidence, wanted, atol=1e-6)


@pytest.mark.slow
def test_a_recipe_adds_the_terms_with_their_weights(tmp_path):
    changes = {"heads": ["camera", "depth"], "dtype": "float32"}
    plain = Trainer(recipe_of(tmp_path, **changes), MICRO)
    weights = {"surface": 0.5, "reprojection": 2.0, "scale": 0.25, "calibration": 0.125}
    trainer = Trainer(recipe_of(tmp_path, loss=weights, **changes), MICRO)
    batch, state = jax.tree.map(jnp.asarray, batch_of(2)), plain.start()
    without, _ = jax.jit(plain.loss)(state.weights, batch)
    loss, parts = jax.jit(trainer.loss)(state.weights, batch)
    added = sum(weight * float(parts[name]) for name, weight in weights.items())
    assert added > 0 and float(loss - without) == pytest.approx(added, rel=1e-3)


def test_terms_without_their_heads_are_refused():
    with pytest.raises(UserError, match="surface, scale compare cameras with depth"):
        recipe_from({"heads": ["camera"], "loss": {"surface": 1.0, "scale": 0.5}})
