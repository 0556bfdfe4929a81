# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt weights`: report on a checkpoint, and conversion into one file that loads faster."""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

from vggt_ros.errors import UserError

Head = Literal["camera", "depth", "points", "tracks"]


def convert(
    source: str,
    to: Path | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    heads: tuple[Head, ...] = ("camera", "depth", "points", "tracks"),
    config: Path | None = None,
    partial: bool = False,
    layout: Literal["joint", "view_time", "dual_stream", "sparse_global"] | None = None,
) -> None:
    """Compare a checkpoint with the network; with --to, write it as one file that loads faster.

    The table counts, for every module, tensors loaded, missing, unexpected and of another shape;
    an official VGGT-1B has 1,797 of 1,797. Below it is a line for each kind with sample names and,
    where tensors may be missing, the reason. Prefixes (module., model.), nested states and the
    names of Pi3 are recognised. The file written is safetensors with layers stacked; it includes
    its configuration, so that `model:=FILE` is enough for a node.

    Args:
        source: Hub repository (facebook/VGGT-1B, or with a revision owner/name@revision),
            .safetensors or .pt file, index of shards, or directory with one of them.
        to: Output file, ending in .safetensors; without it nothing is written.
        dtype: Stored precision of encoder and aggregator; heads, norms and tokens stay float32.
        heads: Heads to keep; points can also be computed from depth and camera.
        config: config.json of a model that is not VGGT-1B and whose files do not include one.
        partial: Accept a checkpoint of which only a part fits; the rest is drawn at random, so
            that the file is a start for training and nothing else.
        layout: How the images of a scene attend to each other, instead of the file's own layout
            (docs/layouts.md). New parts start as copies of the official ones, or without an effect.
    """
    from vggt_ros.model import checkpoint
    from vggt_ros.model.tensor_files import open_files

    if to is not None and to.suffix != ".safetensors":
        raise UserError(f"{to} must end in .safetensors")
    if to is not None and not os.access(to.parent, os.W_OK):  # before the long read, not after
        raise UserError(f"{to.parent} is no directory that can be written to")
    paths = checkpoint.locate(source)
    files = open_files(paths)
    if config is not None:
        model = checkpoint.read_config(config)
    else:
        model = checkpoint.config_of(files, paths[0])
    if layout is not None:
        model = replace(model, layout=layout)
    there = checkpoint.heads_of(files)
    heads = heads if partial else tuple(head for head in heads if head in there)
    report = checkpoint.balance(model, files, heads)
    print(report)
    try:
        report.require(partial=partial)
    except UserError as fault:
        raise UserError(f"{source}: {fault}") from fault
    if to is None:
        return
    start = time.monotonic()
    _, weights, _ = checkpoint.open_weights(paths[0], model, heads, dtype, partial=partial)
    checkpoint.save(to, model, weights)
    seconds, size = time.monotonic() - start, to.stat().st_size
    print(f"{to}: {size / 1e9:.2f} GB in {seconds:.0f} s", file=sys.stderr)
