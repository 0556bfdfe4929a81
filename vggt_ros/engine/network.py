# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the name of a model means: a configuration and weights, drawn at random or read."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from vggt_ros.engine.compiler import HEADS, OPTIONAL_HEADS
from vggt_ros.model.config import Config, in_layout


class Network(NamedTuple):
    """Configuration and weights of the heads that an engine uses."""

    config: Config
    weights: dict
    default_width: int  # network pixels
    random: bool  # weights without training


def open_network(
    model: str,
    dtype: np.dtype,
    seed: int,
    progress: Callable[[str], None],
    *,
    tracks: bool = False,
    layout: str | None = None,
) -> Network:
    """`model` is a preset, a hub id or a path; matrices are in `dtype`.

    Only with `tracks` a track head is needed. `layout` is by default as the weights say.
    Raises `UserError` for a model that is not known, and for weights that do not fit.
    """
    from vggt_ros.model.checkpoint import open_weights
    from vggt_ros.model.random_weights import random_weights
    from vggt_ros.model.vggt import PRESETS

    preset = PRESETS.get(model)
    if preset is not None and preset.weights is None:
        progress(f"{model}: drawing its weights")
        config = in_layout(preset.config, layout)
        weights = random_weights(config, HEADS, dtype, seed)
        return Network(config, weights, preset.default_width, random=True)
    progress(f"{model}: reading weights")
    optional = () if tracks else OPTIONAL_HEADS
    config, weights, report = open_weights(
        model, partial(in_layout, layout=layout), HEADS, dtype, optional=optional
    )
    for note in report.notes:
        progress(f"{model}: {note}")
    if report.foreign:
        progress(
            f"{model}: {len(report.foreign):,} tensors have no place in this network and are left"
            f" out (e.g. {report.foreign[0]}); `vggt weights {model}` lists them"
        )
    return Network(config, weights, config.aggregator.img_size, random=False)
