# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A network made callable: device and dtype chosen, shapes compiled, results on the host once."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float32, UInt8

from vggt_ros.errors import UserError
from vggt_ros.model.checkpoint import open_weights
from vggt_ros.model.config import Config
from vggt_ros.model.vggt import PRESETS, VGGT, Weights, functional
from vggt_ros.model.weights import abstract

Progress = Callable[[str], None]
HEADS = ("camera", "depth", "tracks")  # points come from depth and camera: more exact, and cheaper
QUERY_ROOM = (16, 64, 256, 1024)  # queries are padded to one of these, so that shapes are few


class Look(NamedTuple):
    """What the network says of one window, float32 on the host, in the window's own gauge."""

    pose_encoding: Float32[np.ndarray, "s 9"]
    depth: Float32[np.ndarray, "k h w"]  # of the newest k frames
    confidence: Float32[np.ndarray, "k h w"]
    tracks: Float32[np.ndarray, "s n 2"] | None = None  # network pixels
    visibility: Float32[np.ndarray, "s n"] | None = None
    track_confidence: Float32[np.ndarray, "s n"] | None = None


def choose_device(kind: str = "auto") -> jax.Device:
    """The device to run on, after it has run a real kernel.

    A listed GPU may still be unable to run anything (wheels built for other chips): so a product
    and a convolution are computed and checked before anything relies on it.
    """
    try:
        device = (jax.devices() if kind == "auto" else jax.devices(kind))[0]
    except RuntimeError as error:
        raise UserError(f"no device '{kind}': {error}; use device auto or cpu") from error
    a = np.arange(64, dtype=np.float32).reshape(8, 8) / 64
    try:
        with jax.default_device(device):
            product = np.asarray(jax.jit(lambda x: jnp.sin(x @ x))(a))
            blurred = np.asarray(
                jax.lax.conv(jnp.asarray(a)[None, None], jnp.ones((1, 1, 3, 3)), (1, 1), "SAME")
            )
    except Exception as error:  # whatever the runtime throws, the person needs one sentence
        raise UserError(
            f"{device.device_kind} is listed but cannot run a kernel ({str(error).splitlines()[0]});"
            " install a jaxlib built for this chip, or set device to cpu"
        ) from error
    if not np.allclose(product, np.sin(a @ a), atol=1e-2) or abs(blurred[0, 0, 1, 1] - 81 / 64) > 1e-2:
        raise UserError(f"{device.device_kind} computes wrong numbers; update its driver and jaxlib")
    return device


def choose_dtype(name: str, device: jax.Device) -> jnp.dtype:
    """`auto` is bfloat16 where the chip is made for it (an accelerator), float32 elsewhere."""
    if name == "auto":
        name = "float32" if device.platform == "cpu" else "bfloat16"
    if name not in ("float32", "bfloat16"):
        raise UserError(f"dtype is '{name}'; choose auto, float32 or bfloat16")
    return jnp.dtype(name)


def keep_compiled(cache_dir: Path | None) -> None:
    """Compiled programs are kept in `cache_dir`, so that the second start need not compile."""
    if cache_dir is None:
        return
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write compilation cache {cache_dir}: {error.strerror}; set cache_dir elsewhere"
        ) from error
    jax.config.update("jax_compilation_cache_dir", str(cache_dir))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


class Engine:
    """A compiled network with its weights on one device.  Used by one thread at a time."""

    def __init__(
        self,
        name: str,
        config: Config,
        weights: Weights,
        *,
        device: jax.Device,
        dtype: DTypeLike,
        default_width: int,
        random: bool,
    ):
        self.name = name
        self.config = config
        self.device = device
        self.dtype = dtype
        self.random_weights = random
        self.default_width = default_width
        self._weights = jax.device_put(weights, device)
        self._apply = functional(
            nnx.eval_shape(lambda: VGGT(config, heads=HEADS, dtype=dtype, rngs=nnx.Rngs(0)))
        )[0]
        self._programs: dict[tuple, Callable] = {}

    def warm(
        self,
        size: tuple[int, int],
        window_sizes: Sequence[int],
        *,
        depth_frames: int,
        queries: Sequence[int] = (0,),
        progress: Progress = lambda line: None,
    ) -> None:
        """Compile every program that windows of `size` (height, width) network pixels will need."""
        for s in window_sizes:
            for n in queries:
                progress(f"compiling {self.name}: window of {s}, {size[1]}x{size[0]}, {n} queries")
                self._program(s, size, min(depth_frames, s), n)

    def look(
        self,
        frame_ids: tuple[int, ...],
        images: list[UInt8[np.ndarray, "h w 3"]],
        *,
        depth_frames: int,
        queries: Float32[np.ndarray, "n 2"] | None = None,
        query_frame: int = 0,
    ) -> Look:
        """One forward pass over a window, oldest frame first; depth for the newest frames only."""
        count = 0 if queries is None else len(queries)
        room = query_room(count)
        program = self._program(len(images), images[0].shape[:2], depth_frames, room)
        points = np.zeros((room, 2), np.float32)
        if queries is not None:
            points[:count] = queries
        out = program(self._weights, np.stack(images), points, np.arange(room) < count, query_frame)
        host = Look(*(None if x is None else np.asarray(x) for x in out))
        if host.tracks is None or count == 0:
            return host._replace(tracks=None, visibility=None, track_confidence=None)
        assert host.visibility is not None and host.track_confidence is not None
        return host._replace(
            tracks=host.tracks[:, :count],
            visibility=host.visibility[:, :count],
            track_confidence=host.track_confidence[:, :count],
        )

    def reset(self) -> None:
        """Nothing is remembered between looks."""

    def _program(self, s: int, size: tuple[int, int], depth_frames: int, room: int) -> Callable:
        key = (s, *size, depth_frames, room)
        if key not in self._programs:

            def forward(weights: dict, images: Array, points: Array, mask: Array, query_frame: Array):
                frames = images[None].astype(jnp.float32) / 255
                out = self._apply(
                    weights,
                    frames,
                    points[None] if room else None,
                    query_mask=mask[None] if room else None,
                    query_frame=query_frame,
                )
                tracks = (
                    (out.tracks[0], out.visibility[0], out.track_confidence[0])
                    if room
                    else (None, None, None)
                )
                k = depth_frames
                return (out.pose_encoding[0], out.depth[0, -k:], out.depth_confidence[0, -k:], *tracks)

            shapes = (
                self._weights,
                jax.ShapeDtypeStruct((s, *size, 3), jnp.uint8),
                jax.ShapeDtypeStruct((room, 2), jnp.float32),
                jax.ShapeDtypeStruct((room,), jnp.bool_),
                jax.ShapeDtypeStruct((), jnp.int32),
            )
            self._programs[key] = jax.jit(forward).lower(*shapes).compile()
        return self._programs[key]


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
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    device: str = "auto",
    cache_dir: Path | None = None,
    seed: int = 0,
    progress: Progress = lambda line: None,
) -> Engine:
    """A network ready to be warmed: `model` is a preset (random weights), a hub id or a path."""
    keep_compiled(cache_dir)
    chosen = choose_device(device)
    number = choose_dtype(dtype, chosen)
    if model in PRESETS:
        progress(f"{model}: random weights, its geometry is noise")
        config, width = PRESETS[model]
        weights = random_weights(config, number, seed)
        return Engine(
            model, config, weights, device=chosen, dtype=number, default_width=width, random=True
        )
    progress(f"{model}: reading weights")
    config, weights, _ = open_weights(model, heads=HEADS, dtype=number)
    width = config.aggregator.img_size
    return Engine(
        model, config, weights, device=chosen, dtype=number, default_width=width, random=False
    )


def random_weights(config: Config, dtype: DTypeLike, seed: int = 0) -> Weights:
    """Untrained weights of the right shapes: they run at full speed and see nothing.

    Drawn by NumPy, array by array: compiling the initialisers would take longer than the model.
    """
    random = np.random.default_rng(seed)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = str(path[-1].key)
        if name in ("scale", "gamma"):
            return np.full(leaf.shape, 1.0 if name == "scale" else 0.1, leaf.dtype)
        if name == "bias":
            return np.zeros(leaf.shape, leaf.dtype)
        spread = leaf.shape[-2] ** -0.5 if name == "kernel" else 0.02
        return (random.standard_normal(leaf.shape, np.float32) * spread).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, abstract(config, HEADS, dtype))
