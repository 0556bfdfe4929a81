# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A video as stamped frames, upright, with square pixels, at its own presentation times.

It is decoded packet by packet, so that a damaged one costs the frames that need it and no more.
"""

import time
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from vggt_ros.errors import UserError, install_extra
from vggt_ros.frames import Frame
from vggt_ros.imaging.reader import ImageReader
from vggt_ros.tools.sources.source import LazyFrame, Source

if TYPE_CHECKING:
    import av
    from av.container import InputContainer


WIDE = {"gray16": ("gray16le", "mono16"), "rgb48": ("rgb48le", "rgb16")}
"""Pixel formats whose 16 bits are read whole: what PyAV is asked for, and its encoding."""
SAME_GAP = 0.05  # relative difference; some containers have times in whole milliseconds
STEADY = 10  # frames from which a rate is known to be steady
ASSUMED_PERIOD_NS = 40_000_000  # of streams without times (raw, some MJPEG)
PATIENCE = 30.0  # seconds without more of it: a file that is still written, a live address


def open_video(path: Path, reader: ImageReader) -> Source:
    """Open any video that PyAV can decode.  Raises `UserError` for other files."""
    try:
        import av
        from av.error import FFmpegError
    except ImportError:
        raise UserError(f"reading videos needs PyAV; install it {install_extra('tools')}") from None
    if _is_live(path):
        raise UserError(
            f"{path} is a playlist without an end (live): record a part of it, as with ffmpeg -i"
            f" {path.name} -t 60 clip.mp4, and give that"
        )
    try:
        with av.open(_name(path), timeout=PATIENCE) as container:
            stream = _stream(container)
            count = None if stream is None else stream.frames
    except (FFmpegError, OSError) as error:
        raise UserError(f"{path} is no image, video or bag that can be read ({error})") from None
    if count is None:
        raise UserError(f"{path} has no video stream; give a video, images or a bag")
    source = Source(path, "video", "the video's presentation times", (), count or None)
    source.notes = reader.notices
    source.lazy_frames = _lazy_frames(path, source, reader)
    return source


def _name(path: Path) -> str:
    """An absolute name: in a relative one a colon would end the name of a protocol."""
    return str(path.absolute())


def _is_live(path: Path) -> bool:
    """Whether it is a playlist of HTTP Live Streaming (RFC 8216) that goes on being written."""
    if path.suffix.lower() not in (".m3u8", ".m3u"):
        return False
    text = path.read_text(errors="replace")
    return "#EXTINF" in text and "#EXT-X-ENDLIST" not in text


def _stream(container: "InputContainer") -> "av.VideoStream | None":
    """The largest one that is a film: covers are pictures that a player shows beside it."""
    from av.stream import Disposition

    films = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    return max(films, key=lambda s: s.codec_context.width * s.codec_context.height, default=None)


def _lazy_frames(path: Path, source: Source, reader: ImageReader) -> Iterator[LazyFrame]:
    import av

    notes = reader.notices
    with av.open(_name(path), timeout=PATIENCE) as container:
        stream = _stream(container)
        assert stream is not None
        stream.thread_type = "AUTO"
        damage = _Damage()
        clock = _Clock(notes)
        for number, decoded in enumerate(_decoded(container, stream, damage)):
            stamp_ns = clock.stamp(decoded, number)
            aspect = stream.sample_aspect_ratio or Fraction(1)
            if not number and aspect != 1:
                notes.append(f"pixels of the video are not square ({aspect}): it is stretched")
            load = partial(_load, decoded, stamp_ns, aspect, reader)
            yield LazyFrame(f"frame {number}", stamp_ns, load)
    if clock.missing:
        notes.append(f"{clock.missing} frames of the video are missing, by the times of the others")
    if damage.count:
        parts = "1 part of the video is" if damage.count == 1 else f"{damage.count} parts are"
        notes.append(
            f"{parts} damaged ({damage.first}); frames that cannot be decoded are left out, and it"
            " goes on"
        )
    if damage.end:
        notes.append(f"the video ends early ({damage.end}); the frames before are used")


class _Damage:
    """What could not be decoded."""

    def __init__(self) -> None:
        self.count, self.first, self.end = 0, "", ""

    def add(self, fault: str) -> None:
        self.count, self.first = self.count + 1, self.first or fault


def _decoded(
    container: "InputContainer", stream: "av.VideoStream", damage: _Damage
) -> Iterator["av.VideoFrame"]:
    """The frames of all packets; the last packet is empty, and brings what is still inside."""
    from av.error import EOFError, FFmpegError

    packets = container.demux(stream)
    while True:
        began = time.monotonic()
        try:
            packet = next(packets)
        except StopIteration:
            return
        except FFmpegError as error:
            damage.end = str(error)
            return
        if not packet.size and time.monotonic() - began >= PATIENCE:
            damage.end = f"nothing more of it came for {PATIENCE:.0f} s"
        if packet.is_corrupt:
            damage.add("a packet is incomplete")
        try:
            frames = packet.decode()
        except EOFError:
            return
        except FFmpegError as error:
            damage.add(str(error))
            continue
        for frame in frames:
            if frame.is_corrupt:
                damage.add("a frame is incomplete")
            else:
                yield frame


class _Clock:
    """Stamps that rise: where films were joined, the second one goes on after the first.

    `missing` counts the frames that a steady rate says are not there: some containers drop what is
    damaged without a word.
    """

    def __init__(self, notes: list[str]):
        self._notes = notes
        self._last_ns, self._gap_ns, self._shift_ns = -1, ASSUMED_PERIOD_NS, 0
        self._steady = 0  # gaps in a row that are the same
        self.missing = 0

    def stamp(self, decoded: "av.VideoFrame", number: int) -> int:
        """Exact integer stamp of the next frame."""
        stamp_ns = number * ASSUMED_PERIOD_NS
        if decoded.pts is not None and decoded.time_base is not None:
            stamp_ns = int(decoded.pts * decoded.time_base * 10**9)
        stamp_ns += self._shift_ns
        if number and stamp_ns <= self._last_ns:
            jump = self._last_ns + self._gap_ns - stamp_ns
            self._notes.append(
                f"the video's times go back by {(jump - self._gap_ns) * 1e-9:.3f} s at frame"
                f" {number}, as where films were joined; they go on from there"
            )
            self._shift_ns += jump
            stamp_ns += jump
        elif number:
            self._follow(stamp_ns - self._last_ns)
        self._last_ns = stamp_ns
        return stamp_ns

    def _follow(self, gap_ns: int) -> None:
        """One more gap between two frames."""
        times = gap_ns / self._gap_ns
        if abs(times - 1) < SAME_GAP:
            self._steady += 1
        elif self._steady >= STEADY and abs(times - round(times)) < SAME_GAP * round(times):
            self.missing += round(times) - 1
        else:
            self._steady, self._gap_ns = 0, gap_ns


def _load(decoded: "av.VideoFrame", stamp_ns: int, aspect: Fraction, reader: ImageReader) -> Frame:
    """Upright: phones store the rotation to apply (degrees, counter-clockwise)."""
    name = decoded.format.name.removesuffix("le").removesuffix("be")
    asked, encoding = WIDE.get(name, ("rgb24", "rgb8"))
    rgb = _with_square_pixels(reader.samples(decoded.to_ndarray(format=asked), encoding), aspect)
    return Frame(np.ascontiguousarray(np.rot90(rgb, decoded.rotation // 90)), stamp_ns)


def _with_square_pixels(rgb: np.ndarray, aspect: Fraction) -> np.ndarray:
    """Stretched along the longer side of its pixels, whose width over height is `aspect`."""
    if aspect == 1:
        return rgb
    height, width = rgb.shape[:2]
    size = (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))
