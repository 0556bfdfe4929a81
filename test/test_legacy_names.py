# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Files of format version 1, whose weights have other names, load as before."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from golden_model import CONFIG, assert_equal_weights, weights

from vggt_ros.errors import UserError
from vggt_ros.model import checkpoint
from vggt_ros.model.legacy_names import current_names, drawing_order, version_1_name
from vggt_ros.model.official_names import path_name
from vggt_ros.model.tensor_files import open_files, write_safetensors
from vggt_ros.model.vggt import HEADS, SHIPPED, select_heads
from vggt_ros.model.weights import abstract, flatten

pytestmark = pytest.mark.slow

EXAMPLES = {  # today's path: name in version 1; one of each kind
    "encoder/patch_embed/kernel": "encoder/patch/kernel",
    "encoder/blocks/attn/qkv/kernel": "encoder/blocks/attn/qkv/kernel",
    "aggregator/camera_token": "tower/camera_token",
    "aggregator/stages/0/frame_blocks/attn/q_norm/scale": "tower/stages/0/frame/attn/q_norm/scale",
    "aggregator/stages/2/global_blocks/ls1/gamma": "tower/stages/2/scene/ls1/gamma",
    "camera_head/modulation/bias": "camera/modulation/bias",
    "depth_head/pyramid/resize_layers/0/kernel": "depth/pyramid/quadruple/kernel",
    "depth_head/pyramid/resize_layers/1/kernel": "depth/pyramid/double/kernel",
    "depth_head/pyramid/resize_layers/3/bias": "depth/pyramid/halve/bias",
    "depth_head/pyramid/projects/2/kernel": "depth/pyramid/project/2/kernel",
    "depth_head/output_conv2/kernel": "depth/refine/kernel",
    "point_head/pyramid/refinenets/1/residual_unit1/conv2/bias": (
        "points/pyramid/fuse/1/skip/conv2/bias"
    ),
    "point_head/pyramid/refinenets/3/residual_unit2/conv1/bias": (
        "points/pyramid/fuse/3/unit/conv1/bias"
    ),
    "point_head/pyramid/refinenets/0/out_conv/kernel": "points/pyramid/fuse/0/out/kernel",
    "point_head/predict/bias": "points/predict/bias",
    "track_head/feature_extractor/output_conv1/bias": "tracks/pyramid/out/bias",
    "track_head/fmap_norm/scale": "tracks/norm/scale",
    "track_head/query_ref_token": "tracks/reference_token",
    "track_head/vis_predictor/bias": "tracks/visibility/bias",
    "track_head/updateformer/virtual_tracks": "tracks/updater/virtual",
    "track_head/updateformer/layers/time_block/norm1/bias": "tracks/updater/rounds/time/norm1/bias",
    "track_head/updateformer/layers/space_virtual2point_block/norm_context/bias": (
        "tracks/updater/rounds/gather/norm_context/bias"
    ),
    "track_head/updateformer/layers/space_virtual_block/mlp/fc1/bias": (
        "tracks/updater/rounds/mix/mlp/fc1/bias"
    ),
    "track_head/updateformer/layers/space_point2virtual_block/attn/qkv/bias": (
        "tracks/updater/rounds/scatter/attn/qkv/bias"
    ),
    "track_head/updateformer/flow_head/kernel": "tracks/updater/predict/kernel",
}


@pytest.fixture
def old_file(tmp_path):
    """The golden network as version 1 of the format had it."""
    flat = {version_1_name(path): np.asarray(x) for path, x in flatten(weights()).items()}
    metadata = {
        "format": "vggt_ros",
        "version": "1",
        "config": json.dumps(CONFIG.to_dict()),
        "heads": json.dumps(HEADS),
    }
    write_safetensors(tmp_path / "old.safetensors", flat, metadata)
    return tmp_path / "old.safetensors"


def test_names_of_each_kind():
    paths = {path_name(path): path for path in flatten(abstract(CONFIG))}
    assert {name: version_1_name(paths[name]) for name in EXAMPLES} == EXAMPLES


def test_no_two_weights_share_a_name():
    paths = flatten(abstract(CONFIG))
    assert len({version_1_name(path) for path in paths}) == len(paths)


def test_a_file_of_version_1_has_the_same_weights(old_file):
    assert set(EXAMPLES.values()) <= open_files([old_file]).tensors.keys()
    config, found, report = checkpoint.open_weights(old_file)
    assert config == CONFIG and report.balanced
    assert_equal_weights(found, flatten(weights()))
    half = checkpoint.open_weights(old_file, heads=("depth",), dtype=jnp.bfloat16)[1]
    expected = flatten(select_heads(weights(), ("depth",)))
    needed = flatten(abstract(CONFIG, ("depth",), jnp.bfloat16))
    rounded = {path: x.astype(needed[path].dtype) for path, x in expected.items()}
    assert_equal_weights(half, rounded)


def test_a_file_of_version_1_is_read_one_tensor_at_a_time(old_file):
    files = open_files([old_file])
    current = current_names(files.tensors, flatten(abstract(CONFIG)))
    assert all(current[new] is files.tensors[old] for new, old in EXAMPLES.items())


def test_an_imbalance_of_version_1_has_todays_names(old_file):
    files = open_files([old_file])
    tensors = {name: x for name, x in files.tensors.items() if name != "tower/camera_token"}
    tensors["unknown"] = np.zeros(3, np.float32)
    report = checkpoint.balance(CONFIG, files._replace(tensors=tensors), HEADS)
    assert report.missing == ("aggregator/camera_token",) and report.unexpected == ("unknown",)
    with pytest.raises(UserError, match="aggregator/camera_token"):
        checkpoint.load(CONFIG, files._replace(tensors=tensors), HEADS)


def test_a_new_file_has_version_2_and_todays_names(old_file, tmp_path):
    checkpoint.save(tmp_path / "new.safetensors", CONFIG, checkpoint.open_weights(old_file)[1])
    files = open_files([tmp_path / "new.safetensors"])
    assert files.metadata["version"] == "2"
    assert json.loads(files.metadata["heads"]) == list(HEADS)
    assert files.tensors.keys() == {path_name(path) for path in flatten(weights())}
    assert_equal_weights(
        checkpoint.open_weights(tmp_path / "new.safetensors")[1], flatten(weights())
    )


def test_the_bundled_file_of_version_1_loads():
    files = open_files([SHIPPED])
    assert files.metadata["version"] == "1"
    _, found, report = checkpoint.open_weights(SHIPPED)
    assert report.balanced and not report.switched_off
    flat = flatten(found)
    assert {version_1_name(path) for path in flat} == files.tensors.keys()
    for path, leaf in flat.items():
        stored = np.asarray(files.tensors[version_1_name(path)]).astype(leaf.dtype)
        np.testing.assert_array_equal(leaf, stored)


def test_random_weights_are_drawn_in_the_order_of_version_1():
    names = [version_1_name(path) for path in drawing_order(reversed(list(flatten(weights()))))]
    assert names == sorted(names)  # the golden network has less than ten stages
