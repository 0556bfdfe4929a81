# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Ahead-of-time compilation of all programs of a run, in parallel: one for each kind of batch.

The compiler keeps few cores busy with one program, and that of a large network takes minutes.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Int
from tqdm import tqdm

from vggt_ros.train.config import Recipe
from vggt_ros.train.data import AnyArray, Batch, bucket_of, trains_dense, trains_tracks
from vggt_ros.train.trainer import Report, State, Trainer


class BatchKind(NamedTuple):
    """The kind of a batch: each has shapes, and so a compiled program, of its own."""

    bucket: int  # index in the recipe, of the first one of these sizes
    tracks: bool  # whether the step trains the track head
    dense: bool = True  # whether it runs any head but that of the camera


# Also takes the step at which the learning rate is at its end.
TrainStep = Callable[[State, Batch, Int[AnyArray, ""]], tuple[State, Report]]
SampleBatch = Callable[[int], Batch]  # of a step


def batch_kind(recipe: Recipe, step: int) -> BatchKind:
    """The kind of a step's batch: a function of seed and step."""
    bucket = recipe.buckets[bucket_of(recipe.seed, step, len(recipe.buckets))]
    dense = trains_dense(recipe.seed, step, recipe.dense_share)
    tracks = dense and trains_tracks(recipe.seed, step, recipe.tracks_share)
    return BatchKind(recipe.buckets.index(bucket), tracks, dense)


def drop_unused_tracks(kind: BatchKind, batch: Batch) -> Batch:
    """The batch, without its tracks if steps of this kind do not train them."""
    return batch if kind.tracks else batch._replace(queries=None, tracks=None, visible=None)


class Programs(NamedTuple):
    """The compiled programs of a run."""

    steps: dict[BatchKind, TrainStep]
    samplers: dict[int, SampleBatch]  # by bucket; none where batches are read from folders


def compile_programs(trainer: Trainer) -> Programs:
    """Compile a training step for every kind of batch, and a sampler for every bucket."""
    recipe = trainer.recipe
    buckets = sorted({recipe.buckets.index(bucket) for bucket in recipe.buckets})
    kinds = [kind for bucket in buckets for kind in kinds_of(recipe, bucket)]
    rendered = buckets if recipe.data.kind == "scenes" else []
    state, number = trainer.abstract(), jax.ShapeDtypeStruct((), jnp.int32)
    samplers = {bucket: trainer.sampler(recipe.buckets[bucket]) for bucket in buckets}
    shapes = {bucket: jax.eval_shape(sample, number) for bucket, sample in samplers.items()}

    def compile_step(kind: BatchKind) -> Any:
        batch = trainer.abstract_batch(drop_unused_tracks(kind, shapes[kind.bucket]))
        return trainer.step.lower(state, batch, number, dense=kind.dense).compile()

    def compile_sampler(bucket: int) -> SampleBatch:
        program = samplers[bucket].lower(number).compile()
        return lambda step: program(jnp.int32(step))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        steps = {kind: pool.submit(compile_step, kind) for kind in kinds}
        samples = {bucket: pool.submit(compile_sampler, bucket) for bucket in rendered}
        futures = [*steps.values(), *samples.values()]
        for future in tqdm(futures, desc="compiling", unit="program", leave=False):
            future.result()
    return Programs(
        {kind: future.result() for kind, future in steps.items()},
        {bucket: future.result() for bucket, future in samples.items()},
    )


def kinds_of(recipe: Recipe, bucket: int) -> list[BatchKind]:
    """The kinds of batches of a bucket that steps of the recipe have."""
    kinds = []
    if recipe.dense_share > 0:
        kinds += [BatchKind(bucket, tracks=True)] * (recipe.tracks_share > 0)
        kinds += [BatchKind(bucket, tracks=False)] * (recipe.tracks_share < 1)
    return kinds + [BatchKind(bucket, tracks=False, dense=False)] * (recipe.dense_share < 1)
