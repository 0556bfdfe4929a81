# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt weights`: report on a checkpoint, and conversion into formats that load faster."""

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vggt_ros.errors import UserError
from vggt_ros.tools.option_sets import refuse_unused

if TYPE_CHECKING:
    from vggt_ros.model.config import Config

Head = Literal["camera", "depth", "points", "tracks"]
Target = Literal["auto", "safetensors", "npz", "orbax", "official"]
SUFFIXES = {"safetensors": ".safetensors", "npz": ".npz", "official": ".safetensors"}


def convert(
    source: str,
    to: Path | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    heads: tuple[Head, ...] = ("camera", "depth", "points", "tracks"),
    config: Path | None = None,
    partial: bool = False,
    layout: Literal["joint", "view_time", "dual_stream", "sparse_global"] | None = None,
    order: tuple[Literal["view", "time"], Literal["view", "time"]] | None = None,
    strategy: Literal["landmark", "memory_bank"] | None = None,
    format: Target = "auto",
    average: str | None = None,
    share: float = 0.5,
    dense_share: float | None = None,
) -> None:
    """Compare a checkpoint with the network; with --to, write it as one file that loads faster.

    The table counts, for every module, tensors loaded, missing, unexpected and of another shape;
    an official VGGT-1B has 1,797 of 1,797. Below it is a line for each kind with sample names and,
    where tensors may be missing, the reason. Prefixes (module., model.), nested states and the
    names of Pi3 are recognised. What is written has layers stacked and includes its configuration,
    so that `model:=FILE` is enough for a node; in every format it is the same bit for bit. An older
    file is replaced once the new one is complete.

    Args:
        source: Hub repository (facebook/VGGT-1B, or with a revision owner/name@revision),
            .safetensors, .npz or .pt file, index of shards, directory with one of them, or the
            folder of an Orbax checkpoint.
        to: Output file, or folder for orbax; without it nothing is written.
        dtype: Stored precision of encoder and aggregator; heads, norms and tokens stay float32.
        heads: Heads to keep; points can also be computed from depth and camera.
        config: config.json of a model that is not VGGT-1B and whose files do not include one.
        partial: Accept a checkpoint of which only a part fits; the rest is drawn at random, so
            that the file is a start for training and nothing else.
        layout: How the images of a scene attend to each other, instead of the file's own layout
            (docs/layouts.md). New parts start as copies of the official ones, or without an effect.
        order: Of layout view_time: which attention comes first.
        strategy: Of layout sparse_global: what stands for the patches of other images.
        format: Of the output: safetensors, npz (NumPy; bfloat16 as its bits), orbax (a folder), or
            official (safetensors with the names and layouts of the official PyTorch network, and a
            config.json beside it); auto goes by the suffix, .safetensors or .npz.
        average: A second source, of the same network: the weights before a fine-tuning. The mean of
            both is written, which often keeps what either does well.
        share: Of the second source in the mean, 0 to 1.
        dense_share: The same in the heads for depth, points and tracks, where it is another: with 1
            they are the second source's, as after a training of cameras that held their features.
    """
    given = locals()
    from vggt_ros.model import checkpoint
    from vggt_ros.model.averaging import open_averaged
    from vggt_ros.model.config import in_layout
    from vggt_ros.model.tensor_files import open_files
    from vggt_ros.model.weights import flatten

    refuse_unused(convert, given, _unused(to, average))
    kind = None if to is None else _kind(to, format)  # before the long read, not after
    paths = checkpoint.locate(source)
    files = open_files(paths)
    if config is not None:
        model = checkpoint.read_config(config)
    else:
        model = checkpoint.config_of(files, paths[0])
    model = in_layout(model, layout, order=order, strategy=strategy)
    there = checkpoint.heads_of(files)
    heads = heads if partial else tuple(head for head in heads if head in there)
    report = checkpoint.balance(model, files, heads)
    print(report)
    if to is not None and kind == "official":
        _check_config(to.parent / "config.json", model)
    try:
        report.require(partial=partial)
    except UserError as fault:
        raise UserError(f"{source}: {fault}") from fault
    if to is None or kind is None:
        return
    start = time.monotonic()
    if average is None:
        _, weights, _ = checkpoint.open_weights(paths[0], model, heads, dtype, partial=partial)
    else:
        weights = open_averaged(source, average, share, model, heads, dtype, dense_share)
    if kind == "official":
        checkpoint.save_official(to, model, weights)
    else:
        checkpoint.save(to, model, weights, kind)
    seconds, leaves = time.monotonic() - start, list(flatten(weights).values())
    files = [to] if to.is_file() else [file for file in to.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    print(
        f"{to}: {len(leaves):,} arrays, {sum(leaf.size for leaf in leaves):,} parameters,"
        f" {size / 1e9:.2f} GB in {seconds:.0f} s", file=sys.stderr,
    )  # fmt: skip


def _unused(to: Path | None, average: str | None) -> dict[str, str]:
    """Options without effect, and what to do instead."""
    unused: dict[str, str] = {}
    if to is None:
        text = "is of what is written: name the file with --to, or leave it out"
        unused |= dict.fromkeys(("dtype", "format", "average"), text)
    if average is None:
        text = "is of the mean of two: name the second source with --average"
        unused |= dict.fromkeys(("share", "dense_share"), text)
    else:
        unused["partial"] = (
            "is of one source, and --average takes the mean of two whole ones: write the first with"
            " --partial, then average that file"
        )
    return unused


def _kind(to: Path, wanted: Target) -> Literal["safetensors", "npz", "orbax", "official"]:
    """The format to write.  Raises UserError for a name that does not fit, or cannot be written."""
    if wanted == "auto":
        match to.suffix:
            case ".safetensors":
                wanted = "safetensors"
            case ".npz":
                wanted = "npz"
            case _:
                raise UserError(
                    f"{to} must end in .safetensors or .npz; for a folder say --format orbax"
                )
    if to.suffix != SUFFIXES.get(wanted, to.suffix):
        raise UserError(f"{to} must end in {SUFFIXES[wanted]}")
    if wanted == "orbax" and to.suffix in SUFFIXES.values():
        raise UserError(f"{to} has the suffix of a file; Orbax writes a folder")
    if not os.access(to.parent, os.W_OK):
        raise UserError(f"{to.parent} is no directory that can be written to")
    return wanted


def _check_config(beside: Path, model: "Config") -> None:
    """Raise UserError for a config.json of another network, which would be overwritten."""
    from vggt_ros.model.checkpoint import read_config

    if beside.exists() and read_config(beside) != model:
        raise UserError(f"{beside} is of another network; write into another folder")
