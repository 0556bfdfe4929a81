# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Plot of measured step times against the cost model, with two fitted rates."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vggt_ros.errors import UserError, install_extra
from vggt_ros.tools.bench import flops
from vggt_ros.tools.bench.main import Options, Row, interleaved
from vggt_ros.tools.bench.step import Stepper


class Rates(NamedTuple):
    """Operations a second: matrix products with weights, and attention."""

    gemm: float
    attention: float

    def seconds(self, work: flops.Work) -> float:
        """Time of this work by the model."""
        return work.gemm / self.gemm + work.attention / self.attention


def rows(options: Options) -> Iterator[Row]:
    """Seconds of a step per window, the two rates, the largest error of the model; and the plot."""
    assert options.plot is not None
    pyplot = _pyplot()
    if options.plot.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"--plot {options.plot}: end the name in .png, .svg or .pdf")
    stepper = Stepper(options)
    height, width = stepper.size
    name = f"{options.model}/{width}x{height}"
    sides = {str(s): stepper.at(s) for s in options.windows}
    measured = interleaved(sides, options.repeats)
    work = {s: flops.step(stepper.config, s, stepper.size).total for s in options.windows}
    times = {s: measured[str(s)] for s in options.windows}
    rates = fit(work, times)
    for s in options.windows:
        model = rates.seconds(work[s])
        against = f"cost model: {model:.3g} s"
        yield Row(f"step_s/{name}/S{s}", times[s], "s", "lower", against)
    yield Row(f"gemm_rate/{name}", rates.gemm / 1e9, "GFLOP/s", "higher", "fitted")
    yield Row(f"attention_rate/{name}", rates.attention / 1e9, "GFLOP/s", "higher", "fitted")
    off = max(abs(rates.seconds(work[s]) / times[s] - 1) for s in times)
    yield Row(f"model_off/{name}", off, "share", "lower", "at the window of the largest error")
    draw(pyplot, options.plot, f"{name}, {stepper.dtype.name}", work, times, rates)
    print(f"written: {options.plot}")


def fit(work: Mapping[int, flops.Work], times: Mapping[int, float]) -> Rates:
    """Least squares of the relative errors of the times.

    If the solution is not positive for both, one common rate is fitted.
    """
    windows = sorted(times)
    parts = np.array([work[s] for s in windows], float)
    seconds = np.array([times[s] for s in windows])
    shares = parts / seconds[:, None]
    costs = np.linalg.lstsq(shares, np.ones(len(windows)), rcond=None)[0]
    if len(windows) < 2 or not (costs > 0).all():
        one = float((shares.sum(1) ** 2).sum() / shares.sum())
        return Rates(one, one)
    return Rates(*(1 / costs).tolist())


def draw(
    pyplot,
    path: Path,
    title: str,
    work: Mapping[int, flops.Work],
    times: Mapping[int, float],
    rates: Rates,
) -> None:
    """Measured times as dots, the model as a line, with the share of attention."""
    windows = sorted(times)
    line = [1e3 * rates.seconds(work[s]) for s in windows]
    linear = [1e3 * work[s].gemm / rates.gemm for s in windows]
    figure, axes = pyplot.subplots(figsize=(6.4, 4.0), layout="constrained")
    axes.fill_between(windows, linear, line, alpha=0.2, linewidth=0, label="model, attention")
    axes.fill_between(windows, 0, linear, alpha=0.1, linewidth=0, label="model, all else")
    axes.plot(windows, line, linewidth=1.5, label="model")
    axes.plot(windows, [1e3 * times[s] for s in windows], "o", color="black", label="measured")
    axes.set(title=title, xlabel="window S (frames)", ylabel="step (ms)", ylim=(0, None))
    axes.set_xticks(windows)
    axes.legend(loc="upper left", frameon=False)
    try:
        figure.savefig(path, dpi=150)
    except OSError as fault:
        raise UserError(f"{path} cannot be written: {fault.strerror or fault}") from fault
    finally:
        pyplot.close(figure)


def _pyplot():
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise UserError(f"--plot needs matplotlib; install it {install_extra('tools')}") from None
    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot
