# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Cost model: floating-point operations of a step or a full pass, by stage and configuration.

A multiplication with its addition counts as two.  Matrix products and convolutions are counted;
norms, softmax and resizing add a few percent of time and few operations.
"""

from collections.abc import Sequence
from typing import NamedTuple

from vggt_ros.model.config import Config


class Work(NamedTuple):
    """Operations with weights, and operations of attention: a processor has a rate for each."""

    gemm: int = 0
    attention: int = 0

    @property
    def total(self) -> int:
        return self.gemm + self.attention

    def __mul__(self, times: int) -> "Work":
        return Work(times * self.gemm, times * self.attention)


class Cost(NamedTuple):
    """Work by stage; zero for stages that do not run."""

    encoder: Work = Work()
    frame_blocks: Work = Work()  # attention within frames
    global_blocks: Work = Work()  # attention among all tokens of the window
    camera: Work = Work()
    depth: Work = Work()
    points: Work = Work()
    tracks: Work = Work()

    @property
    def total(self) -> Work:
        return plus(*self)


def full_pass(
    config: Config,
    frames: int,
    size: tuple[int, int],
    heads: Sequence[str] = ("camera", "depth", "points"),
    queries: int = 0,
    views: int = 1,
) -> Cost:
    """All stages for all frames of a window; `size` is (height, width) in pixels.

    In layout view_time the frames are those of so many `views`.
    """
    by_frame, among = round_of(config, frames, tokens_of(config, size), views)
    return Cost(
        encoder(config, size) * frames,
        by_frame * config.aggregator.depth,
        among * config.aggregator.depth,
        camera(config, frames) if "camera" in heads else Work(),
        dense(config, size, 1) * frames if "depth" in heads else Work(),
        dense(config, size, 3) * frames if "points" in heads else Work(),
        tracks(config, size, frames, queries) if "tracks" in heads and queries else Work(),
    )


def step(
    config: Config,
    frames: int,
    size: tuple[int, int],
    *,
    new: int = 1,
    depth_frames: int = 1,
    queries: int = 0,
) -> Cost:
    """A window with `new` frames that are not in the cache (`model/stream.py` describes it).

    Tracks of `queries` points need all tokens of every frame after the last block.
    """
    aggregator, tokens = config.aggregator, tokens_of(config, size)
    dim, ratio = aggregator.embed_dim, aggregator.mlp_ratio
    whole = frames if queries else depth_frames
    passes = (aggregator.depth - 1) * frames + new + 1  # the first frame runs again in its role
    per_frame = block(dim, ratio, tokens)
    per_window = block(dim, ratio, frames * tokens)
    last = block(dim, ratio, frames - whole + whole * tokens, frames * tokens)
    return Cost(
        encoder(config, size) * new,
        per_frame * passes,
        plus(per_window * (aggregator.depth - 1), last),
        camera(config, frames),
        dense(config, size, 1) * depth_frames,
        tracks=tracks(config, size, frames, queries) if queries else Work(),
    )


def round_of(config: Config, frames: int, tokens: int, views: int = 1) -> tuple[Work, Work]:
    """The two attentions of a round in the configuration's layout: frame and global weights."""
    dim, ratio = config.aggregator.embed_dim, config.aggregator.mlp_ratio
    joint = block(dim, ratio, tokens) * frames, block(dim, ratio, frames * tokens)
    if config.layout == "view_time":
        instants = frames // views
        time = block(dim, ratio, instants * tokens) * views
        return time, block(dim, ratio, views * tokens) * instants
    if config.layout == "dual_stream":
        special = 1 + config.aggregator.num_register_tokens
        hidden = dim // 4
        mask = Work(2 * frames * (tokens - special) * (dim * hidden + hidden))
        return plus(joint[0] * 2, mask), joint[1] * 2
    if config.layout == "sparse_global":
        return joint[0], sparse(config, frames, tokens)
    return joint


def sparse(config: Config, frames: int, tokens: int) -> Work:
    """A sparse global block: all tokens are projected, and attend to some."""
    dim, ratio = config.aggregator.embed_dim, config.aggregator.mlp_ratio
    special = 1 + config.aggregator.num_register_tokens
    is_memory = config.strategy == "memory_bank"
    memory = config.memory_tokens if is_memory else 0
    landmarks = 0 if is_memory else min(config.landmarks, tokens - special)
    seen = tokens + (frames - 1) * (special + landmarks) + memory
    all_tokens = frames * tokens + memory
    attention = 4 * dim * (frames * tokens * seen + memory * all_tokens)
    return Work(block(dim, ratio, all_tokens).gemm, attention)


def plus(*parts: Work) -> Work:
    """Sum of the parts."""
    return Work(sum(part.gemm for part in parts), sum(part.attention for part in parts))


def block(dim: int, mlp_ratio: float, queries: int, keys: int | None = None) -> Work:
    """A transformer block; `keys` counts all tokens that the queries attend to."""
    keys = queries if keys is None else keys
    project = 2 * dim**2 * (2 * queries + 2 * keys)  # q and output; k and v
    mlp = 4 * dim * int(dim * mlp_ratio) * queries
    return Work(project + mlp, 4 * queries * keys * dim)


def tokens_of(config: Config, size: tuple[int, int]) -> int:
    """Tokens of a frame in the aggregator."""
    rows, columns = grid_of(config, size)
    return 1 + config.aggregator.num_register_tokens + rows * columns


def grid_of(config: Config, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches."""
    patch = config.aggregator.patch_size
    return size[0] // patch, size[1] // patch


def encoder(config: Config, size: tuple[int, int]) -> Work:
    """The image encoder, one frame."""
    dino, aggregator = config.dino, config.aggregator
    rows, columns = grid_of(config, size)
    patch = 2 * rows * columns * 3 * aggregator.patch_size**2 * aggregator.embed_dim
    tokens = 1 + dino.num_register_tokens + rows * columns
    return plus(Work(patch), block(aggregator.embed_dim, dino.mlp_ratio, tokens) * dino.depth)


def camera(config: Config, frames: int) -> Work:
    """The camera head, all iterations."""
    head, dim = config.camera_head, 2 * config.aggregator.embed_dim
    trunk = block(dim, head.mlp_ratio, frames) * head.trunk_depth
    around = 9 * dim + 3 * dim**2 + dim * (dim // 2) + (dim // 2) * 9
    return plus(Work(2 * frames * around), trunk) * head.num_iterations


def dense(config: Config, size: tuple[int, int], outputs: int) -> Work:
    """The head of depth (one output) or points (three) and their confidence, one frame."""
    head, half = config.dpt, config.dpt.features // 2
    rows, columns = grid_of(config, size)
    pixels = rows * columns * config.aggregator.patch_size**2
    refine = 2 * pixels * (9 * half * head.head_hidden + head.head_hidden * (outputs + 1))
    return Work(pyramid(config, size, head.features, half) + refine)


def pyramid(config: Config, size: tuple[int, int], features: int, out: int) -> int:
    """Fusion of four levels of tokens into a map of `out` channels, one frame."""
    channels, dim = config.dpt.out_channels, 2 * config.aggregator.embed_dim
    rows, columns = grid_of(config, size)
    cells = rows * columns
    halved = -(-rows // 2) * -(-columns // 2)
    levels = (16 * cells, 4 * cells, cells, halved)
    macs = sum(cells * dim * channel for channel in channels)
    macs += 16 * cells * channels[0] ** 2 + 4 * cells * channels[1] ** 2
    macs += 9 * halved * channels[3] ** 2
    macs += sum(9 * n * c * features for n, c in zip(levels, channels, strict=True))
    for level, convolutions in zip(levels, (4, 4, 4, 2), strict=True):
        macs += level * features**2 * (9 * convolutions + 1)
    return 2 * (macs + 9 * 64 * cells * features * out)


def tracks(config: Config, size: tuple[int, int], frames: int, queries: int) -> Work:
    """The track head: feature maps of every frame, then all iterations."""
    head = config.track_head
    c, hidden, virtual = head.features, head.hidden_size, head.num_virtual_tracks
    samples = head.corr_levels * (2 * head.corr_radius + 1) ** 2
    states = frames * queries
    lookup = 2 * states * head.corr_levels * (2 * head.corr_radius + 2) ** 2 * c
    linear = samples * hidden + hidden * c + (3 * c + 4) * hidden + hidden * (c + 2) + c**2
    along_time = block(hidden, head.mlp_ratio, frames) * (queries + virtual)
    among = [(virtual, queries), (virtual, virtual), (queries, virtual)]
    rounds = [along_time, *(block(hidden, head.mlp_ratio, q, k) * frames for q, k in among)]
    iteration = plus(Work(2 * states * linear, lookup), plus(*rounds) * head.depth)
    maps = pyramid(config, size, c, c) * frames
    return plus(Work(maps + 4 * states * c), iteration * head.iters)
