# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Random numbers for scenes: drawn in one go, handed out in order.

A room needs some sixty draws; as sixty generator calls they take half a minute to compile, as
slices of one they take a second.
"""

from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray


class Dice:
    """`count` numbers in [0, 1) of a key; each is given out once, while a program is traced."""

    def __init__(self, key: PRNGKeyArray, count: int):
        self._numbers = jax.random.uniform(key, (count,))
        self._used = 0

    def __call__(self, *shape: int, low: float | Array = 0.0, high: float | Array = 1.0) -> Array:
        """Numbers between `low` and `high`, which broadcast against `shape`."""
        start, self._used = self._used, self._used + prod(shape)
        if self._used > len(self._numbers):
            raise IndexError(f"{self._used} numbers are wanted, {len(self._numbers)} were drawn")
        return low + (high - low) * self._numbers[start : self._used].reshape(shape)

    def between(self, low: Array, high: Array) -> Array:
        """One number for each pair of bounds."""
        return self(*jnp.shape(low), low=low, high=high)

    def below(self, limit: int, *shape: int) -> Int[Array, "..."]:
        """Whole numbers 0..limit - 1."""
        return jnp.minimum((self(*shape) * limit).astype(jnp.int32), limit - 1)

    def pick(self, choices: Int[np.ndarray, "k"], *shape: int) -> Int[Array, "..."]:
        """Some of `choices`, with replacement."""
        return jnp.asarray(choices)[self.below(len(choices), *shape)]
