# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What tests of training share: a micro network, its recipe, a batch and a dataset on disk."""

import gzip
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from PIL import Image

from vggt_ros.model.config import (
    AggregatorConfig,
    CameraHeadConfig,
    Config,
    DinoConfig,
    DPTConfig,
    TrackHeadConfig,
)
from vggt_ros.model.vggt import PRESETS, Preset
from vggt_ros.train.config import Recipe, recipe_from
from vggt_ros.train.data import Batch

# As shallow as the structure allows: the tests spend their time on compiling it.
MICRO = Config(
    dino=DinoConfig(depth=1, num_heads=1),
    aggregator=AggregatorConfig(img_size=28, embed_dim=16, depth=2, num_heads=1),
    camera_head=CameraHeadConfig(trunk_depth=1, num_heads=2, num_iterations=2),
    dpt=DPTConfig(features=8, out_channels=(8, 8, 8, 8), intermediate_layer_idx=(0, 0, 1, 1)),
    track_head=TrackHeadConfig(
        features=8, iters=1, corr_levels=2, corr_radius=1, hidden_size=16, depth=1, num_heads=2,
        num_virtual_tracks=2, max_scale=28.0,
    ),
)  # fmt: skip
PRESETS["micro"] = Preset(MICRO, 28)


def recipe_of(folder: Path, **changes) -> Recipe:
    """A recipe of the micro network with its run and its dataset in `folder`."""
    base = {
        "out": str(folder / "run"), "model": "micro", "heads": ["camera"], "steps": 1000,
        "batch": 2, "buckets": [[2, 28, 28]], "queries": 4, "warmup": 2, "log_every": 1,
        "check_every": 0, "check_windows": 1, "learning_rate": 1e-2, "layer_scale": 0.3,
        "data": {"kind": "co3d", "root": str(folder / "co3d"), "threads": 1},
    }  # fmt: skip
    return recipe_from(base | changes)


def batch_of(count: int, seed: int = 0, frames: int = 2, side: int = 28, queries: int = 4) -> Batch:
    """Windows of random images: static cameras in front of a wall."""
    random = np.random.default_rng(seed)
    shape = (count, frames, side, side)
    identity = np.zeros((count, frames, 9), np.float32)
    identity[..., 6:] = 1
    pixels = random.uniform(2, side - 3, (count, queries, 2)).astype(np.float32)
    return Batch(
        images=random.random((*shape, 3), np.float32),
        pose_encoding=identity,
        depth=np.full(shape, 1.5, np.float32),
        points=np.ones((*shape, 3), np.float32),
        valid=np.ones(shape, bool),
        queries=pixels,
        tracks=np.repeat(pixels[:, None], frames, axis=1),
        visible=np.ones((count, frames, queries), bool),
    )


def random_window(key: Array, frames: int, *args, **kwargs) -> Batch:
    """In place of `sample_window`: a synthetic room takes the compiler a minute."""
    window = jax.tree.map(lambda x: jnp.asarray(x[0]), batch_of(1, frames=frames)._asdict())
    return Batch(**window)


def write_co3d(root: Path, frames: int = 6) -> Path:
    """A dataset of one sequence: a textured wall 2 m away, a camera that slides 0.1 m a frame."""
    folder = root / "wall" / "seq"
    folder.mkdir(parents=True)
    texture = np.random.default_rng(0).integers(0, 255, (48, 200, 3), np.uint8)
    rows = []
    for i in range(frames):
        # 80 px focal length: 0.1 m at 2 m is 4 px
        Image.fromarray(texture[:, 4 * i : 4 * i + 64]).save(folder / f"{i}.png")
        depth = np.full((48, 64), 2.0, np.float16).view(np.uint16)
        Image.fromarray(depth).save(folder / f"{i}.depth.png")
        rows.append({
            "sequence_name": "seq",
            "image": {"path": f"wall/seq/{i}.png"},
            "depth": {"path": f"wall/seq/{i}.depth.png", "scale_adjustment": 1.0},
            "viewpoint": {
                "R": np.eye(3).tolist(), "T": [0.1 * i, 0.0, 0.0],  # PyTorch3D: x to the left
                "focal_length": [80 / 24, 80 / 24], "principal_point": [0.0, 0.0],
                "intrinsics_format": "ndc_isotropic",
            },
        })  # fmt: skip
    (root / "wall" / "frame_annotations.jgz").write_bytes(gzip.compress(json.dumps(rows).encode()))
    return root
