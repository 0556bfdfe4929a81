# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The learning rate over the steps of a run, and how many steps its time allows."""

import math
import time
from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Int

from vggt_ros.train.config import Recipe


def learning_rate(recipe: Recipe, steps: int | Int[Array, ""], step: Any) -> Array:
    """The learning rate of a step: linear warm-up, then a cosine that ends at `steps`."""
    done = (step - recipe.warmup) / jnp.maximum(steps - recipe.warmup, 1)
    cosine = (1 + jnp.cos(jnp.pi * jnp.clip(done, 0, 1))) / 2
    falling = recipe.final_share + (1 - recipe.final_share) * cosine
    rising = step / max(recipe.warmup, 1)
    return recipe.learning_rate * jnp.where(step < recipe.warmup, rising, falling)


class Schedule:
    """How many steps the learning rate falls over: the recipe's, or as many as the time allows.

    In the latter case the rate of the steps so far says how many; `deadline` is of time.monotonic.
    """

    def __init__(self, recipe: Recipe, deadline: float):
        self.steps = recipe.steps
        self._recipe, self._deadline = recipe, deadline
        self._first: tuple[int, float] | None = None  # a step that is done, and when

    def reached(self, step: int) -> int:
        """The steps of the schedule, now that so many are done."""
        now = time.monotonic()
        by_time = self._recipe.schedule == "minutes"
        if by_time and self._first is not None and step > self._first[0]:
            seconds = (now - self._first[1]) / (step - self._first[0])
            left = max(self._deadline - now, 0.0) / seconds
            self.steps = min(step + math.ceil(left), self._recipe.steps)
        self._first = self._first or (step, now)
        return self.steps
