# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Random numbers for scenes: generated in one call, consumed in order while a program is traced.

A room needs some sixty draws; as sixty generator calls they take half a minute to compile, as
slices of one they take a second.
"""

from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray


class RandomStream:
    """`count` uniform numbers in [0, 1) of a key; each is consumed once.

    Raises IndexError while tracing when more than `count` numbers are requested.
    """

    def __init__(self, key: PRNGKeyArray, count: int):
        self._numbers = jax.random.uniform(key, (count,))
        self._used = 0

    def __call__(self, *shape: int, low: float | Array = 0.0, high: float | Array = 1.0) -> Array:
        """Uniform numbers between `low` and `high`, which broadcast against `shape`."""
        start, self._used = self._used, self._used + prod(shape)
        if self._used > len(self._numbers):
            raise IndexError(
                f"{self._used} random numbers requested from a stream of {len(self._numbers)}"
            )
        return low + (high - low) * self._numbers[start : self._used].reshape(shape)

    def between(self, low: Array, high: Array) -> Array:
        """One uniform number for each pair of bounds."""
        return self(*jnp.shape(low), low=low, high=high)

    def integers(self, limit: int, *shape: int) -> Int[Array, "..."]:
        """Integers 0..limit - 1."""
        return jnp.minimum((self(*shape) * limit).astype(jnp.int32), limit - 1)

    def choice(self, choices: Int[np.ndarray, "k"], *shape: int) -> Int[Array, "..."]:
        """Elements of `choices`, with replacement."""
        return jnp.asarray(choices)[self.integers(len(choices), *shape)]
