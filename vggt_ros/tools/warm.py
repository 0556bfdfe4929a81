# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt warm MODEL`: compile the programs of a node in advance, into its cache."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vggt_ros.engine.shapes import Shape, of_views, prepared
from vggt_ros.errors import UserError
from vggt_ros.settings import Settings

if TYPE_CHECKING:
    from vggt_ros.engine.compiler import Compiler
    from vggt_ros.model.config import Config


def warm(
    model: str,
    *,
    window_size: int = Settings.window_size,
    stride: int = Settings.stride,
    depth_frames: int = Settings.depth_frames,
    network_width: int = Settings.network_width,
    input_size: tuple[int, int] = (640, 480),
    track_queries: int = Settings.track_queries,
    cameras: int = 1,
    baseline: bool = False,
    layout: Literal["auto", "joint", "view_time", "dual_stream", "sparse_global"] = "auto",
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    device: str = "auto",
    cache_dir: Path = Path("~/.cache/vggt_ros"),
) -> None:
    """Compile all programs that a node with these parameters needs, so that its start loads them.

    A model of the hub is downloaded, but no weights are read. Run it again after an update of
    this package, JAX or the driver; programs in the cache are not compiled again.

    Args:
        model: Preset, Hugging Face id, file or folder.
        input_size: Width and height of the camera's images in pixels; of a rig the reference's.
        cameras: How many a rig has; windows are then of so many instants.
        baseline: The node's scale_source includes baseline: an inference may have an image of the
            second camera.
        layout: The node's parameter of that name; auto: as the weights say.
        dtype: Number format of the network; auto is bfloat16 on accelerators.
        device: JAX platform (cpu, gpu); auto is the first one available.
        cache_dir: The node's directory of compiled programs.
    """
    settings = Settings(
        window_size=window_size,
        stride=stride,
        depth_frames=depth_frames,
        network_width=network_width,
        track_queries=track_queries,
        scale_source="baseline" if baseline else "none",
    )
    if cameras < 1:
        raise UserError(f"--cameras {cameras}: give a number of cameras, 1 or more")
    if track_queries < 0:
        raise UserError(f"--track-queries {track_queries}: give a number of points, or 0 for none")

    from vggt_ros.engine.compiler import Compiler
    from vggt_ros.engine.device import choose_device, choose_dtype, keep_compiled

    cache_dir = cache_dir.expanduser()
    keep_compiled(cache_dir)
    chosen = choose_device(device)
    number = choose_dtype(dtype, chosen)
    config, width, heads = _network(model, None if layout == "auto" else layout)
    grid = settings.grid(*input_size, width)
    for caution in settings.cautions:
        print(caution, file=sys.stderr)
    size, with_depth = (grid.height, grid.width), settings.frames_with_depth
    if "tracks" not in heads and track_queries:
        print(f"{model} has no track head: nothing is compiled for tracks", file=sys.stderr)
        track_queries = 0
    shapes = prepared(
        size, window_size, depth_frames=with_depth, extra_views=settings.extra_views,
        track_queries=track_queries, cameras=cameras,
    )  # fmt: skip
    views = cameras if config.layout == "view_time" else 0
    shapes = of_views(shapes, views)
    compile = Compiler(config, number, chosen, cache_dir, heads=heads)
    print(f"{model} in {number} for {chosen.device_kind}", file=sys.stderr)
    _compile_all(shapes, compile, chosen, number)
    print(f"{len(shapes)} programs are in {cache_dir}")


def _network(model: str, layout: str | None) -> tuple["Config", int, tuple[str, ...]]:
    """Configuration, in a layout if one is named, usual width of images in pixels, and heads."""
    from vggt_ros.engine.compiler import HEADS, OPTIONAL_HEADS
    from vggt_ros.model.checkpoint import open_config
    from vggt_ros.model.config import in_layout
    from vggt_ros.model.vggt import PRESETS

    if model in PRESETS:
        config, width, _ = PRESETS[model]
        return in_layout(config, layout), width, HEADS
    config, heads = open_config(model, HEADS, OPTIONAL_HEADS)
    config = in_layout(config, layout)
    return config, config.aggregator.img_size, heads


def _compile_all(shapes: Sequence[Shape], compile: "Compiler", device: Any, dtype: Any) -> None:
    """Compile programs, each with a line of its time.  Raises `UserError` where one cannot be."""
    from vggt_ros.engine.device import readable_faults

    for i, shape in enumerate(shapes, 1):
        print(f"{i}/{len(shapes)}  {shape} ... ", end="", file=sys.stderr, flush=True)
        began = time.monotonic()
        with readable_faults(str(shape), device, dtype):
            compile(shape)
        print(f"{time.monotonic() - began:.1f} s", file=sys.stderr)
