# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a layout adds to the official network, and how it starts from an official checkpoint.

Blocks of streams start as copies of the official ones; what remains starts without an effect, or,
where it has one in any case (memory tokens), at random.
"""

import re

import numpy as np

from vggt_ros.model.official_names import Path, path_name

NEW = r"lambda_(pose|geo)_logit|spatial_mask_head|memory_tokens"


def source_of(name: str) -> str | None:
    """The weight that this one starts as a copy of; None: it is no copy.

    Names are official ones, or paths of our own file.
    """
    source = re.sub(r"\b(?:pose|geo)_(frame|global)_blocks", r"\1_blocks", name)
    return None if source == name else source


def layout_of_part(name: str) -> str:
    """The layout that has this part besides, or in place of, the official ones; empty: none."""
    if re.search("memory_tokens", name):
        return "layout sparse_global, strategy memory_bank"
    if is_new(name) or source_of(name) is not None:
        return "layout dual_stream"
    return ""


def is_new(name: str) -> bool:
    """Whether an official checkpoint has nothing like it."""
    return re.search(NEW, name) is not None


def initial(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The first value of a new part: a mask that weights nothing, streams that exchange halves."""
    match path[1:]:
        case ("memory_tokens",):
            return np.random.default_rng(0).normal(0, 0.02, shape).astype(np.float32)
        case ("spatial_mask_head", "mlp", "fc1", "kernel"):  # the second layer is zero
            drawn = np.random.default_rng(0).normal(0, shape[0] ** -0.5, shape)
            return drawn.astype(np.float32)
        case ("spatial_mask_head", "norm", "scale"):
            return np.ones(shape, np.float32)
        case ("spatial_mask_head", *_) | ("lambda_pose_logit" | "lambda_geo_logit",):
            return np.zeros(shape, np.float32)
    raise ValueError(f"{path_name(path)} is no new part")
