# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A training step: forward and backward pass with rematerialisation, and the optimiser."""

import math
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.gpu_rows.setup import Setup, attempt
from vggt_ros.engine.device import choose_device
from vggt_ros.errors import UserError
from vggt_ros.model.random_weights import random_weights
from vggt_ros.tools.bench.main import Row, interleaved

HEADS = ("camera", "depth", "points")
FRAMES = 2


def train(setup: Setup) -> Iterator[Row]:
    """Samples a second, for one sample a step and for four; square images."""
    for batch in (1, 4):
        width = setup.size[1]
        name = f"train_samples_s/{setup.options.model}/{width}x{width}/S{FRAMES}/B{batch}"
        yield from attempt(name, lambda b=batch, n=name, w=width: [_samples(setup, b, w, n)])


def _samples(setup: Setup, batch: int, width: int, name: str) -> Row:
    for library in ("optax", "yaml"):
        found = find_spec(library)
        if found is None or "absent" in Path(found.origin or "").parts:  # a stand-in
            raise UserError(f"{library} missing")
    from vggt_ros.train.config import Recipe
    from vggt_ros.train.data import Batch
    from vggt_ros.train.trainer import Trainer, mesh_of

    recipe = Recipe(
        model=setup.options.model, heads=HEADS, batch=batch, buckets=((FRAMES, width, width),),
        dtype=setup.options.dtype, remat=True,
    )  # fmt: skip
    trainer = Trainer(recipe, setup.config, mesh_of(devices=[choose_device()]))
    weights = random_weights(setup.config, HEADS, np.float32, pooled_on=choose_device())
    state = trainer.start(weights)
    random, pixels = np.random.default_rng(0), (batch, FRAMES, width, width)
    pose = np.zeros((batch, FRAMES, 9), np.float32)
    pose[..., 6:] = 1  # no rotation, and a wide view
    depth = random.uniform(0.5, 1.5, pixels).astype(np.float32)
    sample = trainer.shard_batch(
        Batch(
            images=random.random((*pixels, 3), np.float32),
            pose_encoding=pose,
            depth=depth,
            points=np.repeat(depth[..., None], 3, -1),
            valid=np.ones(pixels, bool),
            queries=np.zeros((batch, 1, 2), np.float32),
            tracks=np.zeros((batch, FRAMES, 1, 2), np.float32),
            visible=np.ones((batch, FRAMES, 1), bool),
        )
    )

    loss = math.nan

    def learn() -> None:
        nonlocal state, loss
        state, report = trainer.step(state, sample)
        loss = float(report.loss)

    seconds = interleaved({"step": learn}, setup.options.repeats)["step"]
    against = f"{1e3 * seconds:.4g} ms a step, with rematerialisation; loss {loss:.4g}"
    return Row(name, batch / seconds, "1/s", "higher", against)
