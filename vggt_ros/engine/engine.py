# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A network made callable: windows in; cameras, depth and tracks out, on the host.

The engine caches what it computed of each frame alone, so that a window that slid by one frame
costs one frame's encoder (`model/stream.py`).  The numbers are those of the full forward pass.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, partial
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float32, Int32, UInt8

from vggt_ros.engine import memory, shapes
from vggt_ros.engine.compiler import HEADS, OPTIONAL_HEADS, Compiler
from vggt_ros.engine.device import (
    Device,
    choose_device,
    choose_dtype,
    keep_compiled,
    readable_faults,
)
from vggt_ros.engine.fingerprint import fingerprint
from vggt_ros.engine.frame_cache import FrameCache
from vggt_ros.engine.interface import Compiling, InferenceResult, OutOfMemory
from vggt_ros.engine.network import open_network
from vggt_ros.engine.programs import Program, Programs
from vggt_ros.engine.selection import Selection
from vggt_ros.engine.shapes import EncoderProgram, WindowProgram, needed, padded_queries, prepared
from vggt_ros.errors import UserError
from vggt_ros.model.config import Config

Progress = Callable[[str], None]
Weights = dict


class Engine:
    """A compiled network with its weights on one device.  Used by one thread at a time.

    With `background`, a shape that is not ready is compiled while others are used: an inference
    may then cover fewer frames than asked for (the newest), or leave out tracks; where no program
    fits it raises `Compiling`.  Without, it waits.  A window that does not fit into the device's
    memory, or cannot be compiled, is not tried again: smaller ones are used, and the notice of the
    first such result gives the reason.
    """

    def __init__(
        self,
        name: str,
        config: Config,
        weights: Weights,
        *,
        device: Device,
        dtype: np.dtype,
        default_width: int,
        random: bool,
        cache_dir: Path | None = None,
        background: bool = False,
    ):
        self.name, self.device, self.dtype, self.layout = name, device, dtype, config.layout
        self.random_weights, self.default_width = random, default_width
        heads = [head for head in HEADS if head not in OPTIONAL_HEADS or "track_head" in weights]
        self._config = config
        self.trackless = "" if "tracks" in heads else f"the weights of {name} have no track head"
        compiler = self._compiler = Compiler(config, dtype, device, cache_dir, heads=heads)
        self.selection = Selection(
            Programs(compiler),
            background=background,
            faults=self._faults,
            untracked=self.trackless,
            attends_by_views=config.layout == "view_time",
        )
        self.frame_cache = FrameCache(config, device)
        self._slots = 0
        with self._faults(f"the weights of {name}"):
            self._weights = compiler.place_weights(weights)
            jax.block_until_ready(self._weights)

    @property
    def programs(self) -> Programs:
        """What is compiled, and what will be."""
        return self.selection.programs

    @property
    def compiling(self) -> tuple[str, ...]:
        """What is being compiled, then what will be, as text."""
        return self.programs.pending

    @property
    def cache_fault(self) -> str:
        """Why compiled programs are not kept for the next start; empty: they are."""
        return self._compiler.cache_fault

    @cached_property
    def fingerprint(self) -> str:
        """See `fingerprint.py`; half a second the first time."""
        with self._faults("the fingerprint of the weights"):
            return fingerprint(self._config, self._weights)

    def memory(self, size: tuple[int, int], frames: int) -> memory.Need:
        """What one pass over so many frames needs; `size` is (height, width) in network pixels."""
        return memory.needed(self._config, self._weights, self.dtype, size, frames, self.device)

    def reset(self) -> None:
        """Forget every frame; keep the compiled programs."""
        self.frame_cache.clear()

    def close(self, timeout: float) -> bool:
        """Compile no more; True if nothing is being compiled after `timeout` seconds."""
        return self.programs.stop(timeout)

    def warm(
        self,
        size: tuple[int, int],
        window_sizes: Sequence[int],
        *,
        depth_frames: int,
        queries: Sequence[int] = (0,),
        cameras: int = 1,
        progress: Progress = lambda line: None,
    ) -> None:
        """Compile what windows of `size` (height, width) network pixels will need, and wait.

        The longest of `window_sizes` is how many frames will be cached; of a rig these sizes and
        `depth_frames` count instants of `cameras` frames.
        """
        self._slots = max(self._slots, *(cameras * s for s in window_sizes))
        self.selection.cameras = cameras
        if self.selection.untracked:
            queries = (0,)
        for shape in needed(
            size, window_sizes, depth_frames=depth_frames, queries=queries, cameras=cameras
        ):
            progress(f"compiling {self.name}: {shape}")
            with self._faults(str(shape)):
                self.programs.get(self.selection.by_views(shape._replace(slots=self._slots)))

    def prepare(
        self,
        size: tuple[int, int],
        window_size: int,
        *,
        depth_frames: int,
        extra_views: int = 0,
        track_queries: int = 0,
        cameras: int = 1,
    ) -> None:
        """Have all that windows up to this size will need compiled in the background.

        `extra_views` frames more are now and then in a full window; what they need comes late, and
        what tracks up to `track_queries` points comes last. Of a rig, `window_size` and
        `depth_frames` count instants of `cameras` frames.
        Raises `Compiling` until a window of one instant can be inferred.  Calling again is cheap.
        """
        self.selection.window_size, self.selection.cameras = window_size * cameras, cameras
        self._slots = max(self._slots, window_size * cameras + 1)
        asked = prepared(
            size, window_size, depth_frames=depth_frames, extra_views=extra_views,
            track_queries=0 if self.selection.untracked else track_queries, cameras=cameras,
        )  # fmt: skip
        asked = [shape._replace(slots=self._slots) for shape in asked]
        if not self.selection.request(shapes.of_views(asked, self.selection.views)):
            raise Compiling.of(size)

    def obstacle(
        self, size: tuple[int, int], frames: int, *, depth_frames: int, queries: int
    ) -> str:
        """Why `queries` points are not tracked in a window of `frames` now; empty: they would be.

        `size` is (height, width).  In the background the program, if it is missing, is compiled
        next, once the same window runs without tracks.
        """
        shape = WindowProgram(size, self._slots, frames, depth_frames, padded_queries(queries))
        return self.selection.obstacle(self.selection.by_views(shape))

    def infer(
        self,
        frame_ids: tuple[int, ...],
        images: list[UInt8[np.ndarray, "h w 3"]],
        *,
        depth_frames: int,
        queries: Float32[np.ndarray, "n 2"] | None = None,
        query_frame: int = 0,
        views: int = 0,
    ) -> InferenceResult:
        """One forward pass over a window, oldest frame first; depth for the newest frames only.

        A frame is identified by its id: its image is read the first time only.  Of so many `views`
        the window has images instant by instant, by which layout view_time attends; 0: it has no
        such order, and is one sequence.  Raises `Compiling`,
        `OutOfMemory` or `DeviceLost`; after the first two, another inference may be tried.
        """
        size, frames = images[0].shape[:2], len(frame_ids)
        self._slots = max(self._slots, frames)
        padded = padded_queries(0 if queries is None else len(queries))
        views *= self.selection.attends_by_views
        wanted = WindowProgram(size, self._slots, frames, depth_frames, padded, views)
        slots = self._encode(frame_ids, images)
        faults: list[UserError] = []
        for shape, program in self.selection.choices(wanted, query_frame, faults):
            try:
                result = self._run(program, shape, slots, queries, query_frame)
            except OutOfMemory as error:
                self.selection.exclude(shape, error, faults)
                continue
            if faults:
                result = result._replace(notice=f"{faults[-1]}; until then a {shape} is used")
            return result
        raise faults[-1] if faults else Compiling.of(size)

    def describe(self, frame_id: int) -> Float32[np.ndarray, "d"] | None:
        """What a frame of the last inference looks like: its encoder tokens, averaged; of length 1.

        None for any other frame.  Raises `OutOfMemory` or `DeviceLost`.
        """
        with self._faults("the descriptor of a frame"):
            return self.frame_cache.describe(frame_id)

    def _encode(
        self, frame_ids: Sequence[int], images: Sequence[UInt8[np.ndarray, "h w 3"]]
    ) -> Int32[np.ndarray, "s"]:
        """The frames' slots in the cache, those that are new encoded: an instant's at once."""
        size = images[0].shape[:2]
        self.frame_cache.resize(size, self._slots)
        new = self.frame_cache.count_missing(frame_ids)
        chosen = self.selection.encoder(EncoderProgram(size, self._slots), new)
        if chosen is None:
            raise Compiling.of(size)
        shape, encode = chosen[0], partial(chosen[1], self._weights)
        with self._faults(str(shape)):
            return self.frame_cache.slots_of(frame_ids, images, encode, at_once=shape.frames > 1)

    def _run(
        self,
        program: Program,
        shape: WindowProgram,
        slots: Int32[np.ndarray, "s"],
        queries: Float32[np.ndarray, "n 2"] | None,
        query_frame: int,
    ) -> InferenceResult:
        """Run it on the newest frames; without tracks where it has none."""
        cut = len(slots) - shape.frames
        points, known = shapes.query_inputs(queries, shape.queries)
        inputs = slots[cut:], points, known, np.int32(max(query_frame - cut, 0))
        try:
            with self._faults(str(shape)):
                outputs = program(self._weights, self.frame_cache.arrays, *inputs)
                outputs = [output for output in outputs if output is not None]
                for output in outputs:
                    output.copy_to_host_async()
                pose, depth, confidence, *tracks = (np.asarray(output) for output in outputs)
        except OutOfMemory:
            with self._faults("the cache of frames"):
                self.frame_cache.wait()
            raise
        if not (given := known.sum()):
            return InferenceResult(pose, depth, confidence)
        return InferenceResult(pose, depth, confidence, *(x[:, :given] for x in tracks))

    def _faults(self, what: str) -> AbstractContextManager[None]:
        return readable_faults(what, self.device, self.dtype)


def open_engine(
    model: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    cache_dir: Path | None = None,
    seed: int = 0,
    background: bool = False,
    progress: Progress = lambda line: None,
    tracks: bool = False,
    layout: str | None = None,
) -> Engine:
    """A network ready to be warmed: `model` is a preset, a hub id or a path.

    Of the presets `small` comes with weights; the others have random ones. Weights without a track
    head serve for everything but tracks; with `tracks` they are refused. `layout` is how the images
    of a window attend to each other (docs/layouts.md), by default as the weights say.
    Raises `UserError` for a device that does not run, weights that do not fit, an unknown model.
    """
    keep_compiled(cache_dir)
    number = choose_dtype(dtype, chosen := choose_device(device))
    network = open_network(model, number, seed, progress, tracks=tracks, layout=layout)
    return Engine(
        model,
        network.config,
        network.weights,
        device=chosen,
        dtype=number,
        default_width=network.default_width,
        random=network.random,
        cache_dir=cache_dir,
        background=background,
    )
