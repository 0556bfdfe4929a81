# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The images of a run as files: the originals of its source, or those on the grid of the depth.

Originals keep their names and sub-folders.  A file that other programs read as it was read here is
linked or copied; all others (frames of videos and bags, photos that are stored turned, images whose
lens was undone, of 16 bits, CMYK or a palette) are converted, as PNG of their own size.
"""

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, count
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float64
from PIL import Image

from vggt_ros.errors import UserError
from vggt_ros.frames import Frame
from vggt_ros.imaging.calibration import Rectify
from vggt_ros.tools.runs.format import SAME_GRID, Run, RunFrame
from vggt_ros.tools.sources.image_files import is_plain
from vggt_ros.tools.sources.open import open_source

Images = Literal["link", "copy", "grid"]
COMMON = frozenset(".bmp .jpeg .jpg .png .ppm .tif .tiff".split())  # read by every program


class ExportedImage(NamedTuple):
    """A file below the folder of images, and where the pixels of the depth's grid are in it."""

    name: str
    width: int
    height: int
    image_from_grid: Float64[np.ndarray, "3 3"]


def export_images(run: Run, folder: Path, how: Images) -> tuple[list[ExportedImage], str]:
    """Write the image of every frame below `folder`; the second result is a note, or empty.

    Originals are taken from the run's source; where that is gone, or the run did not keep names,
    images on the grid are written, and the note says so.  Raises `UserError` for originals that
    are not those of the run any more.
    """
    frames = [_without_arrays(frame) for frame in run.frames()]
    source = run.summary.get("source", {})
    missing = ""
    if how != "grid":
        if not all(frame.name and frame.input_size.all() for frame in frames):
            missing = "the run does not name its images (it is of an earlier version)"
        elif not Path(source["path"]).exists():
            missing = f"{source['path']} is gone"
    if how == "grid" or missing:
        exported = _on_grid(run, frames, folder)
        size = f"{exported[0].width}x{exported[0].height}" if exported else ""
        return exported, missing and f"{missing}: images are those of the network, {size}"
    return _originals(run, frames, folder, copied=how == "copy"), ""


def _without_arrays(frame: RunFrame) -> RunFrame:
    """The same without pixels, of which only the size stays."""
    none = np.broadcast_to(np.uint8(0), frame.image.shape)
    return frame._replace(image=none, depth=frame.depth[:0], confidence=frame.confidence[:0])


def _on_grid(run: Run, frames: list[RunFrame], folder: Path) -> list[ExportedImage]:
    names = _png_names([frame.name or f"{i:06d}" for i, frame in enumerate(frames)])
    exported = []
    for index, name in enumerate(names):
        image = run.frame(index).image
        _save(folder / name, image)
        exported.append(ExportedImage(name, image.shape[1], image.shape[0], SAME_GRID))
    return exported


def _originals(
    run: Run, frames: list[RunFrame], folder: Path, *, copied: bool
) -> list[ExportedImage]:
    source = run.summary["source"]
    root, is_folder = Path(source["path"]), source["kind"] == "images"
    plain = [is_folder and _is_plain(root / frame.name, frame) for frame in frames]
    both = list(zip(frames, plain, strict=True))
    kept = {frame.name for frame, same in both if same}
    written = iter(_png_names([frame.name for frame, same in both if not same], kept))
    names = [frame.name if same else next(written) for frame, same in both]
    to_convert = {}
    for frame, name, same in zip(frames, names, plain, strict=True):
        if same:
            _place(root / frame.name, folder / name, copied=copied)
        else:
            to_convert[frame.name] = (frame, folder / name)
    for decoded in _decoded(run, [*to_convert] if is_folder else None) if to_convert else ():
        if decoded.name in to_convert:
            frame, path = to_convert.pop(decoded.name)
            _check_size(frame, *decoded.rgb.shape[1::-1])
            of = decoded.rectification if frame.rectified else None
            _save(path, decoded.rgb if of is None else of.image(decoded.rgb))
        if not to_convert:
            break
    if to_convert:
        raise UserError(f"{root} has no {next(iter(to_convert))} any more; use --images grid")
    return [
        ExportedImage(name, *map(int, frame.input_size), frame.input_from_grid)
        for name, frame in zip(names, frames, strict=True)
    ]


def _is_plain(path: Path, frame: RunFrame) -> bool:
    """Whether other programs see in the file what was seen here."""
    if not path.exists():
        raise UserError(f"{path} is gone, which the run was made of; use --images grid")
    if frame.rectified or path.suffix.lower() not in COMMON:
        return False
    size, plain = is_plain(path)
    if plain:
        _check_size(frame, *size)
    return plain


def _check_size(frame: RunFrame, width: int, height: int) -> None:
    if (width, height) != tuple(frame.input_size):
        was = "x".join(map(str, frame.input_size))
        raise UserError(
            f"{frame.name} has {width}x{height} pixels but had {was} when the run was made; run"
            " again, or use --images grid"
        )


def _decoded(run: Run, names: list[str] | None) -> Iterator[Frame]:
    """The frames of the run's source, read as the run did; of a folder those of these names."""
    source, settings = run.summary["source"], run.summary.get("settings", {})
    root, rectify = Path(source["path"]), settings.get("rectify", "auto")
    options: dict[str, Any] = {
        "topic": source.get("topic") or None,
        "mono16_bits": settings.get("mono16_bits", 0),
        "mono16_black": settings.get("mono16_black", 0),
        "camera_info": Path(source["camera_info"]) if source.get("camera_info") else None,
        "rectify": rectify if rectify in get_args(Rectify) else "auto",
    }
    if cameras := source.get("cameras"):
        return _decoded_rig(root, cameras, names, options)
    if names is None:
        return iter(open_source(root, **options))
    return iter(open_source([root / name for name in names], root=root, **options))


def _decoded_rig(
    root: Path, places: Mapping[str, str], names: list[str] | None, options: dict[str, Any]
) -> Iterator[Frame]:
    """The same of a rig, one camera after the other; `places` by their names."""
    folder = options["camera_info"]
    for camera, place in places.items():
        file = folder and folder / f"{camera}.yaml"
        own = options | {"camera_info": file if file and file.exists() else None}
        if names is None:
            source = root / place, None
            if place.startswith("/"):  # a topic
                source = root, place
            for frame in open_source(source[0], **own | {"topic": source[1]}):
                yield frame._replace(name=f"{camera}/{frame.name}")
        elif mine := [root / name for name in names if name.startswith(f"{place}/")]:
            yield from open_source(mine, root=root, **own)


def _png_names(names: list[str], taken: Iterable[str] = ()) -> list[str]:
    """The names with the suffix .png; with both suffixes where that is a name already.

    `taken`: names that files have which are not converted.
    """
    stems = [_numbered(str(PurePosixPath(name).with_suffix(""))) for name in names]
    times, used, found = Counter(stems), set(taken), []
    for stem, name in zip(stems, names, strict=True):
        both = chain([f"{name}.png"], (f"{name}_{i}.png" for i in count(2)))
        candidates = both if times[stem] > 1 else chain([f"{stem}.png"], both)
        found.append(next(each for each in candidates if each not in used))
        used.add(found[-1])
    return found


def _numbered(name: str) -> str:
    """`frame 7` of a video or bag as frame_000007."""
    return re.sub(r"\b(frame|image) (\d+)$", lambda m: f"{m[1]}_{int(m[2]):06d}", name)


def _place(file: Path, target: Path, *, copied: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not copied:
        try:
            os.link(file.resolve(), target)
            return
        except OSError:  # another disk, or one without links
            pass
    shutil.copyfile(file, target)


def _save(path: Path, rgb: np.ndarray) -> None:
    """A new file: one that is there may be a link to an original, which would be overwritten."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        Image.fromarray(rgb).save(file, "PNG")
