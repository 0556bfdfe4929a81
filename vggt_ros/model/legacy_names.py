# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Names of weights in files of format version 1, from before the reference's names were taken over.

They also fix the order in which random weights are drawn: a seed gives the same network in every
release.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from vggt_ros.model.official_names import Path, path_name, renamed

# Our path today -> the path in a file of version 1, every line in turn.
VERSION_1 = (
    (r"^encoder/patch_embed/", r"encoder/patch/"),
    (r"^aggregator/", r"tower/"),
    (r"^(tower/stages/\d+)/frame_blocks/", r"\1/frame/"),
    (r"^(tower/stages/\d+)/global_blocks/", r"\1/scene/"),
    (r"^(camera|depth)_head/", r"\1/"),
    (r"^point_head/", r"points/"),
    (r"^track_head/feature_extractor/", r"tracks/pyramid/"),
    (r"^track_head/", r"tracks/"),
    # dense maps
    (r"/pyramid/projects/", r"/pyramid/project/"),
    (r"/pyramid/resize_layers/0/", r"/pyramid/quadruple/"),
    (r"/pyramid/resize_layers/1/", r"/pyramid/double/"),
    (r"/pyramid/resize_layers/3/", r"/pyramid/halve/"),
    (r"/pyramid/refinenets/(\d)/residual_unit1/", r"/pyramid/fuse/\1/skip/"),
    (r"/pyramid/refinenets/(\d)/residual_unit2/", r"/pyramid/fuse/\1/unit/"),
    (r"/pyramid/refinenets/(\d)/out_conv/", r"/pyramid/fuse/\1/out/"),
    (r"/pyramid/output_conv1/", r"/pyramid/out/"),
    (r"^(depth|points)/output_conv2/", r"\1/refine/"),
    # tracks
    (r"^tracks/fmap_norm/", r"tracks/norm/"),
    (r"^tracks/query_ref_token$", r"tracks/reference_token"),
    (r"^tracks/corr_mlp/", r"tracks/correlation/"),
    (r"^tracks/feature_updater/", r"tracks/feature_update/"),
    (r"^tracks/vis_predictor/", r"tracks/visibility/"),
    (r"^tracks/conf_predictor/", r"tracks/confidence/"),
    (r"^tracks/updateformer/", r"tracks/updater/"),
    (r"^tracks/updater/virtual_tracks$", r"tracks/updater/virtual"),
    (r"^tracks/updater/input_norm/", r"tracks/updater/norm_in/"),
    (r"^tracks/updater/input_transform/", r"tracks/updater/embed/"),
    (r"^tracks/updater/output_norm/", r"tracks/updater/norm_out/"),
    (r"^tracks/updater/flow_head/", r"tracks/updater/predict/"),
    (r"^tracks/updater/layers/time_block/", r"tracks/updater/rounds/time/"),
    (r"^tracks/updater/layers/space_virtual2point_block/", r"tracks/updater/rounds/gather/"),
    (r"^tracks/updater/layers/space_virtual_block/", r"tracks/updater/rounds/mix/"),
    (r"^tracks/updater/layers/space_point2virtual_block/", r"tracks/updater/rounds/scatter/"),
)


def version_1_name(path: Path) -> str:
    """The name of a weight in a file of version 1."""
    return renamed(path, VERSION_1)


def current_names(tensors: Mapping[str, Any], paths: Iterable[Path]) -> dict[str, Any]:
    """Tensors of a file of version 1 under today's names.

    `paths` are those of the whole model, all heads included; unknown tensors keep their names.
    """
    current = {version_1_name(path): path_name(path) for path in paths}
    return {current.get(name, name): tensor for name, tensor in tensors.items()}


def drawing_order(paths: Iterable[Path]) -> list[Path]:
    """Paths in the order of their names in version 1, level by level, indices as numbers."""

    def key(path: Path) -> list[tuple[int, str]]:
        parts = version_1_name(path).split("/")
        return [(int(part), "") if part.isdigit() else (0, part) for part in parts]

    return sorted(paths, key=key)
