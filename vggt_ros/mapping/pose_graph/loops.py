# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Old keyframes seen again: which one to compare with, and what the network then says of it.

An old keyframe enters an inference as an extra view. Its appearance only proposes it. What counts
is geometry: the depths of old and new views must agree where the network says that they overlap,
both ways, and the relation must be one that the map's own uncertainty admits.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

from vggt_ros.geometry import Similarity, rotation_angle
from vggt_ros.mapping.map_frames import MapFrame, ViewOverlap, view_overlap
from vggt_ros.mapping.noise import NoiseEstimate
from vggt_ros.mapping.pose_graph.edges import Sigma
from vggt_ros.mapping.pose_graph.keyframe import Keyframe
from vggt_ros.mapping.registration import CENTRE_FLOOR

MIN_OVERLAP = 0.35  # share of either view that the other must see
MIN_AGREEMENT = 0.8  # share of points whose depths must agree, both ways: nine in ten usually do
SAME_PLACE = 0.06  # log ratio below which two depths agree, however good the network
PLAUSIBLE = 2.5  # sigmas that a loop may differ from what the map expects: true ones do by 1.5
INFLATED = 1.5  # times the map's own sigmas: errors of windows in a row are correlated
MEAN_OF = 100  # descriptors, spread over all, whose mean is taken for that of all
PATCHES = 8.0  # independent errors of depth in one image
OLD_OBSERVATIONS = 3.0  # windows that saw the depth of an old keyframe, at least as a rule


class LoopView(NamedTuple):
    """An old keyframe as the network saw it beside a window."""

    keyframe: int
    window_from_camera: Float[np.ndarray, "4 4"]


class Relation(NamedTuple):
    """Where an old keyframe stands by one inference: in the world as the window has it."""

    keyframe: int
    world_from_keyframe: Similarity
    sigma: Sigma  # rotation (rad), translation (world units), log scale
    agreement: float  # share of points whose depths agree, by the worst pair of views


def similarities(
    descriptor: Float32[np.ndarray, "d"], others: Float32[np.ndarray, "n d"]
) -> Float[np.ndarray, "n"]:
    """Cosines of descriptors, of length 1, without their common mean, which says nothing."""
    mean = others[:: max(1, len(others) // MEAN_OF)].mean(axis=0)
    own = descriptor - mean
    # Written out, (others - mean) @ own and the norms need no second copy of thousands of rows. No
    # BLAS: its threads wait for each other where the network has all cores.
    along, across = (np.einsum("nd,d->n", others, each) for each in (own, mean))
    length = np.sqrt(np.maximum(1.0 - 2.0 * across + mean @ mean, 0.0)) * np.linalg.norm(own)
    return (along - mean @ own) / np.maximum(length, 1e-6)


def apart(
    centres: Float[np.ndarray, "n 3"],
    directions: Float[np.ndarray, "n 3"],
    world_from_camera: Float[np.ndarray, "4 4"],
    *,
    distance: float,
    angle: float,
) -> Float[np.ndarray, "n"]:
    """How far keyframes are from a camera, as a share of a distance or an angle (the larger)."""
    away = np.linalg.norm(centres - world_from_camera[:3, 3], axis=1) / distance
    cosine = np.clip(directions @ world_from_camera[:3, 2], -1.0, 1.0)
    return np.maximum(away, np.arccos(cosine) / angle)


def best(
    ids: Int[np.ndarray, "n"], likeness: Float[np.ndarray, "n"], tried: Sequence[int]
) -> int | None:
    """The most alike that was not tried lately."""
    fresh = ~np.isin(ids, tried)
    if not fresh.any():
        return None
    return int(ids[fresh][np.argmax(likeness[fresh])])


def measure(
    seen: LoopView,
    keyframe: Keyframe,
    window: Sequence[MapFrame],
    world_from_window: Similarity,
    noise: NoiseEstimate,
    scene_depth: float,
) -> Relation | str:
    """What an inference says of an old keyframe, or why it says nothing.

    `window` are the window's frames in the world, the newest last. The scale of the keyframe is
    that at which its own depth, known from then, agrees with theirs.
    """
    if keyframe.depth is None:
        return "the old keyframe has no depth"
    pose = world_from_window.apply_to_poses(seen.window_from_camera[None])[0]
    if not np.isfinite(pose).all():
        return "its camera is not finite"
    same = max(SAME_PLACE, 2.5 * noise.view)
    known = [frame for frame in window if frame.depth is not None]
    if not known:
        return "the window has no depth"
    scale = float(keyframe.world_from_keyframe.scale)
    for _ in range(2):  # the first ratio is of points that were projected at another scale
        views = _overlaps(_placed(keyframe, pose, scale), known, same)
        if known[-1].frame_id not in views:
            return "the views hardly overlap"
        ratio, sigma = _mean_ratio(views, known, noise)
        scale *= float(np.exp(ratio))
    views = _overlaps(_placed(keyframe, pose, scale), known[-2:], same)
    if known[-1].frame_id not in views:
        return "the views hardly overlap"
    reference = world_from_window.apply(np.zeros(3))
    away = float(np.linalg.norm(pose[:3, 3] - reference)) + CENTRE_FLOOR * scene_depth
    sigmas = (noise.turn * np.sqrt(2.0), noise.shift * away * np.sqrt(2.0), sigma)
    where = Similarity(scale, pose[:3, :3], pose[:3, 3])
    agreement = min(view.agreement for view in views.values())
    return Relation(seen.keyframe, where, sigmas, agreement)


def _overlaps(old: MapFrame, window: Sequence[MapFrame], same: float) -> dict[int, ViewOverlap]:
    """By frame id, the views of the window that overlap the old one enough."""
    views = {frame.frame_id: view_overlap(old, frame, same) for frame in window}
    return {key: view for key, view in views.items() if view and view.overlap >= MIN_OVERLAP}


def _mean_ratio(
    views: dict[int, ViewOverlap], window: Sequence[MapFrame], noise: NoiseEstimate
) -> tuple[float, float]:
    """By what log ratio the window is deeper than the old keyframe, and one sigma of it.

    A frame's depth is the better known the more windows saw it; the newest one's was seen once.
    """
    smooth = 0.5 * noise.view**2 / PATCHES  # of one view; a ratio of two has `noise.view`
    seen = [frame for frame in window if frame.frame_id in views]
    variances = np.array([smooth + noise.depth_scale**2 / max(f.depths, 1.0) for f in seen])
    ratio = np.average([views[frame.frame_id].ratio for frame in seen], weights=1.0 / variances)
    of_old = smooth + noise.depth_scale**2 / OLD_OBSERVATIONS
    return float(ratio), float(np.sqrt(of_old + 1.0 / np.sum(1.0 / variances)))


def _placed(keyframe: Keyframe, pose: Float[np.ndarray, "4 4"], scale: float) -> MapFrame:
    assert keyframe.depth is not None
    depth = scale * keyframe.depth.astype(np.float64)
    return MapFrame(keyframe.frame_id, pose, keyframe.intrinsics, depth)


class Difference(NamedTuple):
    """How far two similarities of one frame are apart, in units of the first's target frame."""

    rotation: float  # radians
    translation: float
    log_scale: float

    @classmethod
    def between(cls, one: Similarity, other: Similarity) -> "Difference":
        turned = one.rotation.T @ other.rotation
        return cls(
            rotation_angle(turned),
            float(np.linalg.norm(one.translation - other.translation)),
            abs(float(np.log(one.scale / other.scale))),
        )

    def in_sigmas(self, *sigmas: Sigma) -> float:
        """The largest part in units of its sigma (of each axis), which are independent."""
        total = np.sqrt(np.sum(np.square(np.array(sigmas)), axis=0)) * np.sqrt([3.0, 3.0, 1.0])
        return float(np.max(np.array(self) / np.maximum(total, 1e-12)))
