# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`VGGT.from_pretrained`: the reference's outputs under its names, in three lines."""

import re
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_model import CONFIG, TOLERANCE, case, max_error, official_file, weights
from PIL import Image

from vggt_ros.errors import UserError
from vggt_ros.model import pretrained
from vggt_ros.model.checkpoint import open_weights, save
from vggt_ros.model.vggt import PRESETS, VGGT, select_heads

NAMES = "pose_enc depth depth_conf world_points world_points_conf track vis conf".split()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The reference network from an official file."""
    return VGGT.from_pretrained(official_file(tmp_path_factory.mktemp("official")))


@pytest.fixture(scope="module")
def recorded():
    """Images (s h w 3), query points (n 2) and outputs that the reference recorded."""
    tensors = case("mini_square")
    return tensors["in.images"][0].transpose(0, 2, 3, 1), tensors["in.query_points"][0], tensors


@pytest.fixture(scope="module")
def output(model, recorded):
    images, queries, _ = recorded
    return model.eval()(images, queries)


def test_every_output_is_the_reference_s_under_its_name_and_shape(output, recorded):
    for name in NAMES:
        expected = recorded[2][f"out.{name}"]
        found = getattr(output, name)
        assert found.shape == expected.shape, name
        atol = TOLERANCE["mini_square"][f"out.{name}"]["suggested_atol"]
        assert max_error(found, expected) <= atol, name
    np.testing.assert_array_equal(output.images[0], recorded[0])
    np.testing.assert_array_equal(output.pose_enc_list[-1], output.pose_enc)


def test_the_output_is_a_mapping_and_a_pytree(output):
    assert list(output) == ["images", "pose_enc", "pose_enc_list", *NAMES[1:]]
    assert output["depth"] is output.depth and len(output) == len(dict(output)) == 10
    with pytest.raises(KeyError, match="'depths'; there are images, pose_enc"):
        output["depths"]
    doubled = jax.jit(lambda out: jax.tree.map(lambda x: 2 * x, out))(output)
    np.testing.assert_array_equal(doubled.depth, 2 * output.depth)
    shapes = jax.tree.map(jnp.shape, jax.device_get(dict(output)))
    assert shapes["depth"] == (1, 3, 56, 56, 1)


def test_scenes_and_bytes_give_the_same(model, recorded, output):
    images, queries, _ = recorded
    twice = model(np.stack([images, images]), np.stack([queries, queries]))
    assert twice.depth.shape == (2, 3, 56, 56, 1)
    assert max_error(twice.depth[1], output.depth[0]) < 1e-4
    octets = np.round(images * 255).astype(np.uint8)
    floats = model(octets.astype(np.float32) / 255, queries)
    assert max_error(model(octets, queries).depth, floats.depth) < 1e-4


@pytest.mark.parametrize(
    "shape, words",
    [
        ((3, 3, 56, 56), "move channels to the end"),
        ((56, 56, 3), "frames are"),
        ((2, 56, 57, 3), ""),
    ],
)
def test_other_shapes_are_refused(model, shape, words):
    with pytest.raises(ValueError, match=words or "multiples of 14"):
        model(np.zeros(shape, np.float32))


def test_heads_that_are_off_or_not_in_the_file_are_none(tmp_path, recorded):
    save(tmp_path / "own.safetensors", CONFIG, select_heads(weights(), ("camera", "depth")))
    found = VGGT.from_pretrained(tmp_path / "own.safetensors", heads=("depth",))
    output = found(recorded[0], recorded[1])
    assert list(output) == ["images", "depth", "depth_conf"] and output.pose_enc is None
    with pytest.raises(UserError, match="missing .e.g. point_head/"):
        VGGT.from_pretrained(tmp_path / "own.safetensors", heads=("points",))


def test_a_model_s_weights_are_those_of_its_file_in_the_dtype_asked_for(tmp_path):
    file = official_file(tmp_path)
    half = VGGT.from_pretrained(file, heads=(), dtype=jnp.bfloat16)
    tree = open_weights(file, heads=(), dtype=jnp.bfloat16)[1]
    kernel = half.encoder.blocks.mlp.fc1.kernel[...]
    assert kernel.dtype == jnp.bfloat16
    np.testing.assert_array_equal(kernel, tree["encoder"]["blocks"]["mlp"]["fc1"]["kernel"])


def test_presets_have_the_names_of_other_ports_and_warn_of_random_weights():
    assert PRESETS["vggt_tiny"] == PRESETS["tiny"] and PRESETS["vggt_base"] == PRESETS["vggt-1b"]
    with pytest.warns(UserWarning, match="vggt_tiny has random weights"):
        model = VGGT.from_pretrained("vggt_tiny", heads=("camera",))
    assert model.config == PRESETS["tiny"].config and model.depth_head is None


def test_a_download_goes_where_the_caller_says(monkeypatch, tmp_path):
    asked = {}

    def noted(source, **options):
        asked.update(options, source=source)
        return CONFIG, select_heads(weights(), ()), None

    monkeypatch.setattr(pretrained, "open_weights", noted)
    VGGT.from_pretrained("facebook/VGGT-1B", cache_dir=tmp_path)
    assert asked["source"] == "facebook/VGGT-1B" and asked["cache_dir"] == tmp_path


@pytest.mark.slow
def test_the_lines_in_the_readme_run(root, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    (lines,) = [block for block in blocks if "from_pretrained" in block]
    assert "facebook/VGGT-1B" in lines and '"second.png"])' in lines
    for name in ("first.png", "second.png"):
        Image.new("RGB", (40, 40), "grey").save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    lines = lines.replace('"second.png"])', '"second.png"], network_width=28)')
    names: dict[str, Any] = {}
    exec(lines.replace("facebook/VGGT-1B", "small"), names)
    assert names["output"].depth.shape == (1, 2, 28, 28, 1)


def test_a_layout_is_chosen_and_images_with_a_view_axis_are_attended_in_it(tmp_path):
    """T = 1 in the order time, view is the official network: compared with what it recorded."""
    source, recorded = official_file(tmp_path), case("mini_square")
    model = VGGT.from_pretrained(
        source, heads=("camera",), layout="view_time", order=("time", "view")
    )
    found = model(np.moveaxis(recorded["in.images"], 2, -1)[:, None]).pose_enc
    assert found.shape == (1, 1, 3, 9)
    atol = TOLERANCE["mini_square"]["out.pose_enc"]["suggested_atol"]
    assert max_error(found[:, 0], recorded["out.pose_enc"]) <= atol
    dual = VGGT.from_pretrained(source, heads=(), layout="dual_stream")
    assert dual.config == replace(CONFIG, layout="dual_stream")
    with pytest.raises(UserError, match="no layout is called 'views'"):
        VGGT.from_pretrained(source, layout="views")
