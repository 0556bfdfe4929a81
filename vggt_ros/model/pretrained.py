# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The network as a model hub's user expects it: named, loaded, compiled, with the known fields."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from vggt_ros.model.checkpoint import open_weights
from vggt_ros.model.config import Config, in_layout
from vggt_ros.model.layers import ShapesOnly
from vggt_ros.model.random_weights import random_weights
from vggt_ros.model.vggt import HEADS, PRESETS, VGGT, Prediction, Weights, heads_in


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class VGGTOutput(Mapping):
    """Outputs under the names of the official network's dictionary; None where a head is off.

    A pytree. Also a mapping (`output["depth"]`, `dict(output)`), of what is not None. Lengths share
    one arbitrary unit a scene.
    """

    images: Float[Array, "*b h w 3"]  # as given, RGB in [0, 1]; b: scenes and frames
    pose_enc: Float[Array, "*b 9"] | None = None  # camera from first camera, and fields of view
    pose_enc_list: Float[Array, "i *b 9"] | None = None  # of each iteration
    depth: Float[Array, "*b h w 1"] | None = None  # along the optical axis
    depth_conf: Float[Array, "*b h w"] | None = None  # from 1, "no evidence", upwards
    world_points: Float[Array, "*b h w 3"] | None = None  # in the first camera's frame
    world_points_conf: Float[Array, "*b h w"] | None = None
    track: Float[Array, "*b n 2"] | None = None  # x, y in pixels
    vis: Float[Array, "*b n"] | None = None  # in [0, 1]
    conf: Float[Array, "*b n"] | None = None  # in [0, 1]

    def __getitem__(self, name: str) -> Array:
        if name not in tuple(self.__iter__()):
            raise KeyError(f"{name!r}; there are {', '.join(self.__iter__())}")
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return (row.name for row in fields(self) if getattr(self, row.name) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class PretrainedVGGT(VGGT):
    """A `VGGT` whose calls are compiled, once for each shape, and whose outputs are `VGGTOutput`.

    See `from_pretrained`.
    """

    def __call__(
        self,
        images: Any,
        query_points: Any = None,
        *,
        query_mask: Bool[Array, "b n"] | None = None,
        query_frame: int | Int[Array, ""] = 0,
    ) -> VGGTOutput:
        """Outputs for images [s, h, w, 3] or [b, s, h, w, 3] (or with a view axis, b t v h w 3).

        RGB in [0, 1], or uint8; height and width are multiples of the patch size. `query_points`
        [n, 2] or [b, n, 2] are (x, y) pixels of frame `query_frame`. Without an axis of scenes
        they are one scene, which is an axis of the outputs. Raises ValueError for other shapes.
        """
        images = as_scenes(images)
        queries = None if query_points is None else jnp.asarray(query_points, jnp.float32)
        if queries is not None and queries.ndim == 2:
            queries = queries[None]
        graph, state = nnx.split(self)
        out = _forward(graph, state, images, queries, query_mask, query_frame)
        return VGGTOutput(
            images=images,
            pose_enc=out.pose_encoding,
            pose_enc_list=out.pose_encodings,
            depth=None if out.depth is None else out.depth[..., None],
            depth_conf=out.depth_confidence,
            world_points=out.points,
            world_points_conf=out.points_confidence,
            track=out.tracks,
            vis=out.visibility,
            conf=out.track_confidence,
        )

    def eval(self, **attributes: Any) -> "PretrainedVGGT":
        """The model itself: it has no dropout, and computes the same in training and evaluation."""
        super().eval(**attributes)
        return self


@partial(jax.jit, static_argnums=0)
def _forward(
    graph: Any, state: Any, images: Array, queries: Any, query_mask: Any, query_frame: Any
) -> Prediction:
    model = nnx.merge(graph, state)
    return VGGT.__call__(model, images, queries, query_mask=query_mask, query_frame=query_frame)


def as_scenes(images: Any) -> Float[Array, "b s h w 3"] | Float[Array, "b t v h w 3"]:
    """Images with an axis of scenes, as floats in [0, 1].  Raises ValueError for other shapes."""
    images = jnp.asarray(images)
    if images.ndim not in (4, 5, 6) or images.shape[-1] != 3:
        hint = "; move channels to the end" if 3 in images.shape[-3:-2] else ""
        raise ValueError(
            f"images of shape {images.shape}: frames are [s, h, w, 3] or [b, s, h, w, 3]{hint}"
        )
    if images.dtype == jnp.uint8:
        images = images.astype(jnp.float32) / 255
    return images[None] if images.ndim == 4 else images


def open_pretrained(
    source: str | Path,
    *,
    cache_dir: str | Path | None = None,
    heads: Sequence[str] | None = None,
    dtype: Any = jnp.float32,
    seed: int = 0,
    layout: str | None = None,
    order: Sequence[str] | None = None,
    strategy: str | None = None,
) -> PretrainedVGGT:
    """See `VGGT.from_pretrained`."""
    preset = PRESETS.get(str(source))

    def wanted(config: Config) -> Config:
        return in_layout(config, layout, order=order, strategy=strategy)

    if preset is not None and preset.weights is None:
        warnings.warn(f"{source} has random weights: its geometry is noise", stacklevel=3)
        config = wanted(preset.config)
        weights = random_weights(config, tuple(heads or HEADS), dtype, seed)
    else:
        config, weights, _ = open_weights(
            source, config=wanted, heads=heads, dtype=dtype, cache_dir=cache_dir
        )
    return with_weights(config, weights, dtype)


def with_weights(config: Config, weights: Weights, dtype: Any = jnp.float32) -> PretrainedVGGT:
    """A model of these weights; its heads are those that they hold.

    `dtype` is the arithmetic of encoder and aggregator.
    """
    kinds = {"dtype": dtype, "param_dtype": dtype, "rngs": ShapesOnly()}
    heads = heads_in(weights)
    empty = PretrainedVGGT(config, heads=heads, **kinds)
    placed = jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x, weights)
    return nnx.merge(nnx.split(empty)[0], placed)
