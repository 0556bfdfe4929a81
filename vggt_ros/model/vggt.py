# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The whole network, the file to read first: images in; cameras, depth, points and tracks out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from vggt_ros.model.assembly import (
    new_aggregator,
    new_camera_head,
    new_dpt_head,
    new_encoder,
    new_track_head,
)
from vggt_ros.model.config import SMALL, TINY, VGGT_1B, Config
from vggt_ros.model.layers import ShapesOnly

if TYPE_CHECKING:
    from vggt_ros.model.pretrained import PretrainedVGGT

HEAD_MODULES = {  # name of a head in arguments, recipes and files: its attribute of `VGGT`
    "camera": "camera_head",
    "depth": "depth_head",
    "points": "point_head",
    "tracks": "track_head",
}
HEADS = tuple(HEAD_MODULES)


class Preset(NamedTuple):
    """A network with a name; `weights` is the file bundled with this package, if there is one."""

    config: Config
    default_width: int  # network pixels
    weights: Path | None = None


SHIPPED = Path(__file__).parent.parent / "assets" / "small.safetensors"
PRESETS = {
    "vggt-1b": Preset(VGGT_1B, 518),
    "tiny": Preset(TINY, 224),
    "small": Preset(SMALL, 224, SHIPPED),
}
PRESETS |= {"vggt_base": PRESETS["vggt-1b"], "vggt_tiny": PRESETS["tiny"]}  # names of other ports


class Prediction(NamedTuple):
    """Outputs of the heads; None where a head is off.  Lengths share one arbitrary unit a scene.

    Of images with a view axis, two axes (instants, views) stand in place of s.
    """

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
    """Encoder (within a frame), aggregator (across frames), and the requested heads.

    `dtype` is the arithmetic of encoder and aggregator, `param_dtype` the storage of their
    matrices; heads, norms and tokens are float32, as in the reference under autocast.
    Raises ValueError for a head that does not exist.
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
        self.config = config
        kinds = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.encoder = new_encoder(config, **kinds)
        self.aggregator = new_aggregator(config, **kinds)
        self.camera_head = new_camera_head(config, rngs) if "camera" in heads else None
        self.depth_head = new_dpt_head(config, "depth", rngs) if "depth" in heads else None
        self.point_head = new_dpt_head(config, "point", rngs) if "points" in heads else None
        self.track_head = new_track_head(config, rngs) if "tracks" in heads else None

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str | Path,
        *,
        cache_dir: str | Path | None = None,
        heads: Sequence[str] | None = None,
        dtype: Any = jnp.float32,
        layout: str | None = None,
        order: Sequence[str] | None = None,
        strategy: str | None = None,
    ) -> "PretrainedVGGT":
        """A model with weights, for calls from Python: `model(images)`, compiled, with known names.

        `repo_id` is a Hugging Face id (owner/name, or owner/name@revision), a file, a folder or a
        preset; those without weights get random ones, and a warning. A download is kept in
        `cache_dir`, by default the hub's own. `heads` are by default all that the weights hold;
        `dtype` is that of encoder and aggregator. `layout`, with its `order` or `strategy`, is how
        images of several cameras attend to each other (docs/layouts.md), by default as the weights
        say; parts that they lack start as copies, or without an effect.
        Raises `UserError` for weights that are not there or do not fit.
        """
        from vggt_ros.model.pretrained import open_pretrained

        return open_pretrained(
            repo_id, cache_dir=cache_dir, heads=heads, dtype=dtype,
            layout=layout, order=order, strategy=strategy,
        )  # fmt: skip

    def __call__(
        self,
        images: Float[Array, "b s h w 3"] | Float[Array, "b t v h w 3"],
        queries: Float[Array, "b n 2"] | None = None,
        *,
        query_mask: Bool[Array, "b n"] | None = None,
        query_frame: int | Int[Array, ""] = 0,
    ) -> Prediction:
        """Outputs of all heads for scenes of s frames; frame 0 is the frame of reference.

        Images are RGB in [0, 1], height and width multiples of the patch size.  `queries` are
        (x, y) pixels of frame `query_frame`; see `TrackHead` for `query_mask`.

        Images of t instants and v views (cameras) are s = t * v frames, instant by instant, and the
        network is the configuration's `layout` of them; outputs have axes t and v in place of s.
        Images without a view axis are frames of one sequence: the official network in any layout.
        """
        if images.ndim == 5:
            return self.frames(images, queries, query_mask, query_frame)
        b, t, v = images.shape[:3]
        views = v if self.config.layout == "view_time" else None
        flat = images.reshape(b, t * v, *images.shape[3:])
        out = self.frames(flat, queries, query_mask, query_frame, views)

        def by_view(name: str, x: Array | None) -> Array | None:
            if x is None:
                return None
            axis = 2 if name in ("pose_encodings", "track_iterations") else 1  # of the frames
            return x.reshape(*x.shape[:axis], t, v, *x.shape[axis + 1 :])

        return Prediction(*(by_view(name, x) for name, x in out._asdict().items()))

    def frames(
        self,
        images: Float[Array, "b s h w 3"],
        queries: Float[Array, "b n 2"] | None,
        query_mask: Bool[Array, "b n"] | None,
        query_frame: int | Int[Array, ""],
        views: int | None = None,
    ) -> Prediction:
        """Outputs for frames on one axis; with `views`, attended by views and instants."""
        grid = self.grid(*images.shape[2:4])
        taps = self.aggregator(self.encode(images), grid, views)
        levels = [self.patches(tap) for tap in taps[:4]]
        b, s = images.shape[:2]

        def by_frame(x: Array) -> Array:
            return x.reshape(b, s, *x.shape[1:])

        out = Prediction()
        if self.camera_head is not None:
            encodings = self.camera_head(taps[-1][:, :, 0])
            out = out._replace(pose_encoding=encodings[-1], pose_encodings=encodings)
        if self.depth_head is not None:
            depth, confidence = map(by_frame, self.depth_head(levels, grid))
            out = out._replace(depth=depth[..., 0], depth_confidence=confidence)
        if self.point_head is not None:
            points, confidence = map(by_frame, self.point_head(levels, grid))
            out = out._replace(points=points, points_confidence=confidence)
        if self.track_head is not None and queries is not None:
            maps = by_frame(self.track_head.features(levels, grid))
            tracks, visibility, confidence = self.track_head(
                maps, queries, query_mask=query_mask, query_frame=query_frame
            )
            out = out._replace(
                tracks=tracks[-1], track_iterations=tracks,
                visibility=visibility, track_confidence=confidence,
            )  # fmt: skip
        return out

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches of an image.  Raises ValueError for unfit sizes."""
        size = self.config.aggregator.patch_size
        if height % size or width % size:
            raise ValueError(f"images of {width}x{height}: both must be multiples of {size}")
        return height // size, width // size

    def encode(self, images: Float[Array, "b s h w 3"]) -> Float[Array, "b s t d"]:
        """Patch tokens of each frame, which depend on that frame alone: they can be cached."""
        b, s = images.shape[:2]
        tokens = self.encoder(images.reshape(b * s, *images.shape[2:]))
        return tokens.reshape(b, s, *tokens.shape[1:])

    def patches(self, tap: Float[Array, "b s p d"]) -> Float[Array, "n t d"]:
        """A tap as dense heads take it: patch tokens only, scenes and frames on one axis."""
        special = self.aggregator.num_special_tokens
        return tap[:, :, special:].reshape(-1, tap.shape[2] - special, tap.shape[3])


Weights = dict[Any, Any]  # nested, by attribute or index


def heads_in(weights: Weights) -> tuple[str, ...]:
    """Names of the heads that these weights hold."""
    return tuple(head for head, module in HEAD_MODULES.items() if module in weights)


def select_heads(weights: Weights, heads: Sequence[str]) -> Weights:
    """The weights of encoder, aggregator and these heads."""
    modules = (HEAD_MODULES[head] for head in heads)
    return {module: weights[module] for module in ("encoder", "aggregator", *modules)}


def abstract_model(
    config: Config, heads: Sequence[str] = HEADS, dtype=jnp.float32, param_dtype=jnp.float32
) -> VGGT:
    """A model of shapes without values: for `functional`, `nnx.split` and tables."""
    return VGGT(config, heads=heads, dtype=dtype, param_dtype=param_dtype, rngs=ShapesOnly())


def functional(model: VGGT) -> tuple[Callable[..., Prediction], Weights]:
    """The model as a plain function of its weights, for `jax.jit`: `apply(weights, images, ...)`.

    Weights are a nested dict of stacked arrays, some 200 in all: a call costs microseconds to
    dispatch, where `nnx.jit` would walk the module each time.
    """
    graph, state = nnx.split(model)

    def apply(weights: Weights, *args, **kwargs) -> Prediction:
        return nnx.merge(graph, weights)(*args, **kwargs)

    return apply, nnx.to_pure_dict(state)
