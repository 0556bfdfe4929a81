# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The picture of a run over hours."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402

from soak.figures import Sample  # noqa: E402


def draw(samples: Sequence[Sample], path: Path, title: str) -> None:
    """Memory, latency, rates, and the counts that should be constant, over minutes."""
    minutes = [s.seconds / 60 for s in samples]
    figure, axes = pyplot.subplots(4, 1, figsize=(8, 8), sharex=True, layout="constrained")
    axes[0].plot(minutes, [s.resident / 1e6 for s in samples])
    axes[0].set_ylabel("resident memory [MB]")
    axes[0].set_ylim(bottom=0)
    axes[1].plot(minutes, [s.median_ms for s in samples], label="median")
    axes[1].plot(minutes, [s.p99_ms for s in samples], label="99 %", linewidth=0.7)
    axes[1].set_ylabel("stamp to depth [ms]")
    axes[1].set_yscale("log")
    axes[1].legend(loc="upper right")
    pairs = list(zip(samples, samples[1:], strict=False))
    for name, label in (("images", "images sent"), ("depths", "depth images")):
        rates = [(getattr(b, name) - getattr(a, name)) / (b.seconds - a.seconds) for a, b in pairs]
        axes[2].plot(minutes[1:], rates, label=label)
    axes[2].set_ylabel("rate [Hz]")
    axes[2].set_ylim(bottom=0)
    axes[2].legend(loc="lower right")
    for name in ("threads", "files", "segments"):
        axes[3].plot(minutes, [getattr(s, name) for s in samples], label=name)
    axes[3].set_ylabel("count")
    axes[3].set_ylim(bottom=0)
    axes[3].legend(loc="center right")
    axes[3].set_xlabel("minutes")
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
