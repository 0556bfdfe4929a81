# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt run SOURCE --out DIR`: refuse what is wrong, then reconstruct and record what is right."""

import json
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32

from vggt_ros.engine.interface import caution
from vggt_ros.errors import UserError
from vggt_ros.frames import Frame
from vggt_ros.mapping.scale import listen_to
from vggt_ros.settings import Settings
from vggt_ros.tools.runs.format import Run, open_run
from vggt_ros.tools.runs.job import Job
from vggt_ros.tools.runs.writer import Recorder, claim
from vggt_ros.tools.sources.open import open_source
from vggt_ros.tools.sources.source import Selection

AT_A_DESK = ("fixed", "height")  # sources of scale that need no more than pictures


def run(
    source: Path | Sequence[Path],
    out: Path,
    *,
    model: str = "small",
    window_size: int = 4,
    stride: int = 1,
    network_width: int = 0,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    device: str = "auto",
    intrinsics: Literal["model", "camera_info"] = "model",
    min_confidence: float = 1.5,
    scale_source: str = "none",
    camera_height: float = 0.0,
    fixed_scale: float = 0.0,
    queries: Path | None = None,
    topic: str | None = None,
    rate: float | None = None,
    every: int = 1,
    start: float = 0.0,
    stop: float | None = None,
    max_frames: int | None = None,
    max_points: int = 1_000_000,
    picture: bool = True,
    overwrite: bool = False,
    cache_dir: Path | None = Path("~/.cache/vggt_ros"),
    seed: int = 0,
    quiet: bool = False,
) -> Run:
    """Reconstruct a folder of pictures, a video or a bag, and write it as a run directory.

    Everything that can be wrong with the arguments is refused before the network is opened.

    Args:
        source: Folder of pictures, picture files, video, rosbag2 (mcap, sqlite3) or ROS 1 bag.
        out: Directory to write; an earlier run in it is replaced.
        model: Preset, Hugging Face id, file or folder.
        window_size: Frames that are looked at together.
        stride: New frames between two looks.
        network_width: Network pixels across; 0 is the width the model was made for.
        dtype: Number format of the network; auto is bfloat16 on accelerators.
        device: JAX platform (cpu, gpu); auto takes the first that is there.
        intrinsics: Whose focal lengths and centres: the network's, or the bag's CameraInfo.
        min_confidence: Pixels below it become NaN; 1 means "no evidence".
        scale_source: What makes units metres: fixed or height; none leaves them arbitrary.
        camera_height: Metres of the camera above the ground, for scale source height.
        fixed_scale: Metres per unit of the first window, for scale source fixed.
        queries: JSON list of [u, v], pixels of the first image to follow through all frames.
        topic: Which of a bag's image topics.
        rate: Pictures a second, for pictures whose names are no times.
        every: Take every n-th frame only.
        start: Seconds from the first frame to begin at.
        stop: Seconds from the first frame to end before.
        max_frames: Frames at most.
        max_points: Points of points.ply at most.
        picture: Also draw picture.png.
        overwrite: Write into a directory that holds something else.
        cache_dir: Where compiled programs are kept for the next start.
        seed: Seed of random weights, for presets that have no others.
        quiet: No progress bar.
    """
    settings = Settings(
        window_size=window_size,
        stride=stride,
        network_width=network_width,
        min_confidence=min_confidence,
        intrinsics=intrinsics,
        scale_source=scale_source,
        camera_height=camera_height,
        fixed_scale=fixed_scale,
    )
    for name in listen_to(scale_source).trusted:
        if name not in AT_A_DESK:
            raise UserError(
                f"scale source '{name}' needs a robot, whose node listens to it; at a desk use"
                f" {' or '.join(AT_A_DESK)}"
            )
    opened = open_source(
        source,
        topic=topic,
        rate=rate,
        selection=Selection(every, start, stop, max_frames),
    )
    wanted = None if queries is None else read_queries(queries)
    if out.resolve() == opened.path.resolve():
        raise UserError(f"--out {out} is the source itself; choose another directory")
    claim(out, overwrite=overwrite)
    frames = iter(opened)
    first = next(frames)
    if wanted is not None:
        check_inside(wanted, first)

    from vggt_ros.engine.engine import open_engine

    cache_dir = cache_dir and cache_dir.expanduser()
    say = (lambda _: None) if quiet else (lambda line: print(line, file=sys.stderr))
    engine = open_engine(
        model, dtype=dtype, device=device, cache_dir=cache_dir, seed=seed, progress=say
    )
    if words := caution(engine.name, engine.random_weights):
        say(words)
    with Recorder(out, {"interrupted": True}, overwrite=overwrite) as recorder:
        job = Job(engine, settings, opened, recorder, wanted, max_points)
        job.drive(chain([first], frames), picture=picture, quiet=quiet)
    done = open_run(out)
    say(f"{len(done.files)} frames, {job.points:,} points; look at them: vggt view {out}")
    return done


def read_queries(path: Path) -> Float32[np.ndarray, "n 2"]:
    """Pixels to follow, from a JSON list of [u, v]."""
    try:
        queries = np.array(json.loads(path.read_text()), np.float32)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not a JSON list of [u, v]: {error}") from None
    if queries.ndim != 2 or queries.shape[1] != 2 or not np.isfinite(queries).all():
        raise UserError(f"{path} is not a JSON list of [u, v]; write for example [[320, 240]]")
    return queries


def check_inside(queries: Float[np.ndarray, "n 2"], first: Frame) -> None:
    """Raises `UserError` for a pixel that the first image does not have."""
    height, width = first.rgb.shape[:2]
    outside = (
        (queries < -0.5).any(1) | (queries[:, 0] > width - 0.5) | (queries[:, 1] > height - 0.5)
    )
    if outside.any():
        u, v = queries[outside][0]
        raise UserError(f"query [{u:g}, {v:g}] lies outside the first image of {width}x{height}")
