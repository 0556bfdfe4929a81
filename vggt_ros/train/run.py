# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt train RECIPE`: the training loop with its batches, log, validation and checkpoints."""

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from vggt_ros.errors import UserError
from vggt_ros.model.checkpoint import open_config, open_weights
from vggt_ros.model.config import Config
from vggt_ros.model.vggt import PRESETS, Weights
from vggt_ros.train import metrics, plots, score
from vggt_ros.train.auxiliary import network_weights
from vggt_ros.train.checkpoints import CheckpointManager, export, export_official
from vggt_ros.train.config import Recipe, read_recipe
from vggt_ros.train.data import Batch
from vggt_ros.train.precompile import (
    SampleBatch,
    batch_kind,
    compile_programs,
    drop_unused_tracks,
)
from vggt_ros.train.schedule import Schedule, learning_rate
from vggt_ros.train.trainer import Report, State, Trainer

ROOMS_JUDGE = (
    "note: validation is in synthetic rooms, and so is the choice of best.safetensors, whatever is"
    " learnt from data.root: take last.safetensors, and compare both on images of your own"
)


def train(
    config: str, *, minutes: float = 0.0, out: str = "", official: bool = False, cache: str = ""
) -> None:
    """Train a network by a recipe, or resume the run in its folder.

    Args:
        config: the recipe: path of a YAML file, or name of one in the package (small, small_cpu,
            small_cpu_wide, small_rig, small_varied, small_varied_cpu, small_cameras_cpu,
            small_cameras_cpu_wide).
        minutes: save and stop after this time; 0: no limit.
        out: folder of the run, instead of the recipe's; relative to the working directory.
        official: at the end also write the weights under the official names.
        cache: folder for compiled programs, so that a resumed run starts sooner.
    """
    if not minutes >= 0:
        raise UserError(f"--minutes is {minutes:g}; give 0 or more (0: no limit)")
    recipe = read_recipe(config)
    if cache:
        jax.config.update("jax_compilation_cache_dir", cache)
    Run(recipe, Path(out or recipe.out)).train(minutes, official)


class Run:
    """A training run in its folder: states/, log.jsonl, curve.png, table.txt, best.safetensors.

    Raises UserError for a model that does not exist or a folder that cannot be written.
    """

    def __init__(self, recipe: Recipe, folder: Path):
        self.recipe, self.folder = recipe, folder
        self.config, weights = open_network(recipe)
        self.trainer = Trainer(recipe, self.config)
        self.checkpoints = CheckpointManager(folder / "states", recipe.keep)
        self.resumed = self.checkpoints.latest_step is not None
        self.state = (
            self.checkpoints.restore(self.trainer.abstract())
            if self.resumed
            else self.trainer.start(weights, open_teacher(recipe, self.config))
        )
        self._predict = jax.jit(
            lambda weights, batch: self.trainer.predict(weights, batch.images, batch.queries)
        )

    def train(self, minutes: float = 0.0, official: bool = False) -> State:
        """Train to the recipe's last step, or for `minutes` (0: no limit), and export the weights.

        Raises UserError where a checkpoint cannot be saved, and after too many skipped steps.
        """
        recipe, first = self.recipe, int(self.state.step)
        if recipe.schedule == "minutes" and not minutes:
            raise UserError(
                "the recipe's learning rate falls over the minutes of the call (schedule: "
                "minutes): say how many by --minutes"
            )
        began = saved = time.monotonic()
        pending: list[tuple[int, Report]] = []
        skipped = 0
        if recipe.data.kind == "co3d" and recipe.check_every:
            print(ROOMS_JUDGE)
        programs = compile_programs(self.trainer)
        batches = self.batches(first, programs.samplers)
        schedule = Schedule(recipe, began + 60 * minutes)
        with tqdm(total=recipe.steps, initial=first, unit="step", desc=self.folder.name) as bar:
            for step in range(first, recipe.steps):
                train_step = programs.steps[batch_kind(recipe, step)]
                steps = schedule.steps
                self.state, report = train_step(self.state, next(batches), np.int32(steps))
                pending.append((step + 1, report))
                bar.update()
                last = step + 1 == recipe.steps
                late = minutes > 0 and time.monotonic() - began > 60 * minutes
                if (step + 1) % recipe.log_every == 0 or last or late:
                    skipped = self.log(pending, skipped, bar)
                    pending = []
                    bar.total = schedule.reached(step + 1)
                if recipe.check_every and ((step + 1) % recipe.check_every == 0 or last):
                    bar.write(self.validate(step + 1))
                if last or late or time.monotonic() - saved > 60 * recipe.save_minutes:
                    self.checkpoints.save(self.state)
                    saved = time.monotonic()
                if late and not last:
                    after = "the same command resumes here"
                    if recipe.schedule == "minutes":  # `steps` are those that the last step knew
                        fallen = learning_rate(recipe, steps, step) / recipe.learning_rate
                        after = f"the learning rate was at {float(fallen):.0%} of its peak"
                    bar.write(f"time limit reached at step {step + 1}; {after}")
                    break
        self.checkpoints.close()
        export(self.folder / "last.safetensors", self.config, self.network_weights)
        if official:
            path = self.folder / "official" / "model.safetensors"
            export_official(path, self.config, self.network_weights)
        return self.state

    @property
    def network_weights(self) -> Weights:
        """The present weights, without what is only used in training."""
        return network_weights(self.state.weights)

    def batches(self, first: int, samplers: Mapping[int, SampleBatch]) -> Iterator[Batch]:
        """Batches from step `first` on: synthetic rooms from `samplers`, or read from folders."""
        recipe, trainer = self.recipe, self.trainer
        kinds = (batch_kind(recipe, step) for step in range(first, recipe.steps))
        if recipe.data.kind == "co3d":
            from vggt_ros.train.co3d import batches

            read = map(trainer.shard_batch, batches(recipe, first))
            yield from map(drop_unused_tracks, kinds, read)
            return
        for step, kind in enumerate(kinds, first):
            yield drop_unused_tracks(kind, samplers[kind.bucket](step))

    def log(self, pending: list[tuple[int, Report]], skipped: int, bar: tqdm) -> int:
        """Append the reports of steps to the log; returns how many steps in a row were skipped.

        `skipped` is that number before them.  Raises UserError at the recipe's `nan_limit`.
        """
        reports = jax.device_get(pending)
        with (self.folder / "log.jsonl").open("a") as file:
            for step, report in reports:
                parts = {name: float(value) for name, value in report.parts.items()}
                row = {
                    "step": step,
                    "loss": float(report.loss),
                    "gradient": float(report.grad_norm),
                }
                file.write(json.dumps(row | parts) + "\n")
                skipped = skipped + 1 if report.skipped else 0
                if report.skipped:
                    bar.write(f"step {step} skipped: its loss or gradient is not finite")
                if skipped >= self.recipe.nan_limit:
                    self.checkpoints.save(self.state)
                    raise UserError(
                        f"loss or gradient was not finite in {skipped} steps in a row; see "
                        f"the losses in {self.folder / 'log.jsonl'}; lower learning_rate or raise "
                        "warmup"
                    )
        bar.set_postfix(loss=f"{reports[-1][1].loss:.3f}")
        return skipped

    def validate(self, step: int) -> str:
        """Score held-out rooms, keep the best weights, plot curves and depth; returns the table."""
        size = self.recipe.buckets[0][1:]
        rig = self.recipe.views_by_frames if self.recipe.views else {}
        found = score.compare(
            "network", lambda batch: self._predict(self.state.weights, batch),
            self.recipe.check_windows, tuple(sorted(rig)) or (2, 4, 8), size, self.recipe.queries,
            rig,
        )  # fmt: skip
        rows = found["network"]
        value = math.fsum(row.abs_rel + (1 - row.auc[2] / 100) for row in rows) / len(rows)
        best = self.folder / "best.json"
        if not best.exists() or value < json.loads(best.read_text())["score"]:
            export(self.folder / "best.safetensors", self.config, self.network_weights)
            best.write_text(json.dumps({"step": step, "score": value}) + "\n")
        text = f"step {step}\n{score.table(found)}\n"
        with (self.folder / "table.txt").open("a") as file:
            file.write(text + "\n")
        plots.plot_losses(self.folder / "log.jsonl", self.folder / "curve.png")
        frames = min(rig, default=4)
        batch = next(metrics.held_out(frames, *size, 1, views=rig.get(frames, 1)))
        before = self._predict(self.trainer.start().weights, batch)
        after = self._predict(self.state.weights, batch)
        plots.plot_depth(self.folder / "picture.png", batch, before, after)
        return text


def open_network(recipe: Recipe) -> tuple[Config, Weights | None]:
    """The network's configuration and, if the recipe names some, its initial weights."""
    if recipe.start:
        network = None
        if recipe.layout:
            network, _ = open_config(recipe.start, recipe.heads)
            network = replace(network, layout=recipe.layout)
        network, weights, report = open_weights(
            recipe.start, network, heads=recipe.heads, dtype=jnp.float32
        )
        if report.copied or report.neutral:
            print(report)  # what of the layout is new
        return _trainable(network, recipe), weights
    if recipe.model not in PRESETS:
        raise UserError(f"model {recipe.model!r} is not a preset; presets: {', '.join(PRESETS)}")
    network = PRESETS[recipe.model].config
    return _trainable(replace(network, layout=recipe.layout or network.layout), recipe), None


def open_teacher(recipe: Recipe, network: Config) -> Weights | None:
    """The weights whose features are kept; None: the initial ones, or no such loss.

    Raises UserError for a network of another kind.
    """
    if not recipe.teacher:
        return None
    config, weights, _ = open_weights(recipe.teacher, heads=(), dtype=jnp.float32)
    parts = ("dino", "aggregator", "layout")
    if other := [part for part in parts if getattr(config, part) != getattr(network, part)]:
        raise UserError(
            f"teacher {recipe.teacher} has another {' and '.join(other)} than the network that is "
            "trained: its features cannot be compared"
        )
    return weights


def _trainable(network: Config, recipe: Recipe) -> Config:
    """The configuration.  Raises UserError for loss terms that its layout does not have."""
    if recipe.loss.attention > 0 and network.layout != "joint":
        raise UserError(
            f"loss.attention is of layout joint, and the network has {network.layout}: set it to 0"
        )
    return network


def bench_train(
    model: str = "small", *, batch: int = 8, frames: int = 4, height: int = 168, width: int = 224,
    steps: int = 10, dtype: str = "auto",
) -> list[dict[str, Any]]:  # fmt: skip
    """Samples per second of the whole loop, and the share of time outside of the training step.

    Rooms are rendered as in the recipes: on a CPU with one ray a pixel, one by one.
    """
    from vggt_ros.train.config import recipe_from

    data = {"rays": 1, "at_once": 1} if jax.default_backend() == "cpu" else {}
    heads = ["camera", "depth", "points"] if model == "vggt-1b" else ["camera", "depth", "tracks"]
    recipe = recipe_from({
        "model": model, "heads": heads, "batch": batch, "buckets": [[frames, height, width]],
        "dtype": dtype, "remat": model == "vggt-1b", "data": data,
    })  # fmt: skip
    trainer = Trainer(recipe, PRESETS[model].config)
    sample = trainer.sampler(recipe.buckets[0])
    state, batch_ = trainer.start(), sample(0)
    state, report = trainer.step(state, batch_)
    jax.block_until_ready(report.loss)

    def timed(fresh: bool) -> float:
        nonlocal state, batch_, report
        began = time.perf_counter()
        for step in range(steps):
            batch_ = sample(step + 1) if fresh else batch_
            state, report = trainer.step(state, batch_)
        jax.block_until_ready(report.loss)
        return (time.perf_counter() - began) / steps

    whole, alone = (float(np.median([timed(fresh) for _ in range(3)])) for fresh in (True, False))
    name = f"{model}/{width}x{height}/S{frames}/B{batch}"
    samples = {"name": f"train_samples/{name}", "value": batch / whole}
    outside = {"name": f"train_outside/{name}", "value": max(0.0, 1 - alone / whole)}
    return [
        samples | {"unit": "samples/s", "better": "higher", "against": ""},
        outside | {"unit": "share", "better": "lower", "against": "at most 0.10"},
    ]
