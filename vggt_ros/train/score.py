# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt eval MODEL rooms`: metrics of a network on synthetic rooms held out from training."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from vggt_ros.errors import UserError
from vggt_ros.model.checkpoint import open_weights
from vggt_ros.model.vggt import PRESETS, abstract_model, functional
from vggt_ros.train.metrics import HEADER, Metrics, Predict, constant_baseline, held_out, measure

HEADS = ("camera", "depth", "tracks")  # those that are scored
QUERIES = 32


def score(
    model: str, windows: int, lengths: tuple[int, ...], size: tuple[int, int] = (0, 0)
) -> dict[str, list[Metrics]]:
    """Metrics of the network and of the baseline, for `windows` windows of each length.

    `size` is (height, width) in network pixels; 0: the model's width, and three quarters of that.
    Raises UserError for a network without trained weights or without one of the heads.
    """
    preset = PRESETS.get(model)
    if preset is not None and preset.weights is None:
        raise UserError(f"{model} has random weights, which cannot be scored; name a checkpoint")
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
    views: Mapping[int, int] | None = None,
) -> dict[str, list[Metrics]]:
    """Metrics of `predict` and of the baseline, "nothing", on the same rooms.

    `size` is (height, width); `views` says of how many cameras windows of so many frames are.
    """
    predictors: dict[str, Predict] = {name: predict, "nothing": constant_baseline}
    found: dict[str, list[Metrics]] = {key: [] for key in predictors}
    for frames in lengths:
        rendered = held_out(frames, *size, windows, queries, views=(views or {}).get(frames, 1))
        label = f"rendering windows of {frames}"
        batches = list(tqdm(rendered, desc=label, total=windows, leave=False))
        for key, predictor in predictors.items():
            found[key].append(measure(predictor, batches))
    return found


def table(found: dict[str, list[Metrics]]) -> str:
    """The metrics as lines of text, under a heading."""
    width = max(map(len, found))
    rows = [row.row(name.ljust(width)) for name, rows in found.items() for row in rows]
    return "\n".join([HEADER.rjust(len(rows[0])), *rows])
