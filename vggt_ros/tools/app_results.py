# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A run as the files that the page of `vggt app` shows and offers."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from vggt_ros.engine.interface import caution
from vggt_ros.tools.app_images import Rgb, drawn_tracks, masked
from vggt_ros.tools.colmap import colmap
from vggt_ros.tools.export import export
from vggt_ros.tools.runs.format import Run, RunFrame, Tracks
from vggt_ros.tools.runs.overview import depth_colours
from vggt_ros.tools.runs.report import map_line, times_line

COLMAP_POINTS = 50_000  # each is listed with all images that see it
SHOWN = 24  # frames at most in each strip of the page
TRAIL = 8  # frames back that a track is drawn


class Shown(NamedTuple):
    """A reconstruction, as files that the page shows."""

    text: str  # Markdown
    scene: Path  # GLB: points and cameras
    downloads: list[Path]
    first: Path  # the first input image, to choose points in
    depth: list[Path]
    confidence: list[Path]
    masks: list[Path]


def show(done: Run, folder: Path, first: Rgb) -> Shown:
    """Write all of it into a folder; `first` is the first input image."""
    frames = done.placed_segments()[0]
    (folder / "scene").mkdir()
    scene = export(done.path, folder / "scene" / "scene.glb", to="glb")
    colmap(done.path, folder / "colmap", max_points=COLMAP_POINTS, images="copy")
    archive = shutil.make_archive(str(folder / "colmap"), "zip", folder / "colmap")
    shown = [done.frame(index) for index in _some(frames)]

    def strip(name: str, drawn: Callable[[RunFrame], Rgb]) -> list[Path]:
        images = enumerate(map(drawn, shown))
        return [save(folder / f"{name}_{i:02d}.png", image) for i, image in images]

    return Shown(
        _text(done),
        scene,
        [scene, Path(archive), write_npz(folder / "frames.npz", done, frames)],
        save(folder / "first.png", first),
        strip("depth", lambda frame: depth_colours(frame.depth)),
        strip("confidence", lambda frame: depth_colours(1 / frame.confidence)),
        strip("mask", masked),
    )


def show_tracks(done: Run, tracks: Tracks, folder: Path) -> list[Path]:
    """Frames with the tracks up to each drawn into it."""
    return [
        save(
            folder / f"track_{index:04d}.png",
            drawn_tracks(
                done.frame(index),
                tracks.tracks[max(0, index - TRAIL) : index + 1],
                tracks.visibility[index],
            ),
        )
        for index in _some(range(len(done.files)))
    ]


def save(path: Path, image: Rgb) -> Path:
    """Write an image."""
    Image.fromarray(image).save(path)
    return path


def write_npz(path: Path, done: Run, frames: Sequence[int]) -> Path:
    """Frames of one segment, stacked: the fields of `RunFrame`, and the number of each frame."""
    found = [done.frame(index) for index in frames]
    names = ("depth", "confidence", "intrinsics", "world_from_camera", "stamp_ns", "image", "name")
    with path.open("wb") as file:
        np.savez_compressed(
            file, frame=np.array(frames),
            **{name: np.stack([getattr(frame, name) for frame in found]) for name in names},
        )  # fmt: skip
    return path


def _text(done: Run) -> str:
    """What was reconstructed, and all that did not go as asked."""
    summary = done.summary
    lost = [f"{summary[kind]} {kind}" for kind in ("refused", "unreadable") if summary[kind]]
    warnings = [
        caution(summary["model"], summary["random_weights"]),
        f"images left out: {', '.join(lost)}" if lost else "",
        *summary["faults"],
        *summary["notes"],
    ]
    lines = [f"{len(done.files)} frames; {map_line(done)}", times_line(summary["times"])]
    return "\n\n".join([*lines, *(f"*{line}*" for line in warnings if line)])


def _some(frames: Sequence[int]) -> list[int]:
    return list(frames[:: -(-len(frames) // SHOWN) or 1])
