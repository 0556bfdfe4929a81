# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The training step on any number of devices: weights and optimiser state to updated ones."""

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
from vggt_ros.model.scan import remat
from vggt_ros.model.vggt import VGGT, Prediction, Weights, abstract_model
from vggt_ros.model.weights import abstract
from vggt_ros.train import auxiliary, consistency, distillation, infonce, losses
from vggt_ros.train.config import Recipe
from vggt_ros.train.data import Batch, sample_window
from vggt_ros.train.init import fresh_weights
from vggt_ros.train.optimiser import frozen, gathered, optimiser_for

SHARDED_FROM = 1 << 14  # elements; smaller arrays are replicated, which is cheaper
BATCH_AXES = ("data", "weights")  # a batch is sharded over both axes of the mesh


class State(NamedTuple):
    """The state of a run between steps.  Weights are float32 whatever the arithmetic."""

    step: Any  # int32 scalar
    weights: Weights
    opt_state: Any


class Report(NamedTuple):
    """Result of a step for the log."""

    loss: Float[Array, ""]
    parts: dict[str, Array]  # of the loss, unweighted
    grad_norm: Float[Array, ""]
    skipped: Bool[Array, ""]  # its loss or gradient was not finite, weights are unchanged


def mesh_of(weight_shards: int = 1, devices: list[Any] | None = None) -> Mesh:
    """All devices as a (data, weights) mesh: each group of `weight_shards` holds the weights once.

    Raises UserError for a number of devices that `weight_shards` does not divide.
    """
    devices = devices or jax.devices()
    if len(devices) % weight_shards:
        raise UserError(
            f"{len(devices)} devices do not split into groups of {weight_shards}: "
            "weight_shards must divide the number of devices"
        )
    return Mesh(np.array(devices).reshape(-1, weight_shards), BATCH_AXES)


def weight_sharding(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """Sharding of an array of the state: large ones along the longest axis that can be divided."""
    shards = mesh.shape["weights"]
    cuts = [axis for axis, size in enumerate(shape) if size % shards == 0 and size >= shards]
    parts: list[str | None] = [None] * len(shape)
    if shards > 1 and cuts and np.prod(shape) >= SHARDED_FROM:
        parts[max(cuts, key=lambda axis: shape[axis])] = "weights"
    return NamedSharding(mesh, PartitionSpec(*parts))


class ForwardPass(NamedTuple):
    """The prediction, and the intermediates that losses need."""

    prediction: Prediction
    maps: Float[Array, "b s h w c"] | None  # normalised feature maps of the track head
    taps: Sequence[Float[Array, "b s p e"]]  # of the aggregator


class Trainer:
    """The parts of a run that are compiled: initial state, training step, batches.

    Raises UserError for a batch or a number of devices that cannot be divided.
    """

    def __init__(self, recipe: Recipe, config: Config, mesh: Mesh | None = None):
        self.recipe, self.config = recipe, config
        self.mesh = mesh or mesh_of(recipe.weight_shards)
        if recipe.batch % self.mesh.size:
            raise UserError(
                f"batch {recipe.batch} does not split over {self.mesh.size} devices: "
                "it must be a multiple of their number"
            )
        on_cpu = self.mesh.devices.flat[0].platform == "cpu"
        half = recipe.dtype == "bfloat16" or (recipe.dtype == "auto" and not on_cpu)
        self.dtype = jnp.bfloat16 if half else jnp.float32
        self._graph = nnx.split(abstract_model(config, recipe.heads, self.dtype))[0]
        self.optimiser = optimiser_for(recipe)
        self.step = jax.jit(self._step, donate_argnums=0, static_argnames="dense")

    def start(self, weights: Weights | None = None, teacher: Weights | None = None) -> State:
        """The state at step 0, from the given weights or from random ones.

        `teacher`: a network's weights, for recipes that weight `loss.features`; None: the initial.
        """
        shardings = jax.tree.map(lambda x: x.sharding, self.abstract())
        initial = fresh_weights(self.config, self.recipe) if weights is None else weights
        # A copy: a step overwrites the weights in place, and the teacher is to stay.
        first = jax.tree.map(jnp.copy, self._teacher(initial if teacher is None else teacher))
        all_weights = dict(initial) | self._linear_probes() | first
        sharded: Any = jax.device_put(all_weights, shardings.weights)
        opt_state = jax.jit(self.optimiser.init, out_shardings=shardings.opt_state)(sharded)
        return State(jax.device_put(jnp.int32(0), shardings.step), sharded, opt_state)

    def abstract(self) -> State:
        """Shapes, dtypes and shardings of a state, for restoring a checkpoint."""
        weights = abstract(self.config, self.recipe.heads)
        weights = weights | jax.eval_shape(self._linear_probes) | self._teacher(weights)
        opt_state = jax.eval_shape(self.optimiser.init, weights)
        state = State(jax.ShapeDtypeStruct((), jnp.int32), weights, opt_state)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=weight_sharding(self.mesh, x.shape)
            ),
            state,
        )

    def _linear_probes(self) -> Weights:
        """Initial linear probes, trained beside the network if the recipe weights their loss."""
        if self.recipe.loss.motion <= 0:
            return {}
        return {auxiliary.LINEAR_PROBES: auxiliary.linear_probes(self.config)}

    def _teacher(self, weights: Weights) -> Weights:
        """The frozen copy that holds the features, if the recipe weights their change."""
        if self.recipe.loss.features <= 0:
            return {}
        return {distillation.TEACHER: distillation.teacher_of(weights)}

    def predict(self, weights: Weights, images: Array, queries: Array | None) -> Prediction:
        """The forward pass of `VGGT`, with all frames of a batch in one call of each dense head."""
        return self._forward(self._model(weights), images, queries).prediction

    def _model(self, weights: Weights) -> VGGT:
        return nnx.merge(self._graph, auxiliary.network_weights(weights))

    def _views(self, images: Array) -> int | None:
        """Cameras of the rig that a batch's windows are of, where the layout tells them apart."""
        by_view = self.config.layout == "view_time"
        return self.recipe.views_by_frames.get(images.shape[1], 1) if by_view else None

    def _forward(
        self, model: VGGT, images: Array, queries: Array | None, dense: bool = True
    ) -> ForwardPass:
        b, s, height, width, _ = images.shape
        grid = model.grid(height, width)
        taps = model.aggregator(model.encode(images), grid, self._views(images))
        levels = [model.patches(tap) for tap in taps[:4]]
        out, maps = Prediction(), None

        def by_frame(x: Array) -> Array:
            return x.reshape(b, s, *x.shape[1:])

        if model.camera_head is not None:
            encodings = model.camera_head(taps[-1][:, :, 0])
            out = out._replace(pose_encoding=encodings[-1], pose_encodings=encodings)
        if not dense:
            return ForwardPass(out, maps, taps)
        if model.depth_head is not None:
            depth, confidence = map(by_frame, model.depth_head(levels, grid, at_once=b * s))
            out = out._replace(depth=depth[..., 0], depth_confidence=confidence)
        if model.point_head is not None:
            points, confidence = map(by_frame, model.point_head(levels, grid, at_once=b * s))
            out = out._replace(points=points, points_confidence=confidence)
        if model.track_head is not None and queries is not None:
            maps = by_frame(model.track_head.features(levels, grid, at_once=b * s))
            tracks, visibility, confidence = model.track_head(maps, queries)
            out = out._replace(
                tracks=tracks[-1], track_iterations=tracks,
                visibility=visibility, track_confidence=confidence,
            )  # fmt: skip
            maps = model.track_head.fmap_norm(maps)
        return ForwardPass(out, maps, taps)

    def _teacher_features(self, weights: Weights, images: Array) -> list[Array]:
        teacher = abstract_model(self.config, (), self.dtype)
        return distillation.features(teacher, weights, images, self._views(images))

    def loss(
        self, weights: Weights, batch: Batch, dense: bool = True
    ) -> tuple[Array, dict[str, Array]]:
        """The weighted loss of a batch, and its parts; frozen weights pass no gradient.

        Without `dense` only the camera head runs, beside the terms on tokens.
        """
        weights = jax.tree.map(
            lambda x, stop: jax.lax.stop_gradient(x) if stop else x,
            weights, frozen(self.recipe, weights),
        )  # fmt: skip
        model, terms = self._model(weights), self.recipe.loss
        with remat(self.recipe.remat):
            prediction, maps, taps = self._forward(model, batch.images, batch.queries, dense)
        matches = None
        if maps is not None and terms.matches:
            cell = self.config.track_head.stride
            matches = infonce.negative_log_likelihood(
                maps, batch.queries / cell, batch.tracks / cell
            )
        loss, parts = losses.total(prediction, batch, terms, matches)
        if terms.motion or terms.attention:
            probes = weights.get(auxiliary.LINEAR_PROBES)
            extra = auxiliary.auxiliary_losses(model, probes, taps, batch)
            loss += terms.motion * extra["motion"] + terms.attention * extra["attention"]
            parts |= extra
        if terms.features:
            parts["features"] = distillation.features_loss(
                [model.patches(tap) for tap in taps[:4]],
                self._teacher_features(weights[distillation.TEACHER], batch.images),
            )
            loss += terms.features * parts["features"]
        if terms.agreement and dense:
            extra = consistency.agreement_losses(prediction, batch)
            loss += sum(weight * extra[name] for name, weight in terms.agreement.items())
            parts |= extra
        return loss, parts

    def _step(
        self, state: State, batch: Batch, steps: Int[Array, ""] | None = None, dense: bool = True
    ) -> tuple[State, Report]:
        loss_of = partial(self.loss, dense=dense)
        (loss, parts), grads = jax.value_and_grad(loss_of, has_aux=True)(state.weights, batch)
        grad_norm = optax.tree.norm(gathered(self.recipe, grads))
        optimiser = optimiser_for(self.recipe, steps)
        updates, opt_state = optimiser.update(grads, state.opt_state, state.weights)
        updated = State(state.step, jax.tree.map(jnp.add, state.weights, updates), opt_state)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, state)
        kept = kept._replace(step=state.step + 1)  # if skipped, too: the next gets another batch
        kept = jax.lax.with_sharding_constraint(
            kept, jax.tree.map(lambda x: weight_sharding(self.mesh, x.shape), kept)
        )
        return kept, Report(loss, parts, grad_norm, ~finite)

    def sampler(self, bucket: tuple[int, int, int]) -> Any:
        """`step -> batch` of synthetic rooms, jitted; every device renders its own shard."""
        recipe, (frames, height, width) = self.recipe, bucket
        one = partial(
            sample_window, frames=frames, height=height, width=width, queries=recipe.queries,
            rays=recipe.data.rays, interval=recipe.data.interval,
            motion_scale=recipe.data.motion_scale, views=recipe.views_by_frames[frames],
        )  # fmt: skip

        def several(keys: Key[Array, "n"], varied: str) -> Batch:
            at_once = min(recipe.data.at_once or keys.shape[0], keys.shape[0])
            return jax.lax.map(partial(one, varied=varied), keys, batch_size=at_once)

        def shard(keys: Key[Array, "n"]) -> Batch:
            robots, rooms = self._counts(keys.shape[0])
            in_rooms = "motions" if recipe.data.motions == "varied" else ""
            parts = [
                (keys[:robots], ""),
                (keys[robots : robots + rooms], in_rooms),
                (keys[robots + rooms :], "scenes"),
            ]
            batches = [several(part, varied) for part, varied in parts if part.shape[0]]
            return jax.tree.map(lambda *x: jnp.concatenate(x), *batches)

        rows = PartitionSpec(BATCH_AXES)

        @jax.jit
        def sample(step: Int[Array, ""]) -> Batch:
            key = jax.random.fold_in(jax.random.key(recipe.seed), step)
            keys = jax.random.split(key, recipe.batch)
            return jax.shard_map(
                shard, mesh=self.mesh, in_specs=rows, out_specs=rows, check_vma=False
            )(keys)

        return sample

    def _counts(self, windows: int) -> tuple[int, int]:
        """Of so many windows: those of robots in rooms, and those of any motion in rooms."""
        data = self.recipe.data
        robots = round(data.robots_share * windows)
        return robots, round((data.robots_share + data.rooms_share) * windows) - robots

    def shard_batch(self, batch: Batch) -> Batch:
        """A batch from the host, sharded over the devices."""
        return jax.device_put(batch, self._batch_sharding)

    def abstract_batch(self, batch: Batch) -> Batch:
        """Shapes and dtypes of a batch, with its sharding."""
        sharding = self._batch_sharding
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), batch
        )

    @property
    def _batch_sharding(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(BATCH_AXES))
