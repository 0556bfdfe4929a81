# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Opens images, a video or a bag as a stream of frames, without ROS."""

from collections.abc import Sequence
from pathlib import Path

from vggt_ros.errors import UserError
from vggt_ros.imaging.reader import ImageReader
from vggt_ros.tools.sources import images
from vggt_ros.tools.sources.bags import is_bag, open_bag
from vggt_ros.tools.sources.source import Selection, Source
from vggt_ros.tools.sources.video import open_video

CLIP = Path(__file__).parents[2] / "assets/clip/bag"
"""The bundled clip: a robot's drive through a synthetic room."""

ALL = Selection()


def open_source(
    source: Path | Sequence[Path],
    *,
    topic: str | None = None,
    rate: float | None = None,
    selection: Selection = ALL,
    mono16_bits: int = 0,
    mono16_black: int = 0,
) -> Source:
    """Open a folder of images, image files, a video, a rosbag2 or a ROS 1 bag.

    `topic` selects one of a bag's image topics; `rate` (Hz) stamps images; `mono16_bits` and
    `mono16_black` as in `Settings`.  Raises `UserError` for a missing, unknown or ambiguous source,
    before anything is decoded.
    """
    selection.check()
    paths = [source] if isinstance(source, Path) else list(source)
    if not paths:
        raise UserError("no source given; name a folder of images, a video or a bag")
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist; check the path")
    path, reader = paths[0], ImageReader(mono16_bits, mono16_black)
    if topic is not None and not is_bag(path):
        raise UserError(f"--topic is for bags and {path} is none; omit it")
    if is_bag(path) or not images.are_images(path):
        if len(paths) > 1:
            raise UserError(f"several sources must all be images, and {path} is none")
        if rate is not None:
            raise UserError(f"--rate is for images; {path} has its own stamps: use --every")
        opened = open_bag(path, reader, topic) if is_bag(path) else open_video(path, reader)
    else:
        opened = images.open_images(paths, reader, rate)
    opened.selection = selection
    return opened
