# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt warm MODEL`: compile at install time what the node will need, into the node's cache."""

import sys
import time
from pathlib import Path
from typing import Literal

from vggt_ros.engine.shapes import needed
from vggt_ros.errors import UserError
from vggt_ros.settings import Settings


def warm(
    model: str,
    *,
    window_size: int = 4,
    stride: int = 1,
    network_width: int = 0,
    input_size: tuple[int, int] = (640, 480),
    queries: int = 0,
    baseline: bool = False,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    device: str = "auto",
    cache_dir: Path = Path("~/.cache/vggt_ros"),
) -> None:
    """Compile all programs that a node with these parameters needs; its start then loads them.

    A model of the hub is downloaded, but no weights are read. Run it again after an update of
    this package, JAX or the driver; what is there already is only loaded.

    Args:
        model: Preset, Hugging Face id, file or folder.
        window_size: Frames that are looked at together, as the node's parameter; so are the next.
        stride: New frames between two looks.
        network_width: Network pixels across; 0 is the width the model was made for.
        input_size: Width and height of the camera's pictures.
        queries: Pixels that will be tracked at a time; 0 compiles no tracks.
        baseline: The node's scale_source names baseline: a second camera's picture joins in.
        dtype: Number format of the network; auto is bfloat16 on accelerators.
        device: JAX platform (cpu, gpu); auto takes the first that is there.
        cache_dir: Where the node will look for compiled programs.
    """
    settings = Settings(
        window_size=window_size,
        stride=stride,
        network_width=network_width,
        scale_source="baseline" if baseline else "none",
    )
    if queries < 0:
        raise UserError(f"--queries {queries} is no number of pixels; 0 compiles no tracks")

    from vggt_ros.engine.compiler import HEADS, Compiler
    from vggt_ros.engine.device import choose_device, choose_dtype, keep_compiled, readable_faults
    from vggt_ros.model.checkpoint import open_config
    from vggt_ros.model.vggt import PRESETS

    cache_dir = cache_dir.expanduser()
    keep_compiled(cache_dir)
    chosen = choose_device(device)
    number = choose_dtype(dtype, chosen)
    if model in PRESETS:
        config, width = PRESETS[model].config, PRESETS[model].default_width
    else:
        config = open_config(model, HEADS)
        width = config.aggregator.img_size
    grid = settings.grid(*input_size, width)
    shapes = needed(
        (grid.height, grid.width),
        range(1, window_size + 1),
        depth_frames=settings.depth_frames,
        queries={0, queries},
        guests=settings.most_frames - window_size,
    )
    compile = Compiler(config, number, chosen, cache_dir)
    print(f"{model} in {number} for {chosen.device_kind}", file=sys.stderr)
    for i, shape in enumerate(shapes, 1):
        print(f"{i}/{len(shapes)}  {shape} ... ", end="", file=sys.stderr, flush=True)
        began = time.monotonic()
        with readable_faults(str(shape), chosen, number):
            compile(shape)
        print(f"{time.monotonic() - began:.1f} s", file=sys.stderr)
    print(f"{len(shapes)} programs are in {cache_dir}")
