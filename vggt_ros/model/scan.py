# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Recording: every stage of a forward pass under its name, for whoever asks; else nothing."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import numpy as np
from jax import Array

_tape: ContextVar[list[tuple[str, Array]] | None] = ContextVar("tape", default=None)
_thrifty: ContextVar[bool] = ContextVar("thrifty", default=False)
_written_out: ContextVar[bool] = ContextVar("written_out", default=False)


def rematerialising(thrifty: bool = True) -> AbstractContextManager[bool]:
    """Layers traced inside keep no activations: their backward pass computes them again."""
    return _held(_thrifty, thrifty)


def written_out(wanted: bool = True) -> AbstractContextManager[bool]:
    """Layers traced inside are written one after the other, and no loop is left of them."""
    return _held(_written_out, wanted)


def recording() -> AbstractContextManager[list[tuple[str, Array]]]:
    """Collect what `note` is told inside; under a jit, open and read it within the trace."""
    return _held(_tape, [])


@contextmanager
def _held(variable: ContextVar[Any], value: Any) -> Iterator[Any]:
    token = variable.set(value)
    try:
        yield value
    finally:
        variable.reset(token)


def note(name: str, value: Array, change: Callable[[Array], Array] | None = None) -> None:
    """Keep `change(value)` as `name`; "#" counts: "block.#" becomes block.0, block.1, ..."""
    tape = _tape.get()
    if tape is not None:
        tape.append((name, change(value) if change else value))


def named(tape: list[tuple[str, Array]]) -> dict[str, Array]:
    """A tape as a dict, its "#" counted."""
    counts: Counter[str] = Counter()
    values = {}
    for name, value in tape:
        values[name.replace("#", str(counts[name]))] = value
        counts[name] += 1
    return values


def climb(step: Callable[[Any, Any], Any], x: Any, layers: Any) -> Any:
    """Fold `step` over the first axis of stacked `layers`."""
    step = jax.checkpoint(step) if _thrifty.get() else step
    return _scan(lambda x, layer: (step(x, layer), None), x, layers, _written_out.get())[0]


def repeat(step: Callable[[Any], tuple[Any, Any]], x: Any, times: int) -> tuple[Any, Any]:
    """`times` steps from x to (x, out): the last x, and all outs stacked."""
    return _scan(lambda x, _: step(x), x, np.arange(times))


def _scan(
    step: Callable[[Any, Any], tuple[Any, Any]], x: Any, layers: Any, unroll: bool = False
) -> tuple[Any, Any]:
    """`lax.scan`: one step compiles faster than its copies, and on a CPU runs as fast.

    What is noted inside leaves the loop as one more output, so a recording runs the same program.
    """
    if _tape.get() is None:
        return jax.lax.scan(step, x, layers, unroll=unroll)
    names: list[str] = []

    def noted(x, layer):
        with recording() as tape:
            x, out = step(x, layer)
        names[:] = [name for name, _ in tape]
        return x, (out, [value for _, value in tape])

    x, (out, values) = jax.lax.scan(noted, x, layers, unroll=unroll)
    for i in range(len(jax.tree.leaves(layers)[0])):
        for name, rows in zip(names, values, strict=True):
            note(name, rows[i])
    return x, out
