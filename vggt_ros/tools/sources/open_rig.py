# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Opens a bag, or a folder with a folder or video of each camera, as a stream of instants."""

import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

from vggt_ros.errors import UserError
from vggt_ros.tools.sources.bag_reader import is_bag, reading
from vggt_ros.tools.sources.bags import image_topics, without_copies
from vggt_ros.tools.sources.image_files import VIDEOS
from vggt_ros.tools.sources.images import DEFAULT_RATE, natural, stamps_from_names
from vggt_ros.tools.sources.open import open_source
from vggt_ros.tools.sources.rig import RigSource
from vggt_ros.tools.sources.source import LazyFrame, Selection, Source
from vggt_ros.tools.sources.static_frames import StaticFrames, static_frames

SHOWN = 8  # names of what a folder holds, where a camera is not found in it
SAME_BEGIN = (
    "the videos are taken to begin at one moment: if they do not, cut them so that they do, as with"
    " ffmpeg -ss SECONDS -i front.mp4 cut/front.mp4"
)
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
USAGE = "give --cameras front,left, or --cameras front=/cam0/image,left=/cam1/image"


def open_rig(
    path: Path,
    cameras: str,
    *,
    rate: float | None = None,
    selection: Selection,
    sync_tolerance: float,
    min_cameras: int = 1,
    camera_info: Path | None = None,
    **reading_options: Any,
) -> RigSource:
    """Open the cameras `cameras`: NAME,... or NAME=PLACE,..., the reference first.

    Of a bag a place is an image topic, by default the one with NAME in its path; of a folder it is
    a folder of images or a video in it, by default NAME or the video of that name. `camera_info` is
    a folder with NAME.yaml of cameras; other options as in `open_source`. Raises `UserError`,
    before anything is decoded.
    """
    selection.check()
    places = parse_cameras(cameras)
    if not 0.0 <= sync_tolerance <= 1.0:
        raise UserError(f"--sync-tolerance is {sync_tolerance:g}; give seconds from 0 to 1")
    if not 1 <= min_cameras <= len(places):
        raise UserError(
            f"--min-cameras is {min_cameras}, of {len(places)} cameras; give 1 to {len(places)}"
        )
    if not path.exists():
        raise UserError(f"{path} does not exist; check the path")
    frames = StaticFrames()
    if is_bag(path):
        if rate is not None:
            raise UserError(f"--rate is for images; {path} has its own stamps: use --every")
        with reading(path, []) as bag:
            places = _topics(path, places, list(image_topics(path, bag)))
            frames = static_frames(bag, [])
    sources = {}
    for name, place in places.items():
        options = reading_options | {"camera_info": _camera_info(camera_info, name)}
        if is_bag(path):
            sources[name] = open_source(path, topic=place, **options)
            continue
        places[name] = place = _place(path, name, place)
        sources[name] = open_source(path / place, rate=rate, root=path, **options)
    kinds = {source.kind for source in sources.values()}
    if len(kinds) > 1:
        raise UserError(f"the cameras in {path} are of {' and '.join(sorted(kinds))}; use one kind")
    (kind,) = kinds
    stamps = {"bag": "message headers", "video": "the videos"}.get(kind) or _stamp(sources, rate)
    opened = RigSource(path, kind, stamps, sources, places, frames, sync_tolerance, min_cameras,
                       selection, camera_info=camera_info)  # fmt: skip
    if kind == "video":
        opened.note(SAME_BEGIN)
    return opened


def parse_cameras(text: str) -> dict[str, str]:
    """Names of the cameras, and the place of each; empty: not said.  Raises `UserError`."""
    pairs = [part.strip().partition("=") for part in text.strip("[] ").split(",")]
    places: dict[str, str] = {}
    for name, equals, place in pairs:
        if not NAME.fullmatch(name) or (equals and not place):
            raise UserError(f"--cameras {text}: '{name}{equals}' is no camera; {USAGE}")
        if name in places:
            raise UserError(f"--cameras has '{name}' twice; give each camera a name of its own")
        places[name] = place
    if len(places) < 2:
        raise UserError(
            f"--cameras {text} is one camera: leave it out, and name its folder as the source, or"
            " its --topic"
        )
    return places


def _topics(path: Path, places: Mapping[str, str], topics: list[str]) -> dict[str, str]:
    """The image topic of each camera."""
    chosen: dict[str, str] = {}
    for name, place in places.items():
        found = ["/" + place.strip("/")] if place else without_copies(
            [topic for topic in topics if name in topic.split("/")]
        )  # fmt: skip
        found = [topic for topic in found if topic in topics]
        if len(found) != 1:
            what = f"no image topic {place or f'with {name} in its path'}"
            if found:
                what = f"several image topics with {name} in their paths ({', '.join(found)})"
            raise UserError(
                f"{path} has {what}; choose with --cameras {name}=TOPIC,... from:"
                f" {', '.join(sorted(topics))}"
            )
        if found[0] in chosen.values():
            raise UserError(f"--cameras has the topic {found[0]} twice; give each camera its own")
        chosen[name] = found[0]
    return chosen


def _place(path: Path, name: str, place: str) -> str:
    """Where a camera is below a folder: its folder of images, or its video.  Raises `UserError`.

    A folder that holds nothing but one video is that video.
    """
    if not path.is_dir():
        raise UserError(
            f"{path} is one file: with --cameras give a bag, or the folder that holds a folder of"
            " images or a video of each camera"
        )
    if not place:
        films = [f.name for f in path.iterdir() if f.stem == name and f.suffix.lower() in VIDEOS]
        place = films[0] if len(films) == 1 and not (path / name).exists() else name
    found = path / place
    if not found.exists() or is_bag(found):
        held = sorted(each.name for each in path.iterdir() if not each.name.startswith("."))
        several = ", ..." if len(held) > SHOWN else ""
        raise UserError(
            f"{path} has no folder of images or video {place} of the camera {name}; choose with"
            f" --cameras {name}=PLACE,... from: {', '.join(held[:SHOWN])}{several}"
        )
    inside = [f for f in found.iterdir() if not f.name.startswith(".")] if found.is_dir() else []
    if len(inside) == 1 and inside[0].suffix.lower() in VIDEOS:
        place = f"{place}/{inside[0].name}"
    return place


def _camera_info(folder: Path | None, name: str) -> Path | None:
    """The calibration file of one camera; None where the folder has none."""
    if folder is None:
        return None
    if not folder.is_dir():
        raise UserError(
            f"--camera-info {folder} is of one camera; with --cameras give a folder with NAME.yaml"
            " of each"
        )
    file = folder / f"{name}.yaml"
    return file if file.exists() else None


def _stamp(sources: Mapping[str, Source], rate: float | None) -> str:
    """Images of one moment get one stamp where names are no times; says where stamps are from.

    They are those whose names are equal but for the camera's.
    """
    lazy = {name: list(source.lazy_frames) for name, source in sources.items()}
    stems = {name: [PurePosixPath(each.name).stem for each in lazy[name]] for name in lazy}
    named = [rate is None and stamps_from_names(found) for found in stems.values()]
    if all(named):
        return "file names"
    frames: dict[str, dict[str, LazyFrame]] = {}
    for name in lazy:
        keys = [stem.replace(name, "").strip("_-. ") for stem in stems[name]]
        frames[name] = dict(zip(keys, lazy[name], strict=True))
        if len(frames[name]) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise UserError(f"{name} has two images named {twice}; leave one")
    for name, own in frames.items():
        others = set().union(*(frames[other] for other in frames if other != name))
        if not own.keys() & others:
            raise UserError(
                f"no image of {name} ({lazy[name][0].name}) is named as one of another camera"
                f" ({', '.join(lazy[other][0].name for other in lazy if other != name)}): name"
                " images of one moment alike, or all of them by their times"
            )
    hertz = Fraction(rate or DEFAULT_RATE)
    keys = sorted(set().union(*frames.values()), key=natural)
    stamps = {key: int(i * 10**9 / hertz) for i, key in enumerate(keys)}
    for name, source in sources.items():
        own = sorted(frames[name], key=lambda key: stamps[key])
        source.lazy_frames = [frames[name][key]._replace(stamp_ns=stamps[key]) for key in own]
    assumed = "" if rate else ", assumed; set it with --rate"
    return f"{float(hertz):g} Hz{assumed}; images of one moment by their names"
