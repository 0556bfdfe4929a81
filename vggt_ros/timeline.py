# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The stream of frames: which may follow the last one, and which form a window.

Pure state machines over stamps and frame numbers. What breaks a stream must repeat before it is
accepted: one old stamp or one image of another size is a stray message; several in a row are a
looped recording or another camera mode.
"""

from typing import NamedTuple

from vggt_ros.errors import FrameError, UserError


class StampGate:
    """Stamps only ever increase; an earlier clock is accepted after `PATIENCE` refused frames."""

    PATIENCE = 5

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget every stamp."""
        self._last_ns = 0
        self._earlier: list[int] = []  # refused stamps that run forward on an earlier clock

    def check(self, stamp_ns: int) -> bool:
        """Accept a stamp; True if it is the first of a new timeline (a recording that looped).

        Raises `FrameError`, which names the fault, for a stamp that may not follow.
        """
        if stamp_ns <= 0:
            raise FrameError(
                f"the image's stamp is {'below ' if stamp_ns else ''}zero;"
                " the driver must stamp its images with the time"
            )
        if stamp_ns == self._last_ns:
            raise FrameError(
                f"the image's stamp repeats: {stamp_ns}; is the topic published twice?"
            )
        restarted = stamp_ns < self._last_ns
        if restarted:
            forward = not self._earlier or stamp_ns > self._earlier[-1]
            self._earlier = [*self._earlier, stamp_ns] if forward else [stamp_ns]
            if len(self._earlier) <= self.PATIENCE:
                raise FrameError(
                    f"the image's stamp goes back: {stamp_ns} after {self._last_ns};"
                    " are there two publishers on the topic, or was a clock set back?"
                )
        self._last_ns, self._earlier = stamp_ns, []
        return restarted


class StreamGate:
    """Frames of one camera and one size with increasing stamps; whatever else starts a new map."""

    def __init__(self) -> None:
        self._stamps = StampGate()
        self.reset()

    def reset(self) -> None:
        """Forget the last frame."""
        self._stamps.reset()
        self._last: tuple[int, int, str] | None = None

    def check(self, stamp_ns: int, width: int, height: int, camera: str) -> str:
        """Accept a frame; why it starts a new map, or empty where it continues the last one.

        Raises `FrameError` for a stamp that may not follow.
        """
        restarted, last = self._stamps.check(stamp_ns), self._last
        self._last = width, height, camera
        if last is None or self._last == last and not restarted:
            return ""
        if restarted:
            return "time went back"
        if last[:2] != (width, height):
            return f"image size changed from {last[0]}x{last[1]} to {width}x{height}"
        return f"frame_id changed from '{last[2]}' to '{camera}'"


class RateLimit:
    """Which frames are used when only so many a second are wanted, by their stamps."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """The next frame is due."""
        self._due_ns = 0

    def is_due(self, stamp_ns: int, max_rate_hz: float) -> bool:
        """Whether to use the frame; a rate of 0 uses all."""
        period = round(1e9 / max_rate_hz) if max_rate_hz > 0 else 0
        # Stamps jitter: without a twentieth of tolerance the rate could halve.
        if stamp_ns < self._due_ns - period // 20:
            return False
        late = stamp_ns - self._due_ns > period
        self._due_ns = (stamp_ns if late else self._due_ns) + period
        return True


class SizeGate:
    """Images of a new size are accepted once `PATIENCE` have come in a row.

    Programs are compiled for each size, which takes minutes on some devices: too much for a stray
    message. The first size ever is accepted at once, so that nothing waits at the start.
    """

    PATIENCE = 3
    MIN_SIDE = 32  # pixels; no camera's image is smaller, but many a mistake is

    def __init__(self) -> None:
        self._accepted: set[tuple[int, int]] = set()
        self._new, self._in_a_row = (0, 0), 0

    def check(self, width: int, height: int) -> None:
        """Raises `FrameError` for an image too small, or of a size not (yet) accepted."""
        size, side = (width, height), self.MIN_SIDE
        if min(size) < side:
            raise FrameError(
                f"the image is too small for a camera's: {width}x{height}, but each side must be"
                f" {side} pixels or more; check what is published on the topic"
            )
        if size not in self._accepted:
            self._in_a_row = self._in_a_row + 1 if size == self._new else 1
            self._new = size
            if self._accepted and self._in_a_row < self.PATIENCE:
                known = " or ".join(f"{w}x{h}" for w, h in sorted(self._accepted))
                raise FrameError(
                    f"the image has a new size: {width}x{height}, not {known}; it is used once"
                    f" {self.PATIENCE} come in a row; if that repeats, two cameras share the topic"
                )
            self._accepted.add(size)
        self._in_a_row = 0


class Window(NamedTuple):
    """The newest frames; the first of them, the oldest, is the network's reference."""

    frame_ids: tuple[int, ...] = ()
    fresh: int = 0  # frames since the last inference: 0 right after one


def push(window: Window, frame_id: int, *, size: int, stride: int) -> tuple[Window, bool]:
    """Add a frame; the second result is whether an inference is due now.

    While the window fills, every frame is inferred, so that the first image already gives a
    result; once `size` frames are held, every `stride`-th. An inference has `window.fresh + 1`
    frames that no earlier one had, or `size` of them where `stride` is larger. `size` and
    `stride` may change between calls. Frame numbers must rise: `UserError` otherwise.
    """
    if size < 1 or stride < 1:
        raise UserError(f"window size {size} and stride {stride} must be at least 1")
    if window.frame_ids and frame_id <= window.frame_ids[-1]:
        raise UserError(f"frame {frame_id} does not follow frame {window.frame_ids[-1]}")
    filling = len(window.frame_ids) < size
    frame_ids = (*window.frame_ids, frame_id)[-size:]
    fresh = window.fresh + 1
    due = filling or fresh >= stride
    return Window(frame_ids, 0 if due else fresh), due
