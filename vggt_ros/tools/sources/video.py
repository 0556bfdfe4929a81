# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A video becomes stamped frames, upright, at its own presentation times."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vggt_ros.errors import UserError
from vggt_ros.frames import Frame
from vggt_ros.tools.sources.source import Sighting, Source

if TYPE_CHECKING:
    import av


def open_video(path: Path) -> Source:
    """Whatever PyAV can decode.  Raises `UserError` for anything that is no video."""
    try:
        import av
        from av.error import FFmpegError
    except ImportError:
        raise UserError("reading videos needs PyAV: pip install 'vggt_ros[tools]'") from None
    try:
        with av.open(str(path)) as container:
            streams = container.streams.video
            count = streams[0].frames if streams else None
    except (FFmpegError, OSError) as error:
        raise UserError(f"{path} is no picture, video or bag that can be read ({error})") from None
    if count is None:
        raise UserError(f"{path} has no moving pictures; give a video, pictures or a bag")
    source = Source(path, "video", "the video's presentation times", (), count or None)
    source.sightings = _sightings(path, source.notes)
    return source


def _sightings(path: Path, notes: list[str]) -> Iterator[Sighting]:
    import av
    from av.error import FFmpegError

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        number = 0
        try:
            for number, picture in enumerate(container.decode(stream)):
                stamp_ns = _nanoseconds(picture, number)
                load = partial(_load, picture, stamp_ns)
                yield Sighting(f"frame {number}", stamp_ns, load)
        except FFmpegError as error:
            notes.append(f"the video breaks off after frame {number} ({error}); kept what was read")


def _nanoseconds(picture: "av.VideoFrame", number: int) -> int:
    """Integers all the way; streams without any times (raw, some MJPEG) count at 25 Hz."""
    if picture.pts is None or picture.time_base is None:
        return number * 10**9 // 25
    return int(picture.pts * picture.time_base * 10**9)


def _load(picture: "av.VideoFrame", stamp_ns: int) -> Frame:
    """Upright: phones store how the picture must be turned (degrees, counter-clockwise)."""
    rgb = picture.to_ndarray(format="rgb24")
    return Frame(np.ascontiguousarray(np.rot90(rgb, picture.rotation // 90)), stamp_ns)
