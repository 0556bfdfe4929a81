# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Recording: every stage of a forward pass under its name, for whoever asks; else nothing at all."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
from jax import Array

_tape: ContextVar[dict[str, Array] | None] = ContextVar("tape", default=None)


@contextmanager
def recording() -> Iterator[dict[str, Array]]:
    """Collect what `note` is told inside; under a jit, open and read it within the trace."""
    tape: dict[str, Array] = {}
    token = _tape.set(tape)
    try:
        yield tape
    finally:
        _tape.reset(token)


def note(name: str, value: Array, change: Callable[[Array], Array] | None = None) -> None:
    """Keep `change(value)` as `name`; "#" counts: "block.#" becomes block.0, block.1, ..."""
    tape = _tape.get()
    if tape is None:
        return
    if "#" in name:
        name = next(n for i in range(len(tape) + 1) if (n := name.replace("#", str(i))) not in tape)
    tape[name] = change(value) if change else value


def climb(step: Callable[[Any, Any], Any], x: Any, layers: Any) -> Any:
    """Fold `step` over the first axis of stacked `layers`.

    One scanned step compiles ten times faster than its copies and runs as fast; only a recording
    needs the copies, since what happens inside a scan cannot be seen from outside.
    """
    if _tape.get() is None:
        return jax.lax.scan(lambda x, layer: (step(x, layer), None), x, layers)[0]
    for i in range(len(jax.tree.leaves(layers)[0])):
        x = step(x, jax.tree.map(lambda weight, i=i: weight[i], layers))
    return x
