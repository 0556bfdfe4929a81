# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which frames are looked at together: a pure state machine over frame numbers, oldest first."""

from typing import NamedTuple

from vggt_ros.errors import UserError


class Window(NamedTuple):
    """The newest frames; the first of them, the oldest, is the network's reference."""

    frame_ids: tuple[int, ...] = ()
    fresh: int = 0  # frames since the last look: 0 right after one


def push(window: Window, frame_id: int, *, size: int, stride: int) -> tuple[Window, bool]:
    """Add a frame; the second result says whether to look at the window now.

    While the window fills, every frame is looked at, so that a robot sees from its first picture
    on; once `size` frames are held, every `stride`-th. A look shows `window.fresh + 1` frames
    that no earlier look has seen, or `size` of them where `stride` is larger. `size` and
    `stride` may change between calls. Frame numbers must rise; anything else is refused.
    """
    if size < 1 or stride < 1:
        raise UserError(f"window size {size} and stride {stride} must be at least 1")
    if window.frame_ids and frame_id <= window.frame_ids[-1]:
        raise UserError(f"frame {frame_id} does not follow frame {window.frame_ids[-1]}")
    filling = len(window.frame_ids) < size
    frame_ids = (*window.frame_ids, frame_id)[-size:]
    fresh = window.fresh + 1
    look = filling or fresh >= stride
    return Window(frame_ids, 0 if look else fresh), look
