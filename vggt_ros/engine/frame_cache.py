# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The frames that the network has read, on the device: each encoded once, in a slot of its own.

The encoder writes in place (its memory is donated), so one that fails may have taken everything
with it.  Then every frame is forgotten, and read again by the next look.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32, UInt8

from vggt_ros.engine.device import Device
from vggt_ros.model.config import Config


class Memory:
    """Tokens of frames by frame id.  Used by one thread at a time."""

    def __init__(self, config: Config, device: Device):
        self._config, self._device = config, device
        self.size, self.slots = (0, 0), 0
        self.forget()

    def forget(self) -> None:
        """No frame is known any more."""
        self._arrays: tuple[Array, ...] | None = None
        self._where: dict[int, int] = {}  # frame id -> slot

    def make_room(self, size: tuple[int, int], slots: int) -> None:
        """Room for so many frames of this size; another size or number forgets all."""
        if (size, slots) != (self.size, self.slots):
            self.size, self.slots = size, slots
            self.forget()

    @property
    def arrays(self) -> tuple[Array, ...]:
        """What the programs take: (slots, tokens, channels), twice."""
        if self._arrays is None:
            tower = self._config.aggregator
            tokens = self.size[0] // tower.patch_size * (self.size[1] // tower.patch_size)
            special = 1 + tower.num_register_tokens
            with jax.default_device(self._device):
                self._arrays = tuple(
                    jnp.zeros((self.slots, n, tower.embed_dim), jnp.float32)
                    for n in (tokens, special + tokens)
                )
        return self._arrays

    def read(
        self,
        frame_ids: Sequence[int],
        images: Sequence[UInt8[np.ndarray, "h w 3"]],
        encode: Callable[[tuple[Array, ...], np.ndarray, np.int32], tuple[Array, ...]],
    ) -> Int32[np.ndarray, "s"]:
        """Slots of these frames, the new ones encoded in the places of those that left.

        Raises what `encode` raises; then nothing is known any more.
        """
        self._where = {key: slot for key, slot in self._where.items() if key in frame_ids}
        free = [slot for slot in range(self.slots) if slot not in self._where.values()]
        try:
            for key, image in zip(frame_ids, images, strict=True):
                if key not in self._where:
                    slot = free.pop()
                    self._arrays = encode(self.arrays, image, np.int32(slot))
                    self._where[key] = slot
        except Exception:
            self.forget()
            raise
        return np.array([self._where[key] for key in frame_ids], np.int32)

    def check(self) -> None:
        """Wait for the encoder.  Raises what it met; then nothing is known any more."""
        try:
            jax.block_until_ready(self._arrays)
        except Exception:
            self.forget()
            raise
