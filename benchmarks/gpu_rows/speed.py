# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The streaming step, the full pass and the official full pass, alternating on one GPU."""

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import jax
import numpy as np

from benchmarks.gpu_rows.ceiling import ceiling
from benchmarks.gpu_rows.setup import Setup, attempt, failed
from vggt_ros.engine.device import choose_device, choose_dtype
from vggt_ros.errors import UserError
from vggt_ros.model.random_weights import random_weights
from vggt_ros.model.vggt import HEADS
from vggt_ros.tools.bench import flops
from vggt_ros.tools.bench.full import Forward, full_forward, official_forward
from vggt_ros.tools.bench.main import Row, interleaved
from vggt_ros.tools.bench.step import Stepper

STUBS = ("huggingface_hub", "einops")  # packages that a forward pass without tracks does not use


def stream(setup: Setup) -> Iterator[Row]:
    """Milliseconds, ratios, share of the ceiling and memory, window by window."""
    peak = ceiling(setup)
    stepper, full = _ours(setup)
    official_pass = None
    with ThreadPoolExecutor(1) as background:
        compiling = background.submit(_compile, setup, stepper, full)
        if setup.options.reference is not None:
            try:
                official_pass = official(setup)
            except Exception as fault:  # the other rows are measured all the same
                yield failed(f"full_over_reference/{setup.name(0)[:-3]}", fault)
        compiling.result()
    for s in setup.options.windows:
        yield from attempt(
            f"stream_ms/{setup.name(s)}",
            lambda s=s: _window(setup, s, stepper, full, official_pass, peak),
        )


def compiled(setup: Setup) -> Iterator[Row]:
    """The official model under torch.compile; one window, since it takes minutes."""
    if setup.options.reference is None:
        return
    s = setup.middle
    stepper, full = _ours(setup)
    images = _images(setup, s)
    official_pass = official(setup, compiled=True)(images)
    seconds = interleaved(
        {"step": stepper.at(s), "full": full(images), "official_pass": official_pass},
        setup.options.repeats,
    )
    against = f"official PyTorch under torch.compile, {1e3 * seconds['official_pass']:.4g} ms"
    for row, side in (("full_over_compiled", "full"), ("stream_over_compiled", "step")):
        ratio = seconds[side] / seconds["official_pass"]
        yield Row(f"{row}/{setup.name(s)}", ratio, "ratio", "lower", against)


def official(setup: Setup, compiled: bool = False) -> Forward:
    """The official model on the same GPU; packages that it imports but does not use are stubs."""
    if find_spec("torch") is None:
        raise UserError("--reference needs PyTorch")
    import torch  # pyright: ignore[reportMissingImports]

    on_cpu = jax.default_backend() == "cpu"
    device = "cpu" if on_cpu or not torch.cuda.is_available() else "cuda"
    for _ in STUBS:
        try:
            return official_forward(setup.options, device=device, compiled=compiled)
        except ModuleNotFoundError as missing:
            if missing.name not in STUBS:
                raise
            sys.modules[missing.name] = _Stub(missing.name)
    return official_forward(setup.options, device=device, compiled=compiled)


class _Stub(ModuleType):
    """A module in which every name is an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init_subclass__": classmethod(lambda cls, **words: None)})


def _ours(setup: Setup) -> tuple[Stepper, Forward]:
    """The step and the full pass, with one set of weights."""
    device = choose_device()
    dtype = choose_dtype(setup.options.dtype, device)
    weights = random_weights(setup.config, HEADS, dtype, pooled_on=device)
    stepper = Stepper(setup.options, setup.programs, weights)
    return stepper, full_forward(setup.options, weights)


def _compile(setup: Setup, stepper: Stepper, full: Forward) -> None:
    """Compile everything in parallel, to save time; a failure appears in the row that needs it."""
    jobs: list[Callable[[], object]] = [lambda: stepper.prepare(setup.options.windows)]
    jobs += [lambda s=s: full(_images(setup, s))() for s in setup.options.windows]
    with ThreadPoolExecutor(len(jobs)) as pool, suppress(Exception):
        list(pool.map(lambda job: job(), jobs))


def _images(setup: Setup, s: int) -> np.ndarray:
    return np.random.default_rng(s).random((1, s, *setup.size, 3), np.float32)


def _window(
    setup: Setup,
    s: int,
    stepper: Stepper,
    full: Forward,
    official_pass: Forward | None,
    peak: float,
) -> Iterator[Row]:
    name, images = setup.name(s), _images(setup, s)
    step = stepper.at(s)
    sides: dict[str, Callable[[], object]] = {"step": step, "full": full(images)}
    if official_pass is not None:
        try:
            sides["official_pass"] = official_pass(images)
            sides["official_pass"]()
        except Exception as fault:
            del sides["official_pass"]
            yield failed(f"full_over_reference/{name}", fault)
    seconds = interleaved(sides, setup.options.repeats)
    work = flops.step(stepper.config, s, stepper.size).total
    share = work.total / seconds["step"] / peak
    yield Row(f"stream_ms/{name}", 1e3 * seconds["step"], "ms", "lower", "each one waited for")
    rate = 1 / _seconds_in_flight(step, setup.options.repeats)
    yield Row(f"steps_s/{name}", rate, "1/s", "higher", "the next one sent before the last is done")
    against = f"{work.total / 1e12:.4g} TFLOP; a large product reaches {peak / 1e12:.4g} TFLOP/s"
    yield Row(f"share_of_ceiling/{name}", share, "share", "higher", against)
    against = f"full {1e3 * seconds['full']:.4g} ms"
    ratio = seconds["step"] / seconds["full"]
    yield Row(f"stream_over_full/{name}", ratio, "ratio", "lower", against)
    if "official_pass" in seconds:
        against = f"official PyTorch, {1e3 * seconds['official_pass']:.4g} ms"
        for row, side in (("full_over_reference", "full"), ("stream_over_reference", "step")):
            ratio = seconds[side] / seconds["official_pass"]
            yield Row(f"{row}/{name}", ratio, "ratio", "lower", against)
    yield Row(f"send_ms/{name}", 1e3 * _send_time(step, setup.options.repeats), "ms", "lower",
              "until Python continues, the device idle before")  # fmt: skip
    yield from stepper.memory_rows(s, name)


def _seconds_in_flight(step: Callable[..., Any], repeats: int) -> float:
    """Seconds of a step while the device never waits for the host."""
    step()
    began = time.perf_counter()
    for _ in range(repeats):
        output = step(wait=False)
    jax.block_until_ready(output)
    return (time.perf_counter() - began) / repeats


def _send_time(step: Callable[..., Any], repeats: int) -> float:
    """Median seconds of the call, without its result."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        output = step(wait=False)
        seconds.append(time.perf_counter() - began)
        jax.block_until_ready(output)
    return float(np.median(seconds))
