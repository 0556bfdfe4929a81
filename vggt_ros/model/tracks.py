# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Pixels of one frame, found again in all others: feature maps, correlations, iterated updates."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from vggt_ros.model.correlation import correlate, embed_flow, pyramid, sample, sample_sines
from vggt_ros.model.heads import FLOAT32, Pyramid, in_turn, nchw, resize
from vggt_ros.model.layers import Attention, Mlp, gelu, norm, stack
from vggt_ros.model.scan import climb, note, repeat


class TrackHead(nnx.Module):
    """Queries (x, y) in pixels of one frame to their places in every frame."""

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
        self.cells = patch_size / down_ratio  # of a feature map, a patch
        self.stride, self.iterations = stride, iterations
        self.levels, self.radius, self.max_scale = levels, radius, max_scale
        width = 3 * features + 4
        self.pyramid = Pyramid("track.fe", dim, features, features, channels, position, rngs)
        self.norm = norm(features, rngs=rngs)
        self.reference_token = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), (1, 2, width)))
        samples = levels * (2 * radius + 1) ** 2
        self.correlation = Mlp(samples, hidden, features, rngs=rngs, **FLOAT32)
        self.updater = Updater(width, hidden, features + 2, depth, heads, mlp_ratio, virtual, rngs)
        self.feature_norm = norm(features, rngs=rngs)
        self.feature_update = nnx.Linear(features, features, rngs=rngs)
        self.visibility = nnx.Linear(features, 1, rngs=rngs)
        self.confidence = nnx.Linear(features, 1, rngs=rngs)

    def features(
        self, levels: Sequence[Float[Array, "n t d"]], grid: tuple[int, int], at_once: int = 8
    ) -> Float[Array, "n h w c"]:
        """Feature maps at the picture's size over `down_ratio`; frames are independent."""
        size = (int(grid[0] * self.cells), int(grid[1] * self.cells))
        return in_turn(
            lambda levels: resize(self.pyramid(levels, grid), size), tuple(levels), at_once
        )

    def __call__(
        self,
        maps: Float[Array, "b s h w c"],
        queries: Float[Array, "b n 2"],
        *,
        query_mask: Bool[Array, "b n"] | None = None,
        query_frame: int | Int[Array, ""] = 0,
    ) -> tuple[Float[Array, "i b s n 2"], Float[Array, "b s n"], Float[Array, "b s n"]]:
        """Tracks in pixels (one set an iteration, the last one best), visibility, confidence.

        Queries see each other through virtual tracks: those that are False in `query_mask` are
        padding, which nobody sees.  The reference has `query_frame` = 0; any other is the same as
        bringing that frame to the front.
        """
        note("track.fmaps", maps, frames_nchw)
        maps = self.norm(maps)
        note("track.fmaps_norm", maps, frames_nchw)
        _, s, h, w, _ = maps.shape
        is_query = (jnp.arange(s) == query_frame)[:, None, None]  # s 1 1
        start = queries / self.stride
        found = sample(jnp.take(maps, query_frame, axis=1), start)
        coords = jnp.broadcast_to(start[:, None], (len(maps), s, *start.shape[1:]))
        feats = jnp.broadcast_to(found[:, None], (*coords.shape[:3], found.shape[-1]))
        token = jnp.where(is_query, self.reference_token[0, 0], self.reference_token[0, 1])
        token = token + sample_sines(start, (h, w), token.shape[-1])[:, None]
        layers = pyramid(maps, self.levels)

        def refine(carry: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
            coords, feats = jax.lax.stop_gradient(carry[0]), carry[1]
            correlation = correlate(layers, feats, coords, self.radius)
            note("track.corr.#", correlation, by_track)
            flow = coords - start[:, None]
            embedding = embed_flow(flow, feats.shape[-1])
            scaled = flow / self.max_scale
            x = [embedding, scaled, scaled, self.correlation(correlation), feats]
            x = (jnp.concatenate(x, axis=-1) + token).swapaxes(1, 2)
            note("track.uf_in.#", x)
            update = self.updater(x, query_mask)
            note("track.uf_out.#", update)
            update = update.swapaxes(1, 2)
            feats = feats + gelu(self.feature_update(self.feature_norm(update[..., 2:])))
            coords = jnp.where(is_query, start[:, None], coords + update[..., :2])
            note("track.coords.#", coords * self.stride)
            return (coords, feats), coords

        (_, feats), every = repeat(refine, (coords, feats), self.iterations)
        visibility, confidence = self.visibility(feats), self.confidence(feats)
        return (
            every * self.stride,
            jax.nn.sigmoid(visibility[..., 0]),
            jax.nn.sigmoid(confidence[..., 0]),
        )


class Updater(nnx.Module):
    """Track states to corrections; along time for each track, among tracks through virtual ones."""

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
        self.virtual = nnx.Param(
            nnx.initializers.normal(1.0)(rngs.params(), (1, virtual, 1, hidden))
        )
        self.norm_in = norm(dim, rngs=rngs)
        self.embed = nnx.Linear(dim, hidden, rngs=rngs)
        self.rounds = stack(lambda rngs: Round(hidden, heads, mlp_ratio, rngs), depth, rngs)
        self.norm_out = norm(hidden, rngs=rngs)
        self.predict = nnx.Linear(hidden, out, rngs=rngs)

    def __call__(
        self, states: Float[Array, "b n s d"], mask: Bool[Array, "b n"] | None
    ) -> Float[Array, "b n s e"]:
        b, n, s, _ = states.shape
        x = first = self.embed(self.norm_in(states))
        virtual = jnp.broadcast_to(self.virtual[...], (b, self.virtual.shape[1], s, x.shape[-1]))
        x = jnp.concatenate([x, virtual], axis=1)
        seen = None if mask is None else jnp.repeat(mask, s, axis=0)[:, None, None]
        x = climb(lambda x, layer: layer(x, n, seen), x, self.rounds)
        return self.predict(self.norm_out(x[:, :n] + first))


class Round(nnx.Module):
    """Once along time, then points -> virtual tracks -> each other -> points, frame by frame."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, rngs: nnx.Rngs):
        self.time = TrackBlock(dim, heads, mlp_ratio, cross=False, rngs=rngs)
        self.gather = TrackBlock(dim, heads, mlp_ratio, cross=True, rngs=rngs)
        self.mix = TrackBlock(dim, heads, mlp_ratio, cross=False, rngs=rngs)
        self.scatter = TrackBlock(dim, heads, mlp_ratio, cross=True, rngs=rngs)

    def __call__(self, x: Float[Array, "b m s d"], n: int, seen: Array | None) -> Array:
        """The first `n` tracks are points, the others virtual."""
        b, m, s, d = x.shape
        x = self.time(x.reshape(b * m, s, d)).reshape(b, m, s, d)
        x = x.swapaxes(1, 2).reshape(b * s, m, d)
        points, virtual = x[:, :n], x[:, n:]
        virtual = self.mix(self.gather(virtual, points, seen))
        points = self.scatter(points, virtual)
        return jnp.concatenate([points, virtual], axis=1).reshape(b, s, m, d).swapaxes(1, 2)


class TrackBlock(nnx.Module):
    """A block whose skips carry the *normalised* input, unlike the aggregator's."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, *, cross: bool, rngs: nnx.Rngs):
        self.norm1 = norm(dim, rngs=rngs)
        self.norm_context = norm(dim, rngs=rngs) if cross else None
        self.attn = Attention(dim, heads, rngs=rngs, **FLOAT32)
        self.norm2 = norm(dim, rngs=rngs)
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
    return jax.vmap(nchw)(x)


def by_track(x: Float[Array, "b s n k"]) -> Float[Array, "bn s k"]:
    return x.swapaxes(1, 2).reshape(-1, x.shape[1], x.shape[3])
