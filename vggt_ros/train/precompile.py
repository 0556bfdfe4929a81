# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Every program of a run, compiled before its first step: one for each kind of batch, all at once.

The compiler keeps few cores busy with one program, and a large network's takes it minutes.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from tqdm import tqdm

from vggt_ros.train.config import Recipe
from vggt_ros.train.data import Batch, bucket_of, tracked
from vggt_ros.train.trainer import Report, State, Trainer


class Kind(NamedTuple):
    """What tells the batches of a run apart for the compiler."""

    bucket: int
    tracks: bool


Step = Callable[[State, Batch], tuple[State, Report]]
Draw = Callable[[int], Batch]


def kind_of(recipe: Recipe, step: int) -> Kind:
    """The kind of a step's batch; depends on seed and step alone."""
    bucket = bucket_of(recipe.seed, step, len(recipe.buckets))
    return Kind(bucket, tracked(recipe.seed, step, recipe.tracks_share))


def asked(kind: Kind, batch: Batch) -> Batch:
    """The batch, without its tracks if steps of this kind do not train them."""
    return batch if kind.tracks else batch._replace(queries=None, tracks=None, visible=None)


def compiled(trainer: Trainer) -> tuple[dict[Kind, Step], dict[int, Draw]]:
    """Steps for all kinds of batches, and what draws a bucket's rooms (none for folders)."""
    recipe = trainer.recipe
    some, all_ = recipe.tracks_share > 0, recipe.tracks_share >= 1
    shares = [tracks for tracks, wanted in ((True, some), (False, not all_)) if wanted]
    buckets = range(len(recipe.buckets))
    kinds = [Kind(bucket, tracks) for bucket in buckets for tracks in shares]
    drawn = list(buckets) if recipe.data.kind == "scenes" else []
    state, number = trainer.abstract(), jax.ShapeDtypeStruct((), jnp.int32)
    drawers = [trainer.drawer(bucket) for bucket in recipe.buckets]
    shapes = [jax.eval_shape(drawer, number) for drawer in drawers]

    def step(kind: Kind) -> Any:
        batch = trainer.places(asked(kind, shapes[kind.bucket]))
        return trainer.step.lower(state, batch).compile()

    def draw(bucket: int) -> Draw:
        program = drawers[bucket].lower(number).compile()
        return lambda step: program(jnp.int32(step))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        steps = {kind: pool.submit(step, kind) for kind in kinds}
        draws = {bucket: pool.submit(draw, bucket) for bucket in drawn}
        jobs = [*steps.values(), *draws.values()]
        for job in tqdm(jobs, desc="compiling", unit="program", leave=False):
            job.result()
    return (
        {kind: job.result() for kind, job in steps.items()},
        {bucket: job.result() for bucket, job in draws.items()},
    )
