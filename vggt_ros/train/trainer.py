# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One step of learning, on any number of devices: weights and moments in, better ones out."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Key

from vggt_ros.errors import UserError
from vggt_ros.model.config import Config
from vggt_ros.model.scan import rematerialising
from vggt_ros.model.vggt import VGGT, Prediction, Weights, abstract_model
from vggt_ros.model.weights import abstract
from vggt_ros.train import auxiliary, infonce, losses
from vggt_ros.train.config import Recipe
from vggt_ros.train.data import Batch, draw_window
from vggt_ros.train.init import fresh_weights
from vggt_ros.train.optimiser import frozen, gathered, optimiser_for

SHARDED_FROM = 1 << 14  # arrays smaller than this are cheaper to keep whole everywhere
EVERYWHERE = ("data", "weights")  # a batch is spread over both axes of the mesh


class State(NamedTuple):
    """All that a run must remember.  Weights are float32 whatever the arithmetic."""

    step: Any  # int32 scalar
    weights: Weights
    moments: Any


class Report(NamedTuple):
    """What a step has to say; `refused` when its loss or gradient was no number."""

    loss: Float[Array, ""]
    parts: dict[str, Array]
    gradient: Float[Array, ""]
    refused: Bool[Array, ""]


def mesh_of(weight_shards: int = 1, devices: list[Any] | None = None) -> Mesh:
    """All devices as (data, weights): each group of `weight_shards` holds the weights once."""
    devices = devices or jax.devices()
    if len(devices) % weight_shards:
        raise UserError(f"{len(devices)} devices do not split into groups of {weight_shards}")
    return Mesh(np.array(devices).reshape(-1, weight_shards), EVERYWHERE)


def spread(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """Large arrays are cut along their longest axis that the weight shards divide."""
    shards = mesh.shape["weights"]
    cuts = [axis for axis, size in enumerate(shape) if size % shards == 0 and size >= shards]
    parts: list[str | None] = [None] * len(shape)
    if shards > 1 and cuts and np.prod(shape) >= SHARDED_FROM:
        parts[max(cuts, key=lambda axis: shape[axis])] = "weights"
    return NamedSharding(mesh, PartitionSpec(*parts))


class Pass(NamedTuple):
    """What the losses look at: beside the prediction what made it."""

    prediction: Prediction
    maps: Float[Array, "b s h w c"] | None  # normalised, that tracks follow
    taps: Sequence[Float[Array, "b s p e"]]  # of the tower


class Trainer:
    """The compiled parts of a run: fresh state, one step, drawn batches."""

    def __init__(self, recipe: Recipe, config: Config, mesh: Mesh | None = None):
        self.recipe, self.config = recipe, config
        self.mesh = mesh or mesh_of(recipe.weight_shards)
        if recipe.batch % self.mesh.size:
            raise UserError(f"batch {recipe.batch} does not split over {self.mesh.size} devices")
        on_cpu = self.mesh.devices.flat[0].platform == "cpu"
        half = recipe.dtype == "bfloat16" or (recipe.dtype == "auto" and not on_cpu)
        self.dtype = jnp.bfloat16 if half else jnp.float32
        self._graph = nnx.split(abstract_model(config, recipe.heads, self.dtype))[0]
        self.optimiser = optimiser_for(recipe)
        self.step = jax.jit(self._step, donate_argnums=0)

    def start(self, weights: Weights | None = None) -> State:
        """Step 0, from the given weights or from fresh ones."""
        places = jax.tree.map(lambda x: x.sharding, self.abstract())
        given = fresh_weights(self.config, self.recipe) if weights is None else weights
        placed: Any = jax.device_put(dict(given) | self._readouts(), places.weights)
        moments = jax.jit(self.optimiser.init, out_shardings=places.moments)(placed)
        return State(jax.device_put(jnp.int32(0), places.step), placed, moments)

    def abstract(self) -> State:
        """Shapes, dtypes and places of a state: what a checkpoint is restored into."""
        weights = abstract(self.config, self.recipe.heads) | jax.eval_shape(self._readouts)
        moments = jax.eval_shape(self.optimiser.init, weights)
        state = State(jax.ShapeDtypeStruct((), jnp.int32), weights, moments)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=spread(self.mesh, x.shape)),
            state,
        )

    def _readouts(self) -> Weights:
        """What a run learns beside the network, if its recipe asks for that."""
        asked = self.recipe.loss.motion > 0
        return {auxiliary.READOUTS: auxiliary.readouts(self.config)} if asked else {}

    def predict(self, weights: Weights, images: Array, queries: Array | None) -> Prediction:
        """The forward pass of `VGGT`, with all frames of the batch through the heads at once."""
        return self._forward(self._model(weights), images, queries).prediction

    def _model(self, weights: Weights) -> VGGT:
        return nnx.merge(self._graph, auxiliary.network(weights))

    def _forward(self, model: VGGT, images: Array, queries: Array | None) -> Pass:
        b, s, height, width, _ = images.shape
        grid = model.grid(height, width)
        taps = model.tower(model.encode(images), grid)
        levels = [model.patches(tap) for tap in taps[:4]]
        whole = lambda x: x.reshape(b, s, *x.shape[1:])  # noqa: E731
        out, maps = Prediction(), None
        if model.camera is not None:
            encodings = model.camera(taps[-1][:, :, 0])
            out = out._replace(pose_encoding=encodings[-1], pose_encodings=encodings)
        if model.depth is not None:
            depth, trust = map(whole, model.depth(levels, grid, at_once=b * s))
            out = out._replace(depth=depth[..., 0], depth_confidence=trust)
        if model.points is not None:
            points, trust = map(whole, model.points(levels, grid, at_once=b * s))
            out = out._replace(points=points, points_confidence=trust)
        if model.tracks is not None and queries is not None:
            maps = whole(model.tracks.features(levels, grid, at_once=b * s))
            tracks, seen, trust = model.tracks(maps, queries)
            out = out._replace(
                tracks=tracks[-1], track_iterations=tracks, visibility=seen, track_confidence=trust
            )
            maps = model.tracks.norm(maps)
        return Pass(out, maps, taps)

    def loss(self, weights: Weights, batch: Batch) -> tuple[Array, dict[str, Array]]:
        """The weighted loss of a batch, and its parts; frozen weights pass no gradient."""
        weights = jax.tree.map(
            lambda x, still: jax.lax.stop_gradient(x) if still else x,
            weights, frozen(self.recipe, weights),
        )  # fmt: skip
        model, terms = self._model(weights), self.recipe.loss
        with rematerialising(self.recipe.remat):
            prediction, maps, taps = self._forward(model, batch.images, batch.queries)
        matches = None
        if maps is not None and terms.matches:
            cell = self.config.track_head.stride
            matches = infonce.surprise(maps, batch.queries / cell, batch.tracks / cell)
        loss, parts = losses.total(prediction, batch, terms, matches)
        if terms.motion or terms.attention:
            helped = auxiliary.helped(model, weights.get(auxiliary.READOUTS), taps, batch)
            loss += terms.motion * helped["motion"] + terms.attention * helped["attention"]
            parts |= helped
        return loss, parts

    def _step(self, state: State, batch: Batch) -> tuple[State, Report]:
        (loss, parts), slopes = jax.value_and_grad(self.loss, has_aux=True)(state.weights, batch)
        size = optax.tree.norm(gathered(self.recipe, slopes))
        changes, moments = self.optimiser.update(slopes, state.moments, state.weights)
        better = State(state.step, jax.tree.map(jnp.add, state.weights, changes), moments)
        sound = jnp.isfinite(loss) & jnp.isfinite(size)
        kept = jax.tree.map(lambda new, old: jnp.where(sound, new, old), better, state)
        # A refused step still counts: the next one sees another batch.
        kept = kept._replace(step=state.step + 1)
        kept = jax.lax.with_sharding_constraint(
            kept, jax.tree.map(lambda x: spread(self.mesh, x.shape), kept)
        )
        return kept, Report(loss, parts, size, ~sound)

    def drawer(self, bucket: tuple[int, int, int]) -> Any:
        """`step -> batch` of drawn rooms, jitted; every device draws its own share."""
        recipe, (frames, height, width) = self.recipe, bucket
        one = partial(
            draw_window, frames=frames, height=height, width=width, queries=recipe.queries,
            rays=recipe.data.rays, interval=recipe.data.interval, paces=recipe.data.paces,
        )  # fmt: skip

        def share(keys: Key[Array, "n"]) -> Batch:
            return jax.lax.map(one, keys, batch_size=recipe.data.at_once or keys.shape[0])

        rows = PartitionSpec(EVERYWHERE)

        @jax.jit
        def draw(step: Int[Array, ""]) -> Batch:
            key = jax.random.fold_in(jax.random.key(recipe.seed), step)
            keys = jax.random.split(key, recipe.batch)
            alone = jax.shard_map(
                share, mesh=self.mesh, in_specs=rows, out_specs=rows, check_vma=False
            )
            return alone(keys)

        return draw

    def placed(self, batch: Batch) -> Batch:
        """A batch from the host, spread over the devices."""
        return jax.device_put(batch, NamedSharding(self.mesh, PartitionSpec(EVERYWHERE)))

    def places(self, batch: Batch) -> Batch:
        """Shapes of such a batch, with where it lies."""
        rows = NamedSharding(self.mesh, PartitionSpec(EVERYWHERE))
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows), batch)
