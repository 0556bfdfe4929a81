# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Intermediate results of a forward pass, captured by name; without a capture `sow` does nothing.

The same code runs in both cases, so what is captured is what the network computes.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

from jax import Array

Intermediates = list[tuple[str, Array]]  # names may repeat, see `named`

_captured: ContextVar[Intermediates | None] = ContextVar("captured", default=None)


def capture() -> AbstractContextManager[Intermediates]:
    """Collect what is sown inside the block; under a jit, enter and read it within the trace."""
    return bind(_captured, [])


def is_capturing() -> bool:
    """Whether a `capture` block is active."""
    return _captured.get() is not None


def sow(name: str, value: Array, transform: Callable[[Array], Array] | None = None) -> None:
    """Add `transform(value)` to the active capture under `name`.

    "#" in a name is a counter: "block.#" becomes block.0, block.1, ... in `named`.
    """
    captured = _captured.get()
    if captured is not None:
        captured.append((name, transform(value) if transform else value))


def named(intermediates: Intermediates) -> dict[str, Array]:
    """Captured values by name, with every "#" replaced by its count."""
    counts: Counter[str] = Counter()
    values = {}
    for name, value in intermediates:
        values[name.replace("#", str(counts[name]))] = value
        counts[name] += 1
    return values


@contextmanager
def bind(variable: ContextVar[Any], value: Any) -> Iterator[Any]:
    """Give a context variable this value inside the block."""
    token = variable.set(value)
    try:
        yield value
    finally:
        variable.reset(token)
