# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Cache of encoded frames on the device: each frame is encoded once, into a slot of its own.

The encoder writes in place (the cache is donated to it), so that an encoder that fails may have
invalidated all of it.  Then every frame is dropped, and encoded again by the next inference.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32, UInt8

from vggt_ros.engine.device import Device
from vggt_ros.model.config import Config, cache_shapes


@jax.jit
def _mean_token(tokens: Float[Array, "slots t d"], slot: Int32[Array, ""]) -> Float[Array, "d"]:
    """A sum is all there is to compile: a tenth of a second, once for each size of the cache."""
    return jax.lax.dynamic_index_in_dim(tokens, slot, keepdims=False).mean(0)


class FrameCache:
    """Tokens of frames by frame id.  Used by one thread at a time."""

    def __init__(self, config: Config, device: Device):
        self._config, self._device = config, device
        self.size, self.slots = (0, 0), 0
        self.clear()

    def clear(self) -> None:
        """Drop every frame."""
        self._arrays: tuple[Array, ...] | None = None
        self._slot_of: dict[int, int] = {}  # by frame id

    def resize(self, size: tuple[int, int], slots: int) -> None:
        """Room for `slots` frames of `size` (height, width); drops all frames on a change."""
        if (size, slots) != (self.size, self.slots):
            self.size, self.slots = size, slots
            self.clear()

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The tokens as programs take them; shapes are those of `cache_shapes`."""
        if self._arrays is None:
            with jax.default_device(self._device):
                self._arrays = tuple(
                    jnp.zeros(shape, jnp.float32)
                    for shape in cache_shapes(self._config, self.slots, self.size)
                )
        return self._arrays

    def count_missing(self, frame_ids: Sequence[int]) -> int:
        """How many of these frames are not in the cache."""
        return sum(key not in self._slot_of for key in frame_ids)

    def slots_of(
        self,
        frame_ids: Sequence[int],
        images: Sequence[UInt8[np.ndarray, "h w 3"]],
        encode: Callable[[tuple[Array, ...], np.ndarray, np.ndarray], tuple[Array, ...]],
        *,
        at_once: bool = False,
    ) -> Int32[np.ndarray, "s"]:
        """Slots of these frames; those that are missing are encoded, all others are dropped.

        `encode` takes an image and its slot; `at_once`: all of those that are missing, stacked.
        Raises what `encode` raises; the cache is empty then.
        """
        self._slot_of = {key: slot for key, slot in self._slot_of.items() if key in frame_ids}
        free = [slot for slot in range(self.slots) if slot not in self._slot_of.values()]
        new = {
            key: (image, free.pop())
            for key, image in zip(frame_ids, images, strict=True)
            if key not in self._slot_of
        }
        try:
            if at_once:
                stack = np.stack([image for image, _ in new.values()])
                slots = np.array([slot for _, slot in new.values()], np.int32)
                self._arrays = encode(self.arrays, stack, slots)
            else:
                for image, slot in new.values():
                    self._arrays = encode(self.arrays, image, np.int32(slot))
            self._slot_of |= {key: slot for key, (_, slot) in new.items()}
        except Exception:
            self.clear()
            raise
        return np.array([self._slot_of[key] for key in frame_ids], np.int32)

    def describe(self, frame_id: int) -> Float32[np.ndarray, "d"] | None:
        """The mean of a frame's encoder tokens, of unit length; None: it is not in the cache."""
        if frame_id not in self._slot_of:
            return None
        with jax.default_device(self._device):
            mean = np.asarray(_mean_token(self.arrays[0], jnp.int32(self._slot_of[frame_id])))
        return mean / np.linalg.norm(mean)

    def wait(self) -> None:
        """Wait for the encoder.  Raises the error it failed with; the cache is empty then."""
        try:
            jax.block_until_ready(self._arrays)
        except Exception:
            self.clear()
            raise
