# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A video as stamped frames, upright, at its own presentation times."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vggt_ros.errors import UserError, install_extra
from vggt_ros.frames import Frame
from vggt_ros.imaging.reader import ImageReader
from vggt_ros.tools.sources.source import LazyFrame, Source

if TYPE_CHECKING:
    import av


WIDE = {"gray16": ("gray16le", "mono16"), "rgb48": ("rgb48le", "rgb16")}
"""Pixel formats whose 16 bits are read whole: what PyAV is asked for, and its encoding."""


def open_video(path: Path, reader: ImageReader) -> Source:
    """Open any video that PyAV can decode.  Raises `UserError` for other files."""
    try:
        import av
        from av.error import FFmpegError
    except ImportError:
        raise UserError(f"reading videos needs PyAV; install it {install_extra('tools')}") from None
    try:
        with av.open(str(path)) as container:
            streams = container.streams.video
            count = streams[0].frames if streams else None
    except (FFmpegError, OSError) as error:
        raise UserError(f"{path} is no image, video or bag that can be read ({error})") from None
    if count is None:
        raise UserError(f"{path} has no video stream; give a video, images or a bag")
    source = Source(path, "video", "the video's presentation times", (), count or None)
    source.notes = reader.notices
    source.lazy_frames = _lazy_frames(path, reader)
    return source


def _lazy_frames(path: Path, reader: ImageReader) -> Iterator[LazyFrame]:
    import av
    from av.error import FFmpegError

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        number = 0
        try:
            for number, decoded in enumerate(container.decode(stream)):
                stamp_ns = _nanoseconds(decoded, number)
                load = partial(_load, decoded, stamp_ns, reader)
                yield LazyFrame(f"frame {number}", stamp_ns, load)
        except FFmpegError as error:
            reader.notices.append(
                f"the video ends early, after frame {number} ({error}); the frames before are used"
            )


def _nanoseconds(decoded: "av.VideoFrame", number: int) -> int:
    """Exact integer stamp; streams without times (raw, some MJPEG) are taken as 25 Hz."""
    if decoded.pts is None or decoded.time_base is None:
        return number * 10**9 // 25
    return int(decoded.pts * decoded.time_base * 10**9)


def _load(decoded: "av.VideoFrame", stamp_ns: int, reader: ImageReader) -> Frame:
    """Upright: phones store the rotation to apply (degrees, counter-clockwise)."""
    name = decoded.format.name.removesuffix("le").removesuffix("be")
    asked, encoding = WIDE.get(name, ("rgb24", "rgb8"))
    rgb = reader.samples(decoded.to_ndarray(format=asked), encoding)
    return Frame(np.ascontiguousarray(np.rot90(rgb, decoded.rotation // 90)), stamp_ns)
