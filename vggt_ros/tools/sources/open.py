# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Opens images, a video or a bag as a stream of frames, without ROS."""

import re
from collections.abc import Sequence
from pathlib import Path

from vggt_ros.errors import UserError, install_extra
from vggt_ros.imaging.calibration import Calibration, CameraReader, Rectify, from_yaml
from vggt_ros.imaging.reader import ImageReader
from vggt_ros.tools.runs.format import is_run
from vggt_ros.tools.sources import images
from vggt_ros.tools.sources.bag_reader import is_bag
from vggt_ros.tools.sources.bags import open_bag
from vggt_ros.tools.sources.image_files import is_turned
from vggt_ros.tools.sources.images import Order
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
    order: Order = "auto",
    root: Path | None = None,
    selection: Selection = ALL,
    mono16_bits: int = 0,
    mono16_black: int = 0,
    camera_info: Path | None = None,
    rectify: Rectify = "auto",
) -> Source:
    """Open a folder of images, image files, a video, a rosbag2 or a ROS 1 bag.

    `topic` selects one of a bag's image topics; `rate` (Hz) stamps images; `order`
    and `root` as in `open_images`; `mono16_bits`, `mono16_black` and `rectify` as in `Settings`;
    `camera_info` is a file with the calibration, instead of the bag's own.  Raises `UserError` for
    a missing, unknown or ambiguous source, before anything is decoded.
    """
    selection.check()
    paths = [source] if isinstance(source, Path) else list(source)
    if not paths:
        raise UserError("no source given; name a folder of images, a video or a bag")
    for path in paths:
        _check_is_there(path)
        if is_run(path):
            raise UserError(
                f"{path} is the result of a run, not a source; to see it: vggt view {path}"
            )
    path, reader = paths[0], ImageReader(mono16_bits, mono16_black)
    if topic is not None and not is_bag(path):
        raise UserError(f"--topic is for bags and {path} is none; omit it")
    if is_bag(path) or not images.are_images(path):
        if len(paths) > 1:
            raise UserError(f"several sources must all be images, and {path} is none")
        if rate is not None:
            raise UserError(f"--rate is for images; {path} has its own stamps: use --every")
        if order != "auto":
            raise UserError(f"--order is for images; {path} has its own: omit it")
        opened = open_bag(path, reader, topic) if is_bag(path) else open_video(path, reader)
    else:
        opened = images.open_images(paths, reader, rate, order, root)
    opened.selection = selection
    opened.camera_reader = CameraReader(opened.topic, rectify)
    if camera_info is not None:
        calibration = read_camera_info(camera_info)
        opened.calibration_of = lambda camera: calibration
        opened.camera_info = camera_info
        _note_turned(opened)
    return opened


def _note_turned(source: Source) -> None:
    """A file's calibration may be of the sensor's pixels, or of those that a viewer shows."""
    if source.kind != "images":
        return
    files = [source.path / each.name for each in source.lazy_frames]
    if turned := sum(map(is_turned, files)):
        source.note(
            f"{turned} of {len(files)} images are stored turned (EXIF): --camera-info is taken as"
            " that of the upright images, as OpenCV reads them; is it of the sensor's, turn them"
            " for good (exiftran -ai, mogrify -auto-orient) and calibrate with those"
        )


def _check_is_there(path: Path) -> None:
    """Raises `UserError` for what is no file and no folder."""
    record = "only files are read; record it, as with ffmpeg -i {} -t 60 clip.mp4, and give that"
    if not path.exists():
        if re.match(r"\w+:/", str(path)):  # a path has one slash of the two
            raise UserError(f"{path} is an address: {record.format('ADDRESS')}")
        advice = "check the path"
        if {*str(path)} & {*"*?["}:
            advice = "leave out the quotes, so that the shell replaces the pattern by file names"
        raise UserError(f"{path} does not exist; {advice}")
    if not (path.is_file() or path.is_dir()):
        raise UserError(f"{path} is a device or a pipe: {record.format(path)}")


def read_camera_info(path: Path) -> Calibration:
    """A calibration file, as camera_calibration writes it.  Raises `UserError`."""
    try:
        from ruamel.yaml import YAML, YAMLError  # comes with rosbags
    except ImportError:
        raise UserError(
            f"reading --camera-info needs ruamel.yaml; install it {install_extra('tools')}"
        ) from None
    try:
        return from_yaml(YAML(typ="safe").load(path.read_text()))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (YAMLError, UserError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not used: {error}") from None
