# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What one inference over many frames needs on the device, before anything is compiled.

Of N frames of h x w pixels and P tokens (one a patch of 14 x 14, and 5 special ones), with tokens
of d numbers, in the arithmetic of a bytes a number:

- weights: as they are stored;
- cache of encoded frames: (2 P - 5) d float32 numbers a frame (`config.cache_shapes`), and one more
  frame;
- tokens: 14 P d numbers of a bytes a frame.  The four levels that the dense heads read have 2 d
  each, and a block that runs meanwhile holds its input, the normed input, q, k, v and the output;
- beside them the larger of the logits of one head for the queries at hand (not with cuDNN's flash
  kernel, which never stores them), and of the dense head, which takes `CHUNK` frames at a time: for
  each of their pixels half of the head's features, its 32 hidden numbers, and 8 of logits and
  outputs, float32;
- results: depth and confidence, 8 bytes a pixel.

Compared with what XLA plans on a CPU (temporary buffers of `tiny` and `small`, 16 and 48 frames of
56x56 and of 154x112) tokens and scratch are 0.96 to 1.19 of it; with the memory of VGGT-1B in
bfloat16 on an H200, windows of 4 to 16 frames of 518x392, the total is 1.15 to 1.29 of it.
"""

from typing import NamedTuple

import jax
import numpy as np

from vggt_ros.engine.device import Device
from vggt_ros.model.attention import LOGITS_AT_ONCE, LOGITS_ELSEWHERE, QUERIES_AT_ONCE
from vggt_ros.model.config import Config, cache_shapes

CHUNK = 8  # frames in one call of a dense head
TOKEN_COPIES = 14
PIXEL_NUMBERS = 8  # logits and outputs of a pixel, while the head computes it


class Need(NamedTuple):
    """Bytes on the device."""

    weights: int
    cache: int
    tokens: int
    scratch: int
    results: int

    @property
    def total(self) -> int:
        return sum(self)


def needed(
    config: Config,
    weights: object,
    dtype: np.dtype,
    size: tuple[int, int],
    frames: int,
    device: Device,
) -> Need:
    """For one pass with depth of all frames; `size` is (height, width) in network pixels.

    `weights` is a tree of arrays.
    """
    height, width = size
    on_cpu = device.platform == "cpu"
    aggregator, octets = config.aggregator, np.dtype(dtype).itemsize
    tokens = height * width // aggregator.patch_size**2 + 1 + aggregator.num_register_tokens
    cache = sum(4 * int(np.prod(shape)) for shape in cache_shapes(config, frames + 1, size))
    per_pixel = config.dpt.features // 2 + config.dpt.head_hidden + PIXEL_NUMBERS
    head = 4 * min(frames, CHUNK) * height * width * per_pixel
    logits = 0
    if on_cpu or octets == 4:  # elsewhere the flash kernel runs
        keys = frames * tokens
        rows = -(-keys // -(-keys // QUERIES_AT_ONCE))
        most = LOGITS_AT_ONCE["cpu"] if on_cpu else LOGITS_ELSEWHERE
        logits = 4 * max(rows * keys, min(most, aggregator.num_heads * rows * keys))
    return Need(
        weights=sum(leaf.nbytes for leaf in jax.tree.leaves(weights)),
        cache=cache,
        tokens=octets * TOKEN_COPIES * frames * tokens * aggregator.embed_dim,
        scratch=max(head, logits),
        results=8 * frames * height * width,
    )
