# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt eval MODEL rooms`: how well a network sees drawn rooms that training never drew."""

from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from vggt_ros.engine.compiler import HEADS
from vggt_ros.errors import UserError
from vggt_ros.model.checkpoint import open_weights
from vggt_ros.model.vggt import PRESETS, abstract_model, functional
from vggt_ros.train.metrics import HEADER, Figures, Predict, do_nothing, held_out, measure

QUERIES = 32


def score(
    model: str, windows: int, lengths: tuple[int, ...], size: tuple[int, int] = (0, 0)
) -> dict[str, list[Figures]]:
    """Figures of the network and of the baseline, for `windows` windows of each length.

    `size` is (height, width) in network pixels; 0: the model's width, and three quarters of that.
    Raises UserError for a network without trained weights or without one of the heads.
    """
    preset = PRESETS.get(model)
    if preset is not None and preset.weights is None:
        raise UserError(f"{model} has random weights: there is nothing to score. Name a checkpoint")
    config, weights, _ = open_weights(model, heads=HEADS, dtype=jnp.float32)
    height, width = size
    width = width or config.aggregator.img_size
    patch = config.aggregator.patch_size
    height = height or max(1, round(0.75 * width / patch)) * patch
    if width % patch or height % patch:
        raise UserError(f"{width}x{height}: both must be multiples of {patch}")
    apply = jax.jit(functional(abstract_model(config, HEADS))[0])

    def predict(batch: Any) -> Any:
        return apply(weights, batch.images, batch.queries)

    return compare(model, predict, windows, lengths, (height, width))


def compare(
    name: str,
    predict: Predict,
    windows: int,
    lengths: tuple[int, ...],
    size: tuple[int, int],
    queries: int = QUERIES,
) -> dict[str, list[Figures]]:
    """Figures of `predict` and of doing nothing, in the same rooms; `size` is (height, width)."""
    sides: dict[str, Predict] = {name: predict, "nothing": do_nothing}
    found: dict[str, list[Figures]] = {side: [] for side in sides}
    for frames in lengths:
        drawn = held_out(frames, *size, windows, queries)
        batches = list(tqdm(drawn, desc=f"drawing windows of {frames}", total=windows, leave=False))
        for side, look in sides.items():
            found[side].append(measure(look, batches))
    return found


def table(found: dict[str, list[Figures]]) -> str:
    """The figures as lines of text, under a heading."""
    long = max(map(len, found))
    rows = [row.row(name.ljust(long)) for name, rows in found.items() for row in rows]
    return "\n".join([HEADER.rjust(len(rows[0])), *rows])
