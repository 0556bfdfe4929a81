# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tracks of query points: feature maps, correlations, and iterated updates by a transformer."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from vggt_ros.model.correlation import (
    correlate,
    correlation_pyramid,
    embed_flow,
    sample,
    sample_sincos,
)
from vggt_ros.model.heads import FLOAT32, FeaturePyramid, nchw, resize
from vggt_ros.model.intermediates import sow
from vggt_ros.model.layers import (
    Attention,
    Mlp,
    gelu,
    layer_norm,
    linear,
    parameter,
    stacked,
)
from vggt_ros.model.scan import iterate, map_in_chunks, scan_layers


class Tracks(NamedTuple):
    """Query points in every frame."""

    iterations: Float[Array, "i b s n 2"]  # x, y in pixels after each iteration, the last one best
    visibility: Float[Array, "b s n"]  # in [0, 1]
    confidence: Float[Array, "b s n"]  # in [0, 1]


class TrackHead(nnx.Module):
    """Queries (x, y) in pixels of one frame to their positions in every frame."""

    def __init__(
        self,
        dim: int,
        features: int,
        channels: Sequence[int],
        *,
        patch_size: int,
        down_ratio: int,
        stride: int,
        levels: int,
        radius: int,
        iterations: int,
        hidden: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        virtual: int,
        max_scale: float,
        position: float,
        rngs: nnx.Rngs,
    ):
        self.cells_per_patch = patch_size / down_ratio  # of a feature map
        self.stride, self.iterations = stride, iterations
        self.levels, self.radius, self.max_scale = levels, radius, max_scale
        width = 3 * features + 4
        self.feature_extractor = FeaturePyramid(
            "track.fe", dim, features, features, channels, position, rngs
        )
        self.fmap_norm = layer_norm(features, rngs=rngs)
        self.query_ref_token = parameter(nnx.initializers.normal(1.0), (1, 2, width), rngs)
        samples = levels * (2 * radius + 1) ** 2
        self.corr_mlp = Mlp(samples, hidden, features, rngs=rngs, **FLOAT32)
        self.updateformer = UpdateFormer(
            width, hidden, features + 2, depth, heads, mlp_ratio, virtual, rngs
        )
        self.feature_norm = layer_norm(features, rngs=rngs)
        self.feature_updater = linear(features, features, rngs=rngs)
        self.vis_predictor = linear(features, 1, rngs=rngs)
        self.conf_predictor = linear(features, 1, rngs=rngs)

    def features(
        self, levels: Sequence[Float[Array, "n t d"]], grid: tuple[int, int], at_once: int = 8
    ) -> Float[Array, "n h w c"]:
        """Feature maps of the image's size over `down_ratio`, `at_once` frames at a time."""
        size = (int(grid[0] * self.cells_per_patch), int(grid[1] * self.cells_per_patch))
        return map_in_chunks(
            lambda levels: resize(self.feature_extractor(levels, grid), size),
            tuple(levels),
            at_once,
        )

    def __call__(
        self,
        maps: Float[Array, "b s h w c"],
        queries: Float[Array, "b n 2"],
        *,
        query_mask: Bool[Array, "b n"] | None = None,
        query_frame: int | Int[Array, ""] = 0,
    ) -> Tracks:
        """Tracks of `queries`, which are (x, y) pixels of frame `query_frame`.

        Queries attend to each other through virtual tracks; those that are False in `query_mask`
        are padding, to which nothing attends.  The reference has `query_frame` = 0; any other gives
        the same result as moving that frame to the front.
        """
        sow("track.fmaps", maps, frames_nchw)
        maps = self.fmap_norm(maps)
        sow("track.fmaps_norm", maps, frames_nchw)
        _, s, h, w, _ = maps.shape
        is_query = (jnp.arange(s) == query_frame)[:, None, None]  # s 1 1
        start = queries / self.stride
        query_features = sample(jnp.take(maps, query_frame, axis=1), start)
        coords = jnp.broadcast_to(start[:, None], (len(maps), s, *start.shape[1:]))
        feats = jnp.broadcast_to(
            query_features[:, None], (*coords.shape[:3], query_features.shape[-1])
        )
        token = jnp.where(is_query, self.query_ref_token[0, 0], self.query_ref_token[0, 1])
        token = token + sample_sincos(start, (h, w), token.shape[-1])[:, None]
        pyramid = correlation_pyramid(maps, self.levels)

        def refine(carry: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
            coords, feats = jax.lax.stop_gradient(carry[0]), carry[1]
            correlation = correlate(pyramid, feats, coords, self.radius)
            sow("track.corr.#", correlation, by_track)
            flow = coords - start[:, None]
            embedding = embed_flow(flow, feats.shape[-1])
            scaled = flow / self.max_scale
            x = [embedding, scaled, scaled, self.corr_mlp(correlation), feats]
            x = (jnp.concatenate(x, axis=-1) + token).swapaxes(1, 2)
            sow("track.uf_in.#", x)
            update = self.updateformer(x, query_mask)
            sow("track.uf_out.#", update)
            update = update.swapaxes(1, 2)
            feats = feats + gelu(self.feature_updater(self.feature_norm(update[..., 2:])))
            coords = jnp.where(is_query, start[:, None], coords + update[..., :2])
            sow("track.coords.#", coords * self.stride)
            return (coords, feats), coords

        (_, feats), iterations = iterate(refine, (coords, feats), self.iterations)
        visibility, confidence = self.vis_predictor(feats), self.conf_predictor(feats)
        return Tracks(
            iterations * self.stride,
            jax.nn.sigmoid(visibility[..., 0]),
            jax.nn.sigmoid(confidence[..., 0]),
        )


class UpdateFormer(nnx.Module):
    """Track states to corrections: attention along time, and among tracks through virtual ones."""

    def __init__(
        self,
        dim: int,
        hidden: int,
        out: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        virtual: int,
        rngs: nnx.Rngs,
    ):
        self.virtual_tracks = parameter(nnx.initializers.normal(1.0), (1, virtual, 1, hidden), rngs)
        self.input_norm = layer_norm(dim, rngs=rngs)
        self.input_transform = linear(dim, hidden, rngs=rngs)
        self.layers = stacked(lambda rngs: UpdateLayer(hidden, heads, mlp_ratio, rngs), depth, rngs)
        self.output_norm = layer_norm(hidden, rngs=rngs)
        self.flow_head = linear(hidden, out, rngs=rngs)

    def __call__(
        self, states: Float[Array, "b n s d"], mask: Bool[Array, "b n"] | None
    ) -> Float[Array, "b n s e"]:
        b, n, s, _ = states.shape
        x = first = self.input_transform(self.input_norm(states))
        virtual = self.virtual_tracks
        virtual = jnp.broadcast_to(virtual[...], (b, virtual.shape[1], s, x.shape[-1]))
        x = jnp.concatenate([x, virtual], axis=1)
        keys = None if mask is None else jnp.repeat(mask, s, axis=0)[:, None, None]
        x = scan_layers(lambda x, layer: layer(x, n, keys), x, self.layers)
        return self.flow_head(self.output_norm(x[:, :n] + first))


class UpdateLayer(nnx.Module):
    """Attention along time, then in each frame points -> virtual tracks -> each other -> points.

    "virtual2point" is the reference's name of the block whose queries are virtual tracks.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float, rngs: nnx.Rngs):
        def block(cross: bool) -> TrackBlock:
            return TrackBlock(dim, heads, mlp_ratio, cross=cross, rngs=rngs)

        self.time_block = block(cross=False)
        self.space_virtual2point_block = block(cross=True)
        self.space_virtual_block = block(cross=False)
        self.space_point2virtual_block = block(cross=True)

    def __call__(self, x: Float[Array, "b m s d"], n: int, mask: Array | None) -> Array:
        """The first `n` tracks are points, the others virtual; `mask` hides padded points."""
        b, m, s, d = x.shape
        x = self.time_block(x.reshape(b * m, s, d)).reshape(b, m, s, d)
        x = x.swapaxes(1, 2).reshape(b * s, m, d)
        points, virtual = x[:, :n], x[:, n:]
        virtual = self.space_virtual2point_block(virtual, points, mask)
        virtual = self.space_virtual_block(virtual)
        points = self.space_point2virtual_block(points, virtual)
        return jnp.concatenate([points, virtual], axis=1).reshape(b, s, m, d).swapaxes(1, 2)


class TrackBlock(nnx.Module):
    """A block whose skips carry the *normalised* input, unlike the aggregator's."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, *, cross: bool, rngs: nnx.Rngs):
        self.norm1 = layer_norm(dim, rngs=rngs)
        self.norm_context = layer_norm(dim, rngs=rngs) if cross else None
        self.attn = Attention(dim, heads, rngs=rngs, **FLOAT32)
        self.norm2 = layer_norm(dim, rngs=rngs)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dim, rngs=rngs, **FLOAT32)

    def __call__(
        self,
        x: Float[Array, "b t d"],
        context: Float[Array, "b k d"] | None = None,
        mask: Bool[Array, "b 1 1 k"] | None = None,
    ) -> Float[Array, "b t d"]:
        x = self.norm1(x)
        if self.norm_context is not None:
            context = self.norm_context(context)
        x = x + self.attn(x, context, mask=mask)
        return x + self.mlp(self.norm2(x))


def frames_nchw(x: Float[Array, "b s h w c"]) -> Float[Array, "b s c h w"]:
    """The reference's layout, for captured intermediates."""
    return jax.vmap(nchw)(x)


def by_track(x: Float[Array, "b s n k"]) -> Float[Array, "bn s k"]:
    """The reference's layout, for captured intermediates."""
    return x.swapaxes(1, 2).reshape(-1, x.shape[1], x.shape[3])
