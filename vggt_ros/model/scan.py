# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Loops over stacked layers, over iterations of a head and over chunks of frames.

One traced layer compiles faster than its copies, and runs as fast on a CPU.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vggt_ros.model.intermediates import bind, capture, is_capturing, sow

_remat: ContextVar[bool] = ContextVar("remat", default=False)
_unrolled: ContextVar[bool] = ContextVar("unrolled", default=False)


def remat(enabled: bool = True) -> AbstractContextManager[bool]:
    """Rematerialise layers traced inside: their backward pass recomputes the activations."""
    return bind(_remat, enabled)


def unrolled(enabled: bool = True) -> AbstractContextManager[bool]:
    """Unroll loops over layers traced inside: the program holds every layer by itself."""
    return bind(_unrolled, enabled)


def scan_layers(step: Callable[[Any, Any], Any], x: Any, layers: Any) -> Any:
    """Fold `step(x, layer)` over the first axis of stacked `layers`."""
    step = jax.checkpoint(step) if _remat.get() else step
    return _scan(lambda x, layer: (step(x, layer), None), x, layers, _unrolled.get())[0]


def iterate(step: Callable[[Any], tuple[Any, Any]], x: Any, times: int) -> tuple[Any, Any]:
    """Apply `step`, from x to (x, out), `times` times: the last x, and all outs stacked."""
    return _scan(lambda x, _: step(x), x, np.arange(times))


def map_in_chunks(
    function: Callable[[tuple[Array, ...]], Array], frames: tuple[Array, ...], at_once: int
) -> Array:
    """`function` of all frames (the first axis), `at_once` of them at a time, the remainder last.

    What it sows has the frames as its first axis too, and is captured of all of them.
    """
    n = len(frames[0])
    if n <= at_once:
        return function(frames)
    names: list[str] = []

    def capturing(frames: tuple[Array, ...]) -> tuple[Array, list[Array]]:
        if not is_capturing():
            return function(frames), []
        with capture() as intermediates:
            out = function(frames)
        names[:] = [name for name, _ in intermediates]
        return out, [value for _, value in intermediates]

    whole = n // at_once * at_once
    chunks = jax.tree.map(lambda x: x[:whole].reshape(-1, at_once, *x.shape[1:]), frames)
    found = jax.lax.map(capturing, chunks)
    found = jax.tree.map(lambda x: x.reshape(whole, *x.shape[2:]), found)
    if whole < n:
        rest = capturing(jax.tree.map(lambda x: x[whole:], frames))
        found = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), found, rest)
    for name, value in zip(names, found[1], strict=True):
        sow(name, value)
    return found[0]


def _scan(
    step: Callable[[Any, Any], tuple[Any, Any]], x: Any, layers: Any, unroll: bool = False
) -> tuple[Any, Any]:
    """`lax.scan` that passes captured intermediates out of the loop as one more output."""
    if not is_capturing():
        return jax.lax.scan(step, x, layers, unroll=unroll)
    names: list[str] = []

    def capturing_step(x, layer):
        with capture() as intermediates:
            x, out = step(x, layer)
        names[:] = [name for name, _ in intermediates]
        return x, (out, [value for _, value in intermediates])

    x, (out, values) = jax.lax.scan(capturing_step, x, layers, unroll=unroll)
    for i in range(len(jax.tree.leaves(layers)[0])):
        for name, rows in zip(names, values, strict=True):
            sow(name, rows[i])
    return x, out
