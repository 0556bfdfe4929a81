# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Loops over stacked layers and over iterations of a head, as `lax.scan`.

One traced layer compiles faster than its copies, and runs as fast on a CPU.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any

import jax
import numpy as np

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
