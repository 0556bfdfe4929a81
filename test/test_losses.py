# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Losses of training and metrics of validation, each on a case worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vggt_ros.train import infonce, losses, metrics

# ---- losses --------------------------------------------------------------------------


def test_camera_loss_weights_iterations_and_its_parts():
    truth = jnp.zeros((1, 1, 9))
    encodings = jnp.stack([truth.at[..., 0].set(3.0), truth.at[..., 7].set(4.0)])
    # first: mean |t| = 1, times 0.5; second: mean |fov| = 2, halved, times 1; over 2 iterations
    whole, *parts = map(float, losses.camera_loss(encodings, truth, 0.5))
    assert whole == pytest.approx((0.5 + 1.0) / 2) and parts == pytest.approx([0.25, 0, 1.0])
    whole = losses.camera_loss(encodings, truth, 0.5, (3.0, 1.0, 0.1))[0]
    assert float(whole) == pytest.approx(3 * 0.25 + 0.1 * 1.0)


def test_pairs_are_scored_by_their_angles_however_far_they_moved():
    truth = np.zeros((1, 3, 9), np.float32)
    truth[..., 6:] = 1.0
    found = truth.copy()
    truth[0, 1, 0], truth[0, 2, 0] = 0.05, 1.0
    found[0, 1, :3] = np.array([np.cos(0.1), np.sin(0.1), 0.0]) * 0.2  # 0.1 rad off, length free
    found[0, 2, 0] = 1.0
    error = losses.pairs_loss(jnp.asarray(truth), jnp.asarray(truth))
    assert float(error) < 1e-5
    # Directions: of (0, 1) 0.1 rad off, of (0, 2) none, of (1, 2) from 0.95 to (0.801, -0.02)
    last = np.arctan2(0.2 * np.sin(0.1), 1 - 0.2 * np.cos(0.1))
    expected = sum(2 * np.sin(angle / 2) for angle in (0.1, last)) / 3
    assert float(losses.pairs_loss(jnp.asarray(found), jnp.asarray(truth))) == pytest.approx(
        expected, abs=1e-4
    )
    turned = truth.copy()
    turned[..., 5], turned[..., 6] = np.sin(0.05), np.cos(0.05)  # all by one rotation: the world
    assert float(losses.pairs_loss(jnp.asarray(turned), jnp.asarray(truth))) < 1e-5
    turned[0, 0], turned[0, 2] = truth[0, 0], truth[0, 2]  # frame 1 alone by 0.1 rad about z
    swung = np.arctan2(0.05 * np.sin(0.1), 1 - 0.05 * np.cos(0.1))  # of (1, 2), not of (0, 1)
    assert float(losses.pairs_loss(jnp.asarray(turned), jnp.asarray(truth))) == pytest.approx(
        (2 * 2 * np.sin(0.05) + 2 * np.sin(swung / 2)) / 3, abs=1e-4
    )
    still = truth.copy()
    still[0, :, 0] = 0.0
    gradient = jax.grad(lambda x: losses.pairs_loss(x, jnp.asarray(truth)))(jnp.asarray(still))
    assert np.isfinite(np.asarray(gradient)).all()


def test_confidence_pays_only_for_small_errors():
    error = jnp.array([1.0, 0.5, 7.0]).reshape(1, 1, 1, 3, 1)
    confidence = jnp.array([1.0, 2.0, 9.0]).reshape(1, 1, 1, 3)
    valid = jnp.array([True, True, False]).reshape(1, 1, 1, 3)
    loss = losses.confidence_loss(error, confidence, valid, alpha=0.2)
    assert float(loss) == pytest.approx((1.0 + (1.0 - 0.2 * np.log(2))) / 2)


def test_gradient_loss_is_of_differences_of_the_error():
    valid = jnp.ones((1, 1, 2, 2), bool)
    flat = jnp.full((1, 1, 2, 2, 1), 5.0)
    assert float(losses.gradient_loss(flat, valid, (1,))) == 0
    slope = jnp.array([[0.0, 1.0], [3.0, 4.0]]).reshape(1, 1, 2, 2, 1)
    assert float(losses.gradient_loss(slope, valid, (1,))) == pytest.approx(1.0 + 3.0)
    gap = valid.at[0, 0, 1, 1].set(False)
    assert float(losses.gradient_loss(slope, gap, (1,))) == pytest.approx(1.0 + 3.0)


def test_track_losses_count_visible_points():
    truth = jnp.zeros((1, 1, 2, 2))
    tracks = truth.at[0, 0, 0].set(jnp.array([3.0, 4.0])).at[0, 0, 1].set(99.0)
    visible = jnp.array([[[True, False]]])
    share = jnp.full((1, 1, 2), 0.25)
    every = jnp.stack([2 * tracks, tracks])  # two iterations: the first counts a half of the last
    position, visibility, confidence = losses.track_losses(
        every, share, share, truth, visible, near=6.0, decay=0.5
    )
    assert float(position) == pytest.approx((0.5 * 14.0 + 7.0) / 2)
    entropy = -(np.log(0.25) + np.log(0.75)) / 2
    assert [float(visibility), float(confidence)] == pytest.approx([entropy, entropy])


def test_negative_log_likelihood_is_of_the_true_cell_among_all_cells():
    maps = np.zeros((1, 2, 2, 3, 4), np.float32)
    maps[0, 0, 1, 2] = [2, 0, 0, 0]  # the query
    maps[0, 1, 0, 1] = [4, 0, 0, 0]  # its target
    logit = infonce.SHARPNESS / 4**0.5 * 8
    queries, truth = jnp.array([[[2.0, 1.0]]]), jnp.array([[[[2.0, 1.0]], [[1.0, 0.0]]]])
    nll = infonce.negative_log_likelihood(jnp.array(maps), queries, truth)
    expected = np.log(np.exp(logit) + 5) - logit
    assert float(nll[0, 1, 0]) == pytest.approx(expected, abs=1e-5)
    between = truth.at[0, 1, 0].set(jnp.array([0.5, 0.0]))  # half the way to an empty cell
    nll = infonce.negative_log_likelihood(jnp.array(maps), queries, between)
    assert float(nll[0, 1, 0]) == pytest.approx(expected + logit / 2, abs=1e-5)


def test_match_loss_counts_visible_points_after_the_first_frame():
    nll = jnp.array([[[9.0, 9.0], [1.0, 3.0], [5.0, 7.0]]])
    visible = jnp.array([[[True, True], [True, False], [True, True]]])
    assert float(losses.match_loss(nll, visible)) == pytest.approx((1 + 5 + 7) / 3)


# ---- metrics -------------------------------------------------------------------------


def test_depth_metrics_are_invariant_to_one_scale():
    truth = np.array([1.0, 2.0, 4.0]).reshape(1, 1, 3)
    valid = np.ones_like(truth, bool)
    assert metrics.depth_errors(3 * truth, truth, valid) == (0.0, 1.0)
    bent = np.array([1.0, 2.0, 8.0]).reshape(1, 1, 3)
    assert metrics.depth_errors(bent, truth, valid) == pytest.approx((1 / 3, 2 / 3))


def test_pose_errors_are_degrees_of_the_larger_part():
    truth = np.zeros((2, 9))
    truth[:, 6] = 1
    truth[1, 0] = 1.0
    found = truth.copy()
    np.testing.assert_allclose(metrics.pose_errors(found, truth), [0.0], atol=1e-6)
    found[1, :3] = [1.0, 1.0, 0.0]
    np.testing.assert_allclose(metrics.pose_errors(found, truth), [45.0], atol=1e-6)
    assert metrics.auc_at(np.array([0.0, 15.0, 45.0]), 30) == pytest.approx(50.0)


def test_track_metrics_count_visible_points_after_the_first_frame():
    truth, visible = np.zeros((2, 2, 2)), np.array([[True, True], [True, False]])
    tracks = truth + np.array([3.0, 0.0])
    assert metrics.track_share(tracks, truth, visible) == pytest.approx(3 / 5)


def test_scale_of_motion_against_depth():
    truth = np.zeros((3, 9), np.float32)
    truth[:, 6] = 1.0  # no turn
    truth[:, 0] = [0.0, 1.0, 2.0]
    depth, valid = np.full((3, 2, 2), 4.0, np.float32), np.ones((3, 2, 2), bool)
    found = truth.copy()
    found[:, :3] *= 0.5  # moves half as far, while depth is a quarter
    error = metrics.scale_error(found, truth, depth / 4, depth, valid)
    assert error == pytest.approx(np.log(2), rel=1e-5)
    assert metrics.scale_error(found, truth, depth / 2, depth, valid) == pytest.approx(0, abs=1e-6)
    still = truth * (np.arange(9) == 6)
    assert np.isnan(metrics.scale_error(still, still, depth, depth, valid))


def test_confidence_is_calibrated_where_the_surer_pixels_are_the_better_ones():
    truth, valid = np.ones((1, 20, 20), np.float32), np.ones((1, 20, 20), bool)
    error = np.random.default_rng(0).uniform(0, 0.5, truth.shape).astype(np.float32)
    depth = truth * np.exp(np.where(np.arange(20) % 2, error, -error)).astype(np.float32)
    sure = 1 + 1 / (0.1 + error)
    assert metrics.confidence_correlation(sure, depth, truth, valid) > 0.95
    assert metrics.confidence_correlation(1 / sure, depth, truth, valid) < -0.95
