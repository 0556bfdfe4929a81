# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Two streams of tokens, one for cameras and one for geometry, and a soft mask of what moves.

The camera stream attends less to what the mask takes for moving; the geometry stream keeps it. With
the blocks of an official checkpoint in both streams and a neutral mask it is the official network.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from vggt_ros.model.aggregator import Aggregator
from vggt_ros.model.intermediates import sow
from vggt_ros.model.layers import Block, Mlp, layer_norm, parameter, stacked
from vggt_ros.model.rope import RotaryAngles
from vggt_ros.model.scan import scan_layers


class DualStage(nnx.Module):
    """Consecutive blocks of both streams: `depth` of each of four kinds, stacked."""

    def __init__(self, make: Callable[[nnx.Rngs], Block], depth: int, rngs: nnx.Rngs):
        self.pose_frame_blocks = stacked(make, depth, rngs)
        self.pose_global_blocks = stacked(make, depth, rngs)
        self.geo_frame_blocks = stacked(make, depth, rngs)
        self.geo_global_blocks = stacked(make, depth, rngs)


class SpatialMaskHead(nnx.Module):
    """A logit for each token: positive where it belongs to something that moves."""

    def __init__(self, dim: int, rngs: nnx.Rngs):
        kinds = {"dtype": jnp.float32, "param_dtype": jnp.float32, "rngs": rngs}
        self.norm = layer_norm(dim, rngs=rngs)
        self.mlp = Mlp(dim, dim // 4, 1, **kinds)

    def __call__(self, x: Float[Array, "b s p d"]) -> Float[Array, "b s p"]:
        return self.mlp(self.norm(x))[..., 0]


class DualStream(Aggregator):
    """An aggregator of two streams; see docs/layouts.md for the equations.

    Of its outputs the last, of which the camera head reads camera tokens, is the pose stream's; the
    others, which dense heads read, are the geometry stream's. Streams exchange tokens after each
    round, by sigmoid(`lambda_pose_logit`) and sigmoid(`lambda_geo_logit`).
    """

    def __init__(self, dim: int, *sizes: Any, rngs: nnx.Rngs, **options: Any):
        super().__init__(dim, *sizes, stage=DualStage, rngs=rngs, **options)
        self.spatial_mask_head = SpatialMaskHead(dim, rngs)
        self.lambda_pose_logit = parameter(nnx.initializers.zeros, (), rngs)
        self.lambda_geo_logit = parameter(nnx.initializers.zeros, (), rngs)

    def __call__(
        self, patches: Float[Array, "b s t d"], grid: tuple[int, int], views: int | None = None
    ) -> tuple[Float[Array, "b s p e"], ...]:
        """The outputs at `taps`; `grid` is the patches' (rows, columns), e = 2 d."""
        assert views is None, "streams attend within and among images, not by views"
        x = self.embed(patches)
        b, s, p, dim = x.shape
        sow("agg.tokens_in", x, lambda x: x.reshape(b * s, p, dim))
        rope, start = self.rope(grid), 0
        streams, taps, records = (x, x), {}, (x, x, x, x)
        for stage in self.stages:
            depth = len(jax.tree.leaves(stage.geo_frame_blocks)[0])

            def alternate(carry, layers):
                return self._round(carry[0], layers, rope)

            layers = {
                "pose_frame": stage.pose_frame_blocks,
                "pose_global": stage.pose_global_blocks,
                "geo_frame": stage.geo_frame_blocks,
                "geo_global": stage.geo_global_blocks,
            }
            streams, records = scan_layers(alternate, (streams, records), layers)
            start += depth
            taps[start - 1] = records
        dense = [jnp.concatenate(taps[tap][2:], axis=-1) for tap in self.taps[:-1]]
        return (*dense, jnp.concatenate(taps[self.taps[-1]][:2], axis=-1))

    def _round(
        self,
        streams: tuple[Float[Array, "b s p d"], Float[Array, "b s p d"]],
        layers: dict[str, Block],
        rope: RotaryAngles | None,
    ) -> tuple[tuple[Array, Array], tuple[Array, Array, Array, Array]]:
        """Both streams after a round, and the records of both: pose, then geometry."""
        pose, geo = streams
        b, s, p, dim = pose.shape
        pose_frame = self.block("frame", layers["pose_frame"], pose, rope, stream="pose_")
        geo_frame = self.block("frame", layers["geo_frame"], geo, rope, stream="geo_")
        bias = self.log_weights(geo_frame)
        sow("agg.mask.#", bias)
        pose = layers["pose_global"](
            pose_frame.reshape(b, s * p, dim), rope, key_bias=bias.reshape(b, s * p)
        ).reshape(b, s, p, dim)
        sow("agg.pose_global.#", pose)
        geo = self.block("global", layers["geo_global"], geo_frame, rope, stream="geo_")
        to_pose = jax.nn.sigmoid(self.lambda_pose_logit[...])
        to_geo = jax.nn.sigmoid(self.lambda_geo_logit[...])
        pose, geo = pose + to_pose * (geo - pose), geo + to_geo * (pose - geo)
        return (pose, geo), (pose_frame, pose, geo_frame, geo)

    def log_weights(self, geo: Float[Array, "b s p d"]) -> Float[Array, "b s p"]:
        """Logarithm of the weight of each token in the pose stream: that of 2 (1 - mask).

        The mask is sigmoid(z) of the head's logit z, so an undecided token (z = 0) keeps weight 1,
        as special tokens do in any case.
        """
        z = self.spatial_mask_head(geo[:, :, self.num_special_tokens :])
        weights = jax.nn.softplus(jnp.zeros_like(z)) - jax.nn.softplus(z)
        return jnp.pad(weights, ((0, 0), (0, 0), (self.num_special_tokens, 0)))
