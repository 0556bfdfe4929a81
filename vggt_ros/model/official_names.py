# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Official tensor names and layouts for the paths of our stacked arrays, as two tables."""

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

Path = tuple[str | int, ...]  # of a weight in the nested dict of a model


def _level(template: str) -> Callable[[re.Match], str]:
    """The reference counts pyramid levels from 1, we from 0."""
    return lambda match: template.format(int(match[1]) + 1)


# Our path -> official name, every line in turn; {row} is the place in a stack of equal layers.
RENAMES = (
    (r"^aggregator/stages/\d+/(\w+)_blocks/", r"aggregator/\1_blocks/{row}/"),
    (r"^encoder/", r"aggregator/patch_embed/"),
    (r"patch_embed/patch_embed/", r"patch_embed/patch_embed/proj/"),
    (r"^(depth|point)_head/pyramid/", r"\1_head/"),
    (r"^track_head/(?!feature_extractor/)", r"track_head/tracker/"),
    # stacks
    (r"patch_embed/blocks/", r"patch_embed/blocks/{row}/"),
    (r"/trunk/", r"/trunk/{row}/"),
    (r"updateformer/layers/(\w+)_block/", r"updateformer/\1_blocks/{row}/"),
    # cameras
    (r"/modulation/", r"/poseLN_modulation/1/"),
    # dense maps
    (r"/reduce/(\d)/", _level("/scratch/layer{}_rn/")),
    (r"/refinenets/(\d)/", _level("/scratch/refinenet{}/")),
    (r"/residual_unit(\d)/", r"/resConfUnit\1/"),
    (r"/output_conv1/", r"/scratch/output_conv1/"),
    (r"/output_conv2/", r"/scratch/output_conv2/0/"),
    (r"/predict/", r"/scratch/output_conv2/2/"),
    # tracks
    (r"tracker/feature_norm/", r"tracker/ffeat_norm/"),
    (r"tracker/feature_updater/", r"tracker/ffeat_updater/0/"),
    (r"tracker/(vis|conf)_predictor/", r"tracker/\1_predictor/0/"),
    (r"updateformer/virtual_tracks$", r"updateformer/virual_tracks"),  # sic
    (r"(updateformer/.*)/attn/qkv/kernel", r"\1/attn/in_proj_weight"),
    (r"(updateformer/.*)/attn/qkv/bias", r"\1/attn/in_proj_bias"),
    (r"(updateformer/.*)/attn/proj/", r"\1/attn/out_proj/"),
    (r"(2virtual_blocks|2point_blocks)/{row}/attn/", r"\1/{row}/cross_attn/"),
    # leaves
    (r"/(kernel|scale)$", r"/weight"),
    (r"/", r"."),
)


def official_name(path: Path) -> str:
    """The official name of an array; with "{row}" in it where the array stacks equal layers."""
    return renamed(path, RENAMES)


def renamed(path: Path, table: Iterable[tuple[str, str | Callable[[re.Match[str]], str]]]) -> str:
    """A path as text, after the substitutions (pattern, replacement) of a table, in its order."""
    name = path_name(path)
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def path_name(path: Path) -> str:
    """A path as text: the name of the array in our own files."""
    return "/".join(map(str, path))


# ---- layouts ----------------------------------------------------------------------------------


class Layout(NamedTuple):
    """How an official tensor becomes ours, and back."""

    ours: Callable[[Any], Any]
    official: Callable[[Any], Any]


AS_IS = Layout(lambda w: w, lambda w: w)
LINEAR = Layout(lambda w: w.T, lambda w: w.T)
POINTWISE = Layout(lambda w: w[:, :, 0, 0].T, lambda w: w.T[:, :, None, None])
CONV = Layout(lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1))
UPSCALE = Layout(lambda w: w.transpose(0, 2, 3, 1), lambda w: w.transpose(0, 3, 1, 2))

UPSCALE_KERNEL = r".*/resize_layers/[01]/kernel"  # transposed convolutions

# The first line that matches our path; None: `_patches` of the patch size.
LAYOUTS = (
    (r"encoder/patch_embed/kernel", None),
    (UPSCALE_KERNEL, UPSCALE),
    (
        r".*/(projects/\d|refinenets/\d/out_conv)/kernel|(depth|point)_head/predict/kernel",
        POINTWISE,
    ),
    (r".*/(resize_layers|reduce|refinenets|output_conv\d)/.*kernel", CONV),
    (r".*kernel", LINEAR),
    (r".*", AS_IS),
)


def layout_of(path: Path, patch_size: int) -> Layout:
    """The layout of the official tensors of an array."""
    name = path_name(path)
    layout = next(found for pattern, found in LAYOUTS if re.fullmatch(pattern, name))
    return layout or _patches(patch_size)


def is_upscale_kernel(name: str) -> bool:
    """Whether a path, as text, is that of a transposed convolution's kernel."""
    return re.fullmatch(UPSCALE_KERNEL, name) is not None


def _patches(size: int) -> Layout:
    """A convolution as wide as its stride, as a matrix on flattened (row, column, rgb) patches."""
    return Layout(
        lambda w: w.transpose(2, 3, 1, 0).reshape(3 * size**2, -1),
        lambda w: w.reshape(size, size, 3, -1).transpose(3, 2, 0, 1),
    )
