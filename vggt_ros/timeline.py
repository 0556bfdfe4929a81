# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The stream of frames: which may follow the last one, and which form a window.

Pure state machines over stamps and frame numbers. What breaks a stream must insist before it is
accepted: one image of another time, camera or size is a stray message, which changes nothing;
several in a row that agree with each other are a looped recording, a clock that was set, or another
camera or mode of it.
"""

from typing import NamedTuple

from vggt_ros.errors import FrameError, UserError

PATIENCE = 5  # frames in a row that are refused; with the next that agrees, all are accepted
MIN_JUMP_NS = 2_000_000_000  # ahead; less is a camera that paused
USUAL_GAPS = 10  # times the last gap between two frames, for cameras slower than that
MAX_FIRST_GAP_NS = 60_000_000_000  # from the first frame to the second, when no gap is known
ANY_GAP_NS = 2**63
LATEST_NS = (2**31 - 3600) * 1_000_000_000  # a message has 31 bits for seconds; some are post-dated


class Change(NamedTuple):
    """What a frame that was accepted changed in its stream; nothing, where `text` is empty."""

    text: str = ""
    starts_map: bool = False
    clock_set_back: bool = False

    @property
    def notice(self) -> str:
        """For the user; empty where nothing changed."""
        outcome = "a new window and a new map start" if self.starts_map else "the map goes on"
        return f"{self.text}: {outcome}" if self.text else ""


class _Stream(NamedTuple):
    """Frames of one camera and one size whose stamps run forward."""

    camera: str
    size: tuple[int, int]  # width and height
    last_ns: int
    before_ns: int = 0  # stamp before the last, about; 0: there was none
    count: int = 1

    def followed_by(self, stamp_ns: int, left: int) -> "_Stream":
        before_ns = stamp_ns - (stamp_ns - self.last_ns) // (left + 1)
        return self._replace(last_ns=stamp_ns, before_ns=before_ns, count=self.count + 1)

    def max_gap_ns(self, first_ns: int) -> int:
        """To the next stamp; `first_ns` where no gap is known yet."""
        usual = self.last_ns - self.before_ns
        return max(MIN_JUMP_NS, USUAL_GAPS * usual) if self.before_ns else first_ns

    def fault(self, other: "_Stream", max_gap_ns: int) -> str:
        """Why another stream's last frame cannot follow; empty where it can."""
        if other.camera != self.camera:
            return (
                f"the image has another frame_id: '{other.camera}', not '{self.camera}'; do two"
                " cameras share the topic?"
            )
        if other.size != self.size:
            return f"the image has {new_size(other.size, self.size)}"
        stamp_ns, last_ns = other.last_ns, self.last_ns
        if stamp_ns == last_ns:
            return f"the image's stamp repeats: {stamp_ns}; is the topic published twice?"
        if stamp_ns < last_ns:
            return (
                f"the image's stamp goes back: {stamp_ns} after {last_ns};"
                " are there two publishers on the topic, or was a clock set back?"
            )
        if stamp_ns - last_ns > max_gap_ns:
            return (
                f"the image's stamp jumps ahead: by {(stamp_ns - last_ns) * 1e-9:.1f} s to"
                f" {stamp_ns}; did the camera pause, or was a clock set?"
            )
        return ""

    def is_late(self, other: "_Stream") -> bool:
        """Whether a stamp lies just before the last one, which then was too early.

        Such frames end when the stream has caught up, and are no reason for another one.
        """
        if (other.camera, other.size) != (self.camera, self.size):
            return False
        late_ns, max_late_ns = self.last_ns - other.last_ns, other.max_gap_ns(MIN_JUMP_NS)
        return late_ns == 0 or 0 < self.before_ns < other.last_ns and 0 < late_ns <= max_late_ns

    def change_to(self, other: "_Stream") -> Change:
        texts = []
        if other.camera != self.camera:
            texts.append(f"frame_id changed from '{self.camera}' to '{other.camera}'")
        if other.size != self.size:
            (was_w, was_h), (w, h) = self.size, other.size
            texts.append(f"image size changed from {was_w}x{was_h} to {w}x{h}")
        back = other.last_ns < self.last_ns
        if back:
            texts.append("time went back")
        if texts:
            return Change(", ".join(texts), starts_map=True, clock_set_back=back)
        ahead = (other.last_ns - self.last_ns) * 1e-9
        return Change(f"the images' stamps went on after {ahead:.1f} s")


class StreamGate:
    """Frames of one camera and one size with increasing stamps; whatever else must insist.

    The first `patience` frames in a row of another stream are refused, and the next is accepted:
    so a new map starts, or, where stamps only jumped ahead, the map goes on. With a patience of 0,
    for frames that were judged before, all that can be another stream is one, and gaps are none.
    """

    def __init__(self, patience: int = PATIENCE) -> None:
        self._patience = patience
        self.reset()

    def another(self) -> "StreamGate":
        """One like this, for another camera."""
        return StreamGate(self._patience)

    def reset(self) -> None:
        """Forget every frame."""
        self._stream: _Stream | None = None
        self._other: _Stream | None = None  # of refused frames that agree
        self._left = 0  # since the last frame that was accepted

    def check(
        self, stamp_ns: int, camera: str = "", width: int = 0, height: int = 0, left: int = 0
    ) -> Change:
        """Accept a frame of this stamp (ns), frame_id and size in pixels (0: as before).

        So many frames were `left` since the last call: they came, and were not read. Raises
        `FrameError`, which names the fault, for a frame that may not follow.
        """
        if stamp_ns <= 0:
            raise FrameError(
                f"the image's stamp is {'below ' if stamp_ns else ''}zero;"
                " the driver must stamp its images with the time"
            )
        if stamp_ns >= LATEST_NS:
            raise FrameError(
                f"the image's stamp is beyond all that a message can hold: {stamp_ns};"
                " the driver must stamp its images with the time"
            )
        found, known, other = _Stream(camera, (width, height), stamp_ns), self._stream, self._other
        if known is None:
            self._stream = found
            return Change()
        max_gap = known.max_gap_ns(MAX_FIRST_GAP_NS) if self._patience else ANY_GAP_NS
        self._left += left
        fault = known.fault(found, max_gap * (self._left + 1))
        if not fault:
            self._stream, self._other = known.followed_by(stamp_ns, self._left), None
            self._left = 0
            return Change()
        self._other = found
        if other is not None and not other.fault(found, other.max_gap_ns(ANY_GAP_NS) * (left + 1)):
            self._other = other.followed_by(stamp_ns, left)
        if known.is_late(self._other):
            raise FrameError(fault)
        if self._other.count <= self._patience:
            raise FrameError(f"{fault} ({self._patience + 1} in a row that agree are used)")
        self._stream, self._other, self._left = self._other, None, 0
        return known.change_to(found)


class RateLimit:
    """Which frames are used when only so many a second are wanted, by their stamps."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """The next frame is due."""
        self._due_ns = self._used_ns = 0

    def is_due(self, stamp_ns: int, max_rate_hz: float) -> bool:
        """Whether to use the frame; a rate of 0 uses all."""
        period, due_ns = _period_ns(max_rate_hz), self._due(max_rate_hz)
        # Stamps jitter: without a twentieth of tolerance the rate could halve.
        if stamp_ns < due_ns - period // 20:
            return False
        late = stamp_ns - due_ns > period
        self._due_ns, self._used_ns = (stamp_ns if late else due_ns) + period, stamp_ns
        return True

    def _due(self, max_rate_hz: float) -> int:
        """When the next frame is due; a rate that was raised counts from the last one on."""
        period = _period_ns(max_rate_hz)
        return min(self._due_ns, self._used_ns + period + period // 20)

    def missed(self, stamp_ns: int, max_rate_hz: float) -> int:
        """How many frames were due before this one, had they been read; asked before `is_due`.

        Without a rate there is no such number: all are.
        """
        return max(int((stamp_ns - self._due(max_rate_hz)) * 1e-9 * max_rate_hz), 0)


def _period_ns(rate_hz: float) -> int:
    """From one frame to the next; 0 for a rate of 0, which is all of them."""
    return round(1e9 / rate_hz) if rate_hz > 0 else 0


class SizeGate:
    """Images of another size than those in use must insist too; see `StreamGate`.

    It stands before the network: programs are compiled for each size, which takes minutes on some
    devices, too much for a stray message. The first size is accepted at once, so that nothing waits
    at the start. A size is in use from the first of its images that has a program.
    """

    MIN_SIDE = 32  # pixels; no camera's image is smaller, but many a mistake is

    def __init__(self) -> None:
        self._used: tuple[int, int] | None = None
        self._other, self._in_a_row = (0, 0), 0

    def check(self, width: int, height: int) -> None:
        """Raises `FrameError` for an image too small, or of a size not (yet) accepted."""
        size, side = (width, height), self.MIN_SIDE
        if min(size) < side:
            raise FrameError(
                f"the image is too small for a camera's: {width}x{height}, but each side must be"
                f" {side} pixels or more; check what is published on the topic"
            )
        if self._used in (None, size):
            self._in_a_row = 0
            return
        self._in_a_row = self._in_a_row + 1 if size == self._other else 1
        self._other = size
        if self._in_a_row <= PATIENCE:
            fault = new_size(size, self._used)
            raise FrameError(f"the image has {fault} ({PATIENCE + 1} in a row are used)")

    def use(self, width: int, height: int) -> None:
        """An image of this size has a program, and enters the window."""
        self._used = width, height


def new_size(size: tuple[int, int], known: tuple[int, int] | None) -> str:
    """The fault of an image's size, for the user."""
    was = "" if known is None else f", not {known[0]}x{known[1]}"
    return f"a new size: {size[0]}x{size[1]}{was}; do two cameras share the topic?"


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
