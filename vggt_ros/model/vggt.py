# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The assembly, and the file to read first: pictures in; cameras, depth, points and tracks out."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from vggt_ros.model.aggregator import Encoder, Tower
from vggt_ros.model.config import SMALL, TINY, VGGT_1B, Config
from vggt_ros.model.heads import CameraHead, DenseHead, inverse_log
from vggt_ros.model.layers import OneKey
from vggt_ros.model.scan import named, recording
from vggt_ros.model.tracks import TrackHead

HEADS = ("camera", "depth", "points", "tracks")


class Preset(NamedTuple):
    """A network known by name; `weights`: the file that comes with this package, if one does."""

    config: Config
    default_width: int  # network pixels
    weights: Path | None = None


SHIPPED = Path(__file__).parent.parent / "assets" / "small.safetensors"
PRESETS = {
    "vggt-1b": Preset(VGGT_1B, 518),
    "tiny": Preset(TINY, 224),
    "small": Preset(SMALL, 224, SHIPPED),
}


class Prediction(NamedTuple):
    """What the heads say; None where a head is off.  Lengths share one arbitrary unit a scene."""

    pose_encoding: Float[Array, "b s 9"] | None = None
    pose_encodings: Float[Array, "i b s 9"] | None = None  # of each iteration
    depth: Float[Array, "b s h w"] | None = None  # along the optical axis
    depth_confidence: Float[Array, "b s h w"] | None = None  # from 1, "no evidence", upwards
    points: Float[Array, "b s h w 3"] | None = None  # in the first camera's frame
    points_confidence: Float[Array, "b s h w"] | None = None
    tracks: Float[Array, "b s n 2"] | None = None  # x, y in pixels
    track_iterations: Float[Array, "i b s n 2"] | None = None  # of each iteration
    visibility: Float[Array, "b s n"] | None = None  # in [0, 1]
    track_confidence: Float[Array, "b s n"] | None = None  # in [0, 1]


class VGGT(nnx.Module):
    """Encoder (each frame alone), tower (frames together), and the heads asked for.

    `dtype` is the arithmetic of encoder and tower, `param_dtype` the storage of their matrices;
    heads, norms and tokens are float32, as in the reference under autocast.
    """

    def __init__(
        self,
        config: Config,
        *,
        heads: Sequence[str] = HEADS,
        param_dtype=jnp.float32,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        if unknown := set(heads) - set(HEADS):
            raise ValueError(f"no head is called {min(unknown)!r}; there are {', '.join(HEADS)}")
        dino, tower = config.dino, config.aggregator
        dim, patch = tower.embed_dim, tower.patch_size
        self.config = config
        self.encoder = Encoder(
            dim,
            dino.depth,
            dino.num_heads,
            dino.mlp_ratio,
            patch_size=patch,
            grid=tower.img_size // patch,
            registers=dino.num_register_tokens,
            eps=dino.norm_eps,
            scale=1.0 if dino.layer_scale else None,
            antialias=dino.interpolate_antialias,
            offset=dino.interpolate_offset,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.tower = Tower(
            dim,
            tower.depth,
            tower.num_heads,
            tower.mlp_ratio,
            taps=(*config.dpt.intermediate_layer_idx, tower.depth - 1),
            registers=tower.num_register_tokens,
            rope_base=tower.rope_freq,
            qk_norm=tower.qk_norm,
            eps=tower.norm_eps,
            order=tower.aa_order,
            group=tower.aa_block_size,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

        self.camera = self._camera(rngs) if "camera" in heads else None
        self.depth = self._dense("depth", 1, jnp.exp, rngs) if "depth" in heads else None
        self.points = self._dense("point", 3, inverse_log, rngs) if "points" in heads else None
        self.tracks = self._tracks(rngs) if "tracks" in heads else None

    def _camera(self, rngs: nnx.Rngs) -> CameraHead:
        camera = self.config.camera_head
        return CameraHead(
            2 * self.config.aggregator.embed_dim,
            camera.trunk_depth,
            camera.num_heads,
            camera.mlp_ratio,
            camera.num_iterations,
            rngs=rngs,
        )

    def _dense(self, name: str, outputs: int, activation, rngs: nnx.Rngs) -> DenseHead:
        dense = self.config.dpt
        return DenseHead(
            name,
            2 * self.config.aggregator.embed_dim,
            dense.features,
            dense.out_channels,
            outputs,
            activation,
            hidden=dense.head_hidden,
            position=dense.pos_embed_ratio,
            patch_size=self.config.aggregator.patch_size,
            rngs=rngs,
        )

    def _tracks(self, rngs: nnx.Rngs) -> TrackHead:
        dense, track = self.config.dpt, self.config.track_head
        return TrackHead(
            2 * self.config.aggregator.embed_dim,
            track.features,
            dense.out_channels,
            patch_size=self.config.aggregator.patch_size,
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
            position=dense.pos_embed_ratio if track.pos_embed else 0.0,
            rngs=rngs,
        )

    def __call__(
        self,
        images: Float[Array, "b s h w 3"],
        queries: Float[Array, "b n 2"] | None = None,
        *,
        query_mask: Bool[Array, "b n"] | None = None,
        query_frame: int | Int[Array, ""] = 0,
    ) -> Prediction:
        """RGB in [0, 1], height and width multiples of the patch size; frame 0 is the world.

        `queries` are (x, y) pixels of frame `query_frame`; see `TrackHead` for `query_mask`.
        """
        grid = self.grid(*images.shape[2:4])
        taps = self.tower(self.encode(images), grid)
        levels = [self.patches(tap) for tap in taps[:4]]
        b, s = images.shape[:2]

        def framewise(x: Array) -> Array:
            return x.reshape(b, s, *x.shape[1:])

        out = Prediction()
        if self.camera is not None:
            encodings = self.camera(taps[-1][:, :, 0])
            out = out._replace(pose_encoding=encodings[-1], pose_encodings=encodings)
        if self.depth is not None:
            depth, confidence = map(framewise, self.depth(levels, grid))
            out = out._replace(depth=depth[..., 0], depth_confidence=confidence)
        if self.points is not None:
            points, confidence = map(framewise, self.points(levels, grid))
            out = out._replace(points=points, points_confidence=confidence)
        if self.tracks is not None and queries is not None:
            maps = framewise(self.tracks.features(levels, grid))
            tracks, visibility, confidence = self.tracks(
                maps, queries, query_mask=query_mask, query_frame=query_frame
            )
            out = out._replace(
                tracks=tracks[-1], track_iterations=tracks,
                visibility=visibility, track_confidence=confidence,
            )  # fmt: skip
        return out

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches in a picture of that size."""
        size = self.config.aggregator.patch_size
        if height % size or width % size:
            raise ValueError(f"{width}x{height} pictures: both must be multiples of {size}")
        return height // size, width // size

    def encode(self, images: Float[Array, "b s h w 3"]) -> Float[Array, "b s t d"]:
        """Patch tokens of each frame, which depend on that frame alone: they can be kept."""
        b, s = images.shape[:2]
        tokens = self.encoder(images.reshape(b * s, *images.shape[2:]))
        return tokens.reshape(b, s, *tokens.shape[1:])

    def patches(self, tap: Float[Array, "b s p d"]) -> Float[Array, "n t d"]:
        """A tap as dense heads want it: frames in one row, without camera and register tokens."""
        return tap[:, :, self.tower.special :].reshape(
            -1, tap.shape[2] - self.tower.special, tap.shape[3]
        )


Weights = dict[Any, Any]  # nested, by attribute or number


def abstract_model(
    config: Config, heads: Sequence[str] = HEADS, dtype=jnp.float32, param_dtype=jnp.float32
) -> VGGT:
    """A model of shapes without numbers: for `functional`, `nnx.split` and tables."""
    return nnx.eval_shape(
        lambda: VGGT(config, heads=heads, dtype=dtype, param_dtype=param_dtype, rngs=OneKey())
    )


def functional(model: VGGT) -> tuple[Callable[..., Prediction], Weights]:
    """The model as a plain function of its weights, for `jax.jit`: `apply(weights, images, ...)`.

    Weights are a nested dict of stacked arrays, some 200 in all: a call costs microseconds to
    dispatch, where `nnx.jit` would walk the module each time.
    """
    graph, state = nnx.split(model)

    def apply(weights: Weights, *args, **kwargs) -> Prediction:
        return nnx.merge(graph, weights)(*args, **kwargs)

    return apply, nnx.to_pure_dict(state)


# For one pass with every stage an output: compiled in a third of the time, and run once.
PLAINLY = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


def record(
    config: Config,
    weights: Weights,
    images: Float[Array, "b s h w 3"],
    queries: Float[Array, "b n 2"] | None = None,
) -> dict[str, Array]:
    """One float32 forward pass with every stage under the reference's name and in its layout.

    Heads are those that `weights` hold.
    """
    return _recorder(config, tuple(head for head in HEADS if head in weights))(
        weights, images, queries
    )


@cache
def _recorder(config: Config, heads: tuple[str, ...]) -> Callable[..., dict[str, Array]]:
    apply = functional(abstract_model(config, heads))[0]

    @partial(jax.jit, compiler_options=PLAINLY)
    def run(weights, images, queries):
        with recording() as tape:
            out = apply(weights, images, queries)
        outputs = {
            "out.pose_enc": out.pose_encoding,
            "out.depth": None if out.depth is None else out.depth[..., None],
            "out.depth_conf": out.depth_confidence,
            "out.world_points": out.points,
            "out.world_points_conf": out.points_confidence,
            "out.track": out.tracks,
            "out.vis": out.visibility,
            "out.conf": out.track_confidence,
        }
        return named(tape) | {name: x for name, x in outputs.items() if x is not None}

    return run
