# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Plots of a run: loss curves, and depth maps before and after training."""

import json
from pathlib import Path

import numpy as np

from vggt_ros.model.vggt import Prediction
from vggt_ros.train.data import Batch


def plot_losses(log: Path, image: Path) -> None:
    """Every part of the loss over the steps on a logarithmic axis: smoothed, and the raw values."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in log.read_text().splitlines()]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_prop_cycle(color=colormaps["tab20"](range(20)))
    for name in dict.fromkeys(name for row in rows for name in row):
        if name in ("step", "gradient"):
            continue
        logged = [row for row in rows if name in row]  # not every step trains every head
        steps, values = (np.array([row[key] for row in logged]) for key in ("step", name))
        window = max(1, len(logged) // 50)
        smooth = np.convolve(values, np.ones(window) / window, mode="valid")
        (line,) = axes.plot(steps[window - 1 :], smooth, label=name, lw=2 if name == "loss" else 1)
        axes.plot(steps, values, color=line.get_color(), alpha=0.15, lw=0.5)
    axes.set(xlabel="step", ylabel="loss")
    axes.set_yscale("symlog", linthresh=0.02)  # parts with a confidence become negative
    axes.grid(alpha=0.3)
    axes.legend(ncols=2, fontsize="small")
    figure.savefig(image, dpi=120)


def plot_depth(path: Path, batch: Batch, before: Prediction, after: Prediction) -> None:
    """Rows: image, true depth, depth before training, depth now; columns: frames."""
    from matplotlib import colormaps
    from PIL import Image

    assert before.depth is not None and after.depth is not None
    images, truth = np.asarray(batch.images[0]), np.asarray(batch.depth[0])
    low, high = np.quantile(1 / truth, (0.02, 0.98))

    def coloured(depth: np.ndarray) -> np.ndarray:
        depth = depth * np.median(truth / depth)
        return colormaps["turbo"](np.clip((1 / depth - low) / max(high - low, 1e-6), 0, 1))[..., :3]

    rows = [images, *(coloured(np.asarray(d)) for d in (truth, before.depth[0], after.depth[0]))]
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
    Image.fromarray((255 * sheet).astype(np.uint8)).save(path)
