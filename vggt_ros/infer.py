# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A network made callable: windows in, cameras, depth and tracks out, on the host and only once.

The engine remembers what it computed of each frame alone, so that a window that slid by one frame
costs one frame's encoder (`model/stream.py`).  The numbers are those of the full forward pass.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, UInt8

from vggt_ros.device import Device, choose_device, choose_dtype, keep_compiled
from vggt_ros.errors import UserError
from vggt_ros.look import Compiling, Look
from vggt_ros.model.config import Config
from vggt_ros.programs import HEADS, Encode, Programs, See

Progress = Callable[[str], None]
Weights = dict
QUERY_ROOM = (16, 64, 256, 1024)  # queries are padded to one of these, so that shapes are few


class Engine:
    """A compiled network with its weights on one device.  Used by one thread at a time.

    With `background`, a shape that is not ready is compiled while others go on serving: a look
    may then cover fewer frames than asked for (the newest), or leave out tracks; where nothing
    fits it raises `Compiling`.  Without, it waits.
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
        order, group = config.aggregator.aa_order, config.aggregator.aa_block_size
        if tuple(order) != ("frame", "global") or group != 1:
            raise UserError("streaming needs a tower that alternates frame and global, one by one")
        self.name, self.config = name, config
        self.device, self.dtype = device, dtype
        self.random_weights = random
        self.default_width = default_width
        self.background = background
        self.programs = Programs(config, dtype, device, cache_dir)
        self._weights = jax.device_put(jax.tree.leaves(weights), device)
        self._slots = 0
        self.reset()

    def reset(self) -> None:
        """Forget every frame; keep the compiled programs."""
        self._memory: tuple[Array, ...] | None = None
        self._size = (0, 0)
        self._where: dict[int, int] = {}  # frame id -> slot

    def warm(
        self,
        size: tuple[int, int],
        window_sizes: Sequence[int],
        *,
        depth_frames: int,
        queries: Sequence[int] = (0,),
        progress: Progress = lambda line: None,
    ) -> None:
        """Compile what windows of `size` (height, width) network pixels will need, and wait.

        The longest of `window_sizes` says how many frames will be remembered.
        """
        self._slots = max(self._slots, *window_sizes)
        shapes = [Encode(size, self._slots)]
        for s in window_sizes:
            rooms = {query_room(n) for n in queries}
            shapes += [See(size, self._slots, s, min(depth_frames, s), n) for n in sorted(rooms)]
        for shape in shapes:
            progress(f"compiling {self.name}: {shape}")
            self.programs.get(shape)

    def look(
        self,
        frame_ids: tuple[int, ...],
        images: list[UInt8[np.ndarray, "h w 3"]],
        *,
        depth_frames: int,
        queries: Float32[np.ndarray, "n 2"] | None = None,
        query_frame: int = 0,
    ) -> Look:
        """Look at a window, oldest frame first; depth for the newest `depth_frames` only.

        A frame is known by its id: its picture is read the first time only.
        """
        self._make_room(images[0].shape[:2], len(frame_ids))
        count = 0 if queries is None else len(queries)
        frames, room, program = self._program(len(frame_ids), depth_frames, query_room(count))
        cut = len(frame_ids) - frames
        frame_ids, images = frame_ids[cut:], images[cut:]
        if room == 0 or query_frame < cut:
            count = 0
        self._remember(frame_ids, images)
        slots = np.array([self._where[key] for key in frame_ids], np.int32)
        points = np.zeros((room, 2), np.float32)
        if queries is not None:
            points[:count] = queries[:count]
        known = np.arange(room) < count
        outputs = program(
            self._weights, self._memory, slots, points, known, np.int32(max(query_frame - cut, 0))
        )
        outputs = [output for output in outputs if output is not None]
        for output in outputs:
            output.copy_to_host_async()
        pose, depth, confidence, *tracks = (np.asarray(output) for output in outputs)
        if count == 0:
            return Look(pose, depth, confidence)
        return Look(pose, depth, confidence, *(x[:, :count] for x in tracks))

    def _make_room(self, size: tuple[int, int], frames: int) -> None:
        """Memory for windows of this many frames of this size; another size forgets all."""
        if frames > self._slots or size != self._size:
            self.reset()
            self._slots = max(self._slots, frames)
        if self._memory is None:
            self._size = size
            dim, patch = self.config.aggregator.embed_dim, self.config.aggregator.patch_size
            tokens = size[0] // patch * (size[1] // patch)
            special = 1 + self.config.aggregator.num_register_tokens
            with jax.default_device(self.device):
                self._memory = tuple(
                    jnp.zeros((self._slots, n, dim), jnp.float32)
                    for n in (tokens, special + tokens)
                )

    def _program(self, frames: int, depth_frames: int, room: int) -> tuple[int, int, Callable]:
        """The program for such a window, or the nearest smaller one that is ready."""
        wanted = See(self._size, self._slots, frames, depth_frames, room)
        if not self.background:
            return frames, room, self.programs.get(wanted)
        encoder = self.programs.find(Encode(self._size, self._slots))
        smaller = [wanted, wanted._replace(queries=0)]
        for s in range(frames - 1, 0, -1):
            smaller.append(See(self._size, self._slots, s, min(depth_frames, s), 0))
        for shape in smaller if encoder else ():
            program = self.programs.find(shape) if shape == wanted else self.programs.held(shape)
            if program is not None:
                return shape.frames, shape.queries, program
        if frames > 1:
            self.programs.find(smaller[-1])
        raise Compiling(f"compiling for {self._size[1]}x{self._size[0]} pictures; frames wait")

    def _remember(
        self, frame_ids: Sequence[int], images: Sequence[UInt8[np.ndarray, "h w 3"]]
    ) -> None:
        """Encode the frames that are new, in the places of those that left."""
        self._where = {key: slot for key, slot in self._where.items() if key in frame_ids}
        free = [slot for slot in range(self._slots) if slot not in self._where.values()]
        encode = self.programs.get(Encode(self._size, self._slots))
        for key, image in zip(frame_ids, images, strict=True):
            if key not in self._where:
                self._where[key] = free.pop()
                self._memory = encode(
                    self._weights, self._memory, image, np.int32(self._where[key])
                )


def query_room(count: int) -> int:
    """The padded number of queries.  Raises `UserError` where there are too many."""
    if count == 0:
        return 0
    for room in QUERY_ROOM:
        if count <= room:
            return room
    raise UserError(f"{count} queries are too many; send at most {QUERY_ROOM[-1]}")


def open_engine(
    model: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    cache_dir: Path | None = None,
    seed: int = 0,
    background: bool = False,
    progress: Progress = lambda line: None,
) -> Engine:
    """A network ready to be warmed: `model` is a preset (random weights), a hub id or a path.

    Raises `UserError` for a device that does not run, weights that do not fit, an unknown model.
    """
    from vggt_ros.model.checkpoint import open_weights
    from vggt_ros.model.vggt import PRESETS

    keep_compiled(cache_dir)
    chosen = choose_device(device)
    number = choose_dtype(dtype, chosen)
    if model in PRESETS:
        progress(f"{model}: random weights, its geometry is noise")
        config, width = PRESETS[model]
        weights = random_weights(config, number, seed)
    else:
        progress(f"{model}: reading weights")
        config, weights, _ = open_weights(model, heads=HEADS, dtype=number)
        width = config.aggregator.img_size
    return Engine(
        model,
        config,
        weights,
        device=chosen,
        dtype=number,
        default_width=width,
        random=model in PRESETS,
        cache_dir=cache_dir,
        background=background,
    )


def random_weights(config: Config, dtype: np.dtype, seed: int = 0) -> Weights:
    """Untrained weights of the right shapes: they run at full speed and see nothing.

    Drawn by NumPy, array by array: compiling the initialisers would take longer than the model.
    """
    from vggt_ros.model.weights import abstract

    random = np.random.default_rng(seed)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = str(path[-1].key)
        if name in ("scale", "gamma"):
            return np.full(leaf.shape, 1.0 if name == "scale" else 0.1, leaf.dtype)
        if name == "bias":
            return np.zeros(leaf.shape, leaf.dtype)
        inputs = math.prod(leaf.shape[:3]) if leaf.ndim == 4 else leaf.shape[-2:][0]
        spread = inputs**-0.5 if name == "kernel" else 0.02
        return (random.standard_normal(leaf.shape, np.float32) * spread).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, abstract(config, HEADS, dtype))
