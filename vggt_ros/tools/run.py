# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt run SOURCE --out DIR`: reconstruct images, a video or a bag into a run directory."""

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

from vggt_ros.engine.interface import caution
from vggt_ros.errors import UserError
from vggt_ros.frames import Instant
from vggt_ros.imaging.calibration import Rectify
from vggt_ros.imaging.grid import grid_for
from vggt_ros.settings import Settings
from vggt_ros.tools.runs.checks import check_first, open_images, read_queries, settings_among
from vggt_ros.tools.runs.format import Run, open_run
from vggt_ros.tools.runs.job import Job
from vggt_ros.tools.runs.network import Engine
from vggt_ros.tools.runs.one_pass import plan
from vggt_ros.tools.runs.recording import RecordedEngine
from vggt_ros.tools.runs.report import left_out_line, map_line, times_line
from vggt_ros.tools.runs.rig import rig_lines
from vggt_ros.tools.runs.writer import RunWriter, make_run_directory
from vggt_ros.tools.sources.ahead import ReadAhead
from vggt_ros.tools.sources.fitting import Fitting, choose_fit
from vggt_ros.tools.sources.images import Order
from vggt_ros.tools.sources.source import Selection, Source
from vggt_ros.windows.instants import TOLERANCE

RECORD = ".record"  # in the output directory, until the run is done


def run(
    source: Path | Sequence[Path],
    out: Path,
    *,
    model: str = "small",
    window_size: int = Settings.window_size,
    stride: int = Settings.stride,
    depth_frames: int = Settings.depth_frames,
    network_width: int = Settings.network_width,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    device: str = "auto",
    intrinsics: Literal["auto", "model", "camera_info"] = Settings.intrinsics,
    rectify: Rectify = Settings.rectify,
    min_confidence: float = Settings.min_confidence,
    scale_source: str = Settings.scale_source,
    camera_height: float = Settings.camera_height,
    fixed_scale: float = Settings.fixed_scale,
    loops: bool = Settings.loops,
    mono16_bits: int = Settings.mono16_bits,
    mono16_black: int = Settings.mono16_black,
    mask_file: str = Settings.mask_file,
    mask_sky: bool = Settings.mask_sky,
    mask_network: Literal["none", "box"] = Settings.mask_network,
    all: bool = False,
    queries: Path | None = None,
    topic: str | None = None,
    cameras: str = "",
    sync_tolerance: float = TOLERANCE,
    min_cameras: int = 1,
    camera_info: Path | None = None,
    rate: float | None = None,
    order: Order = "auto",
    fit: Fitting = "auto",
    every: int = 1,
    start: float = 0.0,
    stop: float | None = None,
    max_frames: int | None = None,
    max_points: int = 1_000_000,
    fuse: bool = True,
    picture: bool = True,
    overwrite: bool = False,
    resume: bool = True,
    cache_dir: Path | None = Path("~/.cache/vggt_ros"),
    seed: int = 0,
    quiet: bool = False,
    engine: Engine | None = None,
) -> Run:
    """Reconstruct a folder of images, a video or a bag, and write a run directory.

    All arguments are checked before the network is loaded. Without a robot, scale_source is fixed,
    height or none.

    Args:
        source: Folder of images, image files, video, rosbag2 (mcap, sqlite3) or ROS 1 bag.
        out: Output directory; an earlier run in it is replaced.
        model: Preset, Hugging Face id, file or folder.
        dtype: Number format of the network; auto is bfloat16 on accelerators.
        device: JAX platform (cpu, gpu); auto is the first one available.
        all: One pass of the network over all frames, as the official demo does, instead of windows
            that slide. The memory it needs is told before it starts; more frames than fit are
            refused, with the largest number that does.
        queries: File with a JSON list of [u, v], pixels of the first image to track in all frames.
        topic: Image topic of the bag, if it has several.
        cameras: Names of a rig's cameras, commas between, the reference first: front,left. Of a bag
            those are the image topics with these names in their paths, else front=/cam0/image,...;
            of a folder its folders (or videos) of these names, else front=FOLDER,... Their images
            are seen together (docs/rigs.md), and frames, stride and window_size count instants.
        sync_tolerance: Seconds by which stamps of a rig's images differ at most in one instant.
        min_cameras: Cameras of a rig that an instant has at least.
        camera_info: Calibration file (yaml of camera_calibration), instead of the bag's CameraInfo;
            of a rig a folder with NAME.yaml of each camera.
        rate: Images a second, for image files whose names are not times.
        order: Of image files: natural (frame9 before frame10), given, or time (when they were
            taken). A folder is in natural order, files are in the order given.
        fit: How images of several shapes come to one grid: pad keeps the whole image, crop fills
            the whole grid. auto pads where shapes differ; a bag's other size is another camera.
        every: Use every n-th frame.
        start: First frame to use, in seconds from the first frame of the source.
        stop: End of the frames to use (exclusive), in seconds from the first frame of the source.
        max_frames: Maximum number of frames.
        max_points: Maximum number of points in points.ply.
        fuse: In points.ply and the picture, move the depth of all frames to one surface; the
            frames themselves keep the network's depth.
        picture: Also draw the overview image, picture.png.
        overwrite: Allow an output directory that holds other files.
        resume: Keep what the network answered in the output directory until the run is done, so
            that the same command goes on after Ctrl-C; its results are those of one run.
        cache_dir: Directory of compiled programs, reused by later starts.
        seed: Seed of random weights, for presets without trained ones.
        quiet: Print neither progress nor messages.
        engine: From Python, for several runs: one that is open, instead of `model` and its options.
    """
    settings = settings_among(locals(), is_rig=bool(cameras))
    opened = open_images(
        source, cameras, topic=topic, order=order, fit=fit, one_pass=all,
        sync_tolerance=sync_tolerance, min_cameras=min_cameras, rate=rate,
        selection=Selection(every, start, stop, max_frames), mono16_bits=mono16_bits,
        mono16_black=mono16_black, camera_info=camera_info, rectify=rectify,
    )  # fmt: skip
    pixels = None if queries is None else read_queries(queries)
    if out.resolve() == opened.path.resolve():
        raise UserError(f"--out {out} is the source itself; choose another directory")
    make_run_directory(out, overwrite=overwrite)
    log = (lambda _: None) if quiet else (lambda line: print(line, file=sys.stderr))
    with ReadAhead(opened) as frames:
        head = next(frames)
        first = head.observations[0].frame if isinstance(head, Instant) else head
        check_first(first, opened.notes, intrinsics, rectify, pixels)
        if engine is None:
            from vggt_ros.engine.engine import open_engine

            cache_dir = cache_dir and cache_dir.expanduser()
            engine = open_engine(  # pyright: ignore[reportAssignmentType] (a cached property)
                model, dtype=dtype, device=device, cache_dir=cache_dir, seed=seed, progress=log,
                tracks=pixels is not None,
            )  # fmt: skip
        if warning := caution(engine.name, engine.random_weights):
            log(warning)
        if seed and not engine.random_weights:
            opened.note(f"--seed {seed} is not used: {engine.name} has trained weights")
        width, size = network_width or engine.default_width, first.rgb.shape[1::-1]
        one_grid = one_pass = None  # of a rig its first image decides
        if isinstance(opened, Source):
            one_grid = choose_fit(fit, opened, size, width)
        if all:
            grid = one_grid.grid(*size) if one_grid else grid_for(*size, width)
            one_pass, settings = plan(engine, settings, (grid.height, grid.width), opened.total)
        with RunWriter(out, {"interrupted": True}, overwrite=overwrite) as writer:
            record = _record(engine, out, log, is_kept=resume and not all)
            job = Job(
                record or engine, settings, opened, writer, pixels, max_points, one_grid,
                fuse=fuse, one_pass=one_pass,
            )  # fmt: skip
            job.run(chain([head], frames), overview=picture, quiet=quiet)
    if record is not None:
        record.forget()
    done = open_run(out)
    for line in _outcome(job, done):
        log(line)
    return done


def _record(
    engine: Engine, out: Path, log: Callable[[str], object], *, is_kept: bool
) -> RecordedEngine | None:
    """The engine with its answers kept in `out`; None, and none are left, unless they are kept."""
    if not is_kept:
        shutil.rmtree(out / RECORD, ignore_errors=True)
        return None
    record = RecordedEngine(engine, out / RECORD)
    if record.found:
        log(f"going on: {record.found} inferences of the interrupted run are reused")
    return record


def _outcome(job: Job, done: Run) -> Iterator[str]:
    """What became of a run, line by line."""
    yield map_line(done)
    yield from rig_lines(job.rig)
    yield times_line(done.summary["times"])
    for warning in filter(None, (job.pieces, job.attention.warning)):
        yield f"warning: {warning}"
    if lost := left_out_line(done):
        yield lost
    yield f"{len(done.files)} frames, {job.points:,} points; to view them: vggt view {done.path}"
