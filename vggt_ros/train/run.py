# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt train CONFIG`: the loop around the step: batches, curves, validation, saving, stopping."""

import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from vggt_ros.errors import UserError
from vggt_ros.model.checkpoint import open_weights
from vggt_ros.model.config import Config
from vggt_ros.model.vggt import PRESETS, Weights
from vggt_ros.train import metrics, plots, score
from vggt_ros.train.auxiliary import network
from vggt_ros.train.checkpoints import Keeper, export, export_official
from vggt_ros.train.config import Recipe, read_recipe
from vggt_ros.train.data import Batch
from vggt_ros.train.precompile import Draw, asked, compiled, kind_of
from vggt_ros.train.trainer import Report, State, Trainer


def train(
    config: Path, *, minutes: float = 0.0, out: str = "", official: bool = False, cache: str = ""
) -> None:
    """Train a network by a recipe; goes on where the last run of the same recipe stopped.

    Args:
        config: YAML recipe, such as configs/small.yaml.
        minutes: stop after this time, saved; 0: no limit.
        out: another folder for checkpoints, curve and weights than the recipe's.
        official: at the end also write the weights under the official names.
        cache: folder for compiled programs, so that a resumed run starts sooner.
    """
    recipe = read_recipe(config)
    if cache:
        jax.config.update("jax_compilation_cache_dir", cache)
    Run(recipe, Path(out or recipe.out)).go(minutes, official)


class Run:
    """A training run in its folder: states/, log.jsonl, curve.png, table.txt, best.safetensors."""

    def __init__(self, recipe: Recipe, folder: Path):
        self.recipe, self.folder = recipe, folder
        self.network, weights = opened(recipe)
        self.trainer = Trainer(recipe, self.network)
        self.keeper = Keeper(folder / "states", recipe.keep)
        self.resumed = self.keeper.newest is not None
        self.state = (
            self.keeper.restore(self.trainer.abstract())
            if self.resumed
            else self.trainer.start(weights)
        )
        self._predict = jax.jit(
            lambda weights, batch: self.trainer.predict(weights, batch.images, batch.queries)
        )

    def go(self, minutes: float = 0.0, official: bool = False) -> State:
        """Train to the recipe's last step, or until the time is up."""
        recipe, first = self.recipe, int(self.state.step)
        began = saved = time.monotonic()
        pending: list[tuple[int, Report]] = []
        refused = 0
        steps, draws = compiled(self.trainer)
        batches = self.batches(first, draws)
        with tqdm(total=recipe.steps, initial=first, unit="step", desc=self.folder.name) as bar:
            for step in range(first, recipe.steps):
                take = steps[kind_of(recipe, step)]
                self.state, report = take(self.state, next(batches))
                pending.append((step + 1, report))
                bar.update()
                last = step + 1 == recipe.steps
                late = minutes > 0 and time.monotonic() - began > 60 * minutes
                if (step + 1) % recipe.log_every == 0 or last or late:
                    refused = self.log(pending, refused, bar)
                    pending = []
                if recipe.check_every and ((step + 1) % recipe.check_every == 0 or last):
                    bar.write(self.check(step + 1))
                if last or late or time.monotonic() - saved > 60 * recipe.save_minutes:
                    self.keeper.save(self.state)
                    saved = time.monotonic()
                if late and not last:
                    bar.write(f"time is up at step {step + 1}; the same command goes on from here")
                    break
        self.keeper.close()
        export(self.folder / "last.safetensors", self.network, network(self.state.weights))
        if official:
            export_official(
                self.folder / "official" / "model.safetensors",
                self.network,
                network(self.state.weights),
            )
        return self.state

    def batches(self, first: int, draws: Mapping[int, Draw]) -> Iterator[Batch]:
        """Batches from step `first` on, drawn by the program of their bucket or read."""
        recipe, trainer = self.recipe, self.trainer
        kinds = (kind_of(recipe, step) for step in range(first, recipe.steps))
        if recipe.data.kind == "co3d":
            from vggt_ros.train.co3d import batches

            yield from map(asked, kinds, map(trainer.placed, batches(recipe, first)))
            return
        for step, kind in enumerate(kinds, first):
            yield asked(kind, draws[kind.bucket](step))

    def log(self, pending: list[tuple[int, Report]], refused: int, bar: tqdm) -> int:
        """Write what steps reported; how many in a row were refused by now."""
        reports = jax.device_get(pending)
        with (self.folder / "log.jsonl").open("a") as file:
            for step, report in reports:
                parts = {name: float(value) for name, value in report.parts.items()}
                row = {"step": step, "loss": float(report.loss), "gradient": float(report.gradient)}
                file.write(json.dumps(row | parts) + "\n")
                refused = refused + 1 if report.refused else 0
                if report.refused:
                    bar.write(f"step {step} refused: its loss or gradient is no number")
                if refused >= self.recipe.nan_limit:
                    self.keeper.save(self.state)
                    raise UserError(
                        f"{refused} steps in a row were no number; parts of the loss are in "
                        f"{self.folder / 'log.jsonl'}. Lower learning_rate or raise warmup"
                    )
        bar.set_postfix(loss=f"{reports[-1][1].loss:.3f}")
        return refused

    def check(self, step: int) -> str:
        """Validate on held-out rooms; keep the best weights; draw curve and picture."""
        size = self.recipe.buckets[0][1:]
        found = score.compare(
            "network", lambda batch: self._predict(self.state.weights, batch),
            self.recipe.check_windows, (2, 4, 8), size, self.recipe.queries,
        )  # fmt: skip
        rows = found["network"]
        worth = math.fsum(row.abs_rel + (1 - row.auc[2] / 100) for row in rows) / len(rows)
        best = self.folder / "best.json"
        if not best.exists() or worth < json.loads(best.read_text())["score"]:
            export(self.folder / "best.safetensors", self.network, network(self.state.weights))
            best.write_text(json.dumps({"step": step, "score": worth}) + "\n")
        text = f"step {step}\n{score.table(found)}\n"
        with (self.folder / "table.txt").open("a") as file:
            file.write(text + "\n")
        plots.curve(self.folder / "log.jsonl", self.folder / "curve.png")
        batch = next(metrics.held_out(4, *size, 1))
        before = self._predict(self.trainer.start().weights, batch)
        after = self._predict(self.state.weights, batch)
        plots.before_after(self.folder / "picture.png", batch, before, after)
        return text


def opened(recipe: Recipe) -> tuple[Config, Weights | None]:
    """The network's configuration and, when the recipe names some, the weights to begin with."""
    if recipe.start:
        network, weights, _ = open_weights(recipe.start, heads=recipe.heads, dtype=jnp.float32)
        return network, weights
    if recipe.model not in PRESETS:
        raise UserError(f"model {recipe.model!r} is no preset; there are {', '.join(PRESETS)}")
    return PRESETS[recipe.model].config, None


def bench_train(
    model: str = "small", *, batch: int = 8, frames: int = 4, height: int = 168, width: int = 224,
    steps: int = 10, dtype: str = "auto",
) -> list[dict[str, Any]]:  # fmt: skip
    """Samples a second of the whole loop, and the share of it that is not the training step.

    Rooms are drawn as the recipes draw them: with one ray a pixel, one by one, on a CPU.
    """
    from vggt_ros.train.config import recipe_from

    drawn = {"rays": 1, "at_once": 1} if jax.default_backend() == "cpu" else {}

    heads = ["camera", "depth", "points"] if model == "vggt-1b" else ["camera", "depth", "tracks"]
    recipe = recipe_from({
        "model": model, "heads": heads, "batch": batch, "buckets": [[frames, height, width]],
        "dtype": dtype, "remat": model == "vggt-1b", "data": drawn,
    })  # fmt: skip
    trainer = Trainer(recipe, PRESETS[model].config)
    draw = trainer.drawer(recipe.buckets[0])
    state, batch_ = trainer.start(), draw(0)
    state, report = trainer.step(state, batch_)
    jax.block_until_ready(report.loss)

    def timed(fresh: bool) -> float:
        nonlocal state, batch_, report
        began = time.perf_counter()
        for step in range(steps):
            batch_ = draw(step + 1) if fresh else batch_
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
