# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The parts of a network from its configuration: layers take numbers, and here they are named."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from vggt_ros.model.aggregator import Aggregator
from vggt_ros.model.config import Config
from vggt_ros.model.dual_stream import DualStream
from vggt_ros.model.encoder import Encoder
from vggt_ros.model.heads import CameraHead, DPTHead, inverse_log
from vggt_ros.model.sparse_global import SparseGlobal
from vggt_ros.model.tracks import TrackHead


def new_encoder(config: Config, **kinds: Any) -> Encoder:
    """The encoder of one image; `kinds`: dtype, param_dtype, rngs."""
    dino, aggregator = config.dino, config.aggregator
    return Encoder(
        aggregator.embed_dim,
        dino.depth,
        dino.num_heads,
        dino.mlp_ratio,
        patch_size=aggregator.patch_size,
        grid=aggregator.img_size // aggregator.patch_size,
        registers=dino.num_register_tokens,
        eps=dino.norm_eps,
        scale=1.0 if dino.layer_scale else None,
        antialias=dino.interpolate_antialias,
        offset=dino.interpolate_offset,
        **kinds,
    )


def new_aggregator(config: Config, **kinds: Any) -> Aggregator:
    """The aggregator of the configuration's layout; `kinds`: dtype, param_dtype, rngs."""
    aggregator = config.aggregator
    sizes = aggregator.embed_dim, aggregator.depth, aggregator.num_heads, aggregator.mlp_ratio
    options = {
        "taps": (*config.dpt.intermediate_layer_idx, aggregator.depth - 1),
        "registers": aggregator.num_register_tokens,
        "rope_base": aggregator.rope_freq,
        "qk_norm": aggregator.qk_norm,
        "eps": aggregator.norm_eps,
        "order": aggregator.aa_order,
        "group": aggregator.aa_block_size,
        "view_order": config.order,
        **kinds,
    }
    if config.layout == "dual_stream":
        return DualStream(*sizes, **options)
    if config.layout == "sparse_global":
        memory = config.memory_tokens if config.strategy == "memory_bank" else 0
        landmarks = config.landmarks if config.strategy == "landmark" else 0
        return SparseGlobal(*sizes, landmarks=landmarks, memory=memory, **options)
    return Aggregator(*sizes, **options)


def new_camera_head(config: Config, rngs: nnx.Rngs) -> CameraHead:
    """The camera head."""
    camera = config.camera_head
    return CameraHead(
        2 * config.aggregator.embed_dim,
        camera.trunk_depth,
        camera.num_heads,
        camera.mlp_ratio,
        camera.num_iterations,
        rngs=rngs,
    )


def new_dpt_head(config: Config, name: str, rngs: nnx.Rngs) -> DPTHead:
    """The dense head "depth" (along the optical axis) or "point" (in the first camera's frame)."""
    dpt = config.dpt
    outputs, activation = {"depth": (1, jnp.exp), "point": (3, inverse_log)}[name]
    return DPTHead(
        name,
        2 * config.aggregator.embed_dim,
        dpt.features,
        dpt.out_channels,
        outputs,
        activation,
        hidden=dpt.head_hidden,
        position=dpt.pos_embed_ratio,
        patch_size=config.aggregator.patch_size,
        rngs=rngs,
    )


def new_track_head(config: Config, rngs: nnx.Rngs) -> TrackHead:
    """The track head."""
    dpt, track = config.dpt, config.track_head
    return TrackHead(
        2 * config.aggregator.embed_dim,
        track.features,
        dpt.out_channels,
        patch_size=config.aggregator.patch_size,
        down_ratio=track.down_ratio,
        stride=track.stride,
        levels=track.corr_levels,
        radius=track.corr_radius,
        iterations=track.iters,
        hidden=track.hidden_size,
        depth=track.depth,
        heads=track.num_heads,
        mlp_ratio=track.mlp_ratio,
        virtual=track.num_virtual_tracks,
        max_scale=track.max_scale,
        position=dpt.pos_embed_ratio if track.pos_embed else 0.0,
        rngs=rngs,
    )
