# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The network's pixel grid: bit for bit the reference's, and known by its affine map."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vggt_ros.errors import UserError
from vggt_ros.imaging.grid import grid_for, to_network
from vggt_ros.imaging.loading import load_images

GOLDEN = Path(__file__).parent / "golden"
RESULTS = json.loads((GOLDEN / "preprocess.json").read_text())["results"]
RESULTS = [row for row in RESULTS if row["mode"] in ("crop", "pad")]  # not the square loader's


def files(result):
    return [GOLDEN / "preprocess" / f"{name}.png" for name in result["files"]]


def sha256(images):
    return hashlib.sha256(images.transpose(0, 3, 1, 2).tobytes()).hexdigest()


# ---- the reference's loader -------------------------------------------------------------------


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result["key"])
def test_files_are_loaded_as_by_the_reference_bit_for_bit(result):
    images = load_images(files(result), result["mode"])
    assert list(images.transpose(0, 3, 1, 2).shape) == result["shape"]
    assert sha256(images) == result["sha256_float32"]


@pytest.mark.parametrize(
    "result",
    [x for x in RESULTS if x["mode"] == "crop" and len(x["files"]) == 1],
    ids=lambda result: result["key"],
)
def test_a_camera_frame_takes_the_same_way_as_a_file(result):
    with Image.open(files(result)[0]) as image:
        if image.mode == "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        rgb = np.asarray(image.convert("RGB"))
    seen = to_network(rgb, grid_for(rgb.shape[1], rgb.shape[0]))
    assert sha256(seen[None]) == result["sha256_uint8"]


@pytest.mark.parametrize("mode", ["crop", "pad"])
def test_files_that_are_not_images_are_named(tmp_path, mode):
    (text := tmp_path / "notes.png").write_text("not an image")
    (cut := tmp_path / "cut.png").write_bytes(files(RESULTS[0])[0].read_bytes()[:9000])
    for path in (text, cut, tmp_path / "absent.png"):
        with pytest.raises(UserError, match=path.name):
            load_images([path], mode)
    with pytest.raises(UserError, match="empty"):
        load_images([], mode)


def test_files_of_16_bits_keep_their_range_and_depth_is_refused(tmp_path):
    grey = np.arange(0, 65536, 4, np.uint16).reshape(128, 128)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "depth.tif")
    (seen,) = load_images([tmp_path / "grey.png"], network_width=126)
    assert seen[0].max() < 0.1 and 0.45 < seen.mean() < 0.55 and seen[-1].min() > 0.9
    with pytest.raises(UserError, match="floating-point"):
        load_images([tmp_path / "depth.tif"])


# ---- the grid ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(640, 480), (1920, 1080), (518, 399), (518, 385), (240, 360)])
def test_both_axes_of_the_grid_map_edges_to_edges(size):
    grid = grid_for(*size)
    corners = np.array([[-0.5, -0.5, 1], [size[0] - 0.5, size[1] - 0.5, 1]])
    mapped = corners @ grid.network_from_input.T
    cut = (grid.resized_height - grid.height) // 2
    expected = [[-0.5, -0.5 - cut], [grid.width - 0.5, grid.resized_height - 0.5 - cut]]
    np.testing.assert_allclose(mapped[:, :2], expected, atol=1e-9)
    np.testing.assert_allclose(mapped @ grid.input_from_network.T, corners, atol=1e-9)


def test_only_a_portrait_image_loses_rows_and_its_grid_has_them():
    assert grid_for(640, 480)[2:5] == (518, 392, 0)
    portrait = grid_for(240, 360)
    assert (portrait.resized_height, portrait.height, portrait.crop_top) == (784, 518, 133)
    x, y, one = portrait.network_from_input @ (0, 0, 1)
    assert y == pytest.approx(0.5 * 784 / 360 - 0.5 - 133)


def test_ties_between_patches_go_to_even():
    assert grid_for(518, 399).height == 392
    assert grid_for(518, 385).height == 392


def test_a_calibration_follows_the_pixels():
    """The image of a ray on the network's grid is the resized image of the ray."""
    grid = grid_for(240, 360, 224)
    calibration = np.array([[300.0, 0, 118.3], [0, 310.0, 181.1], [0, 0, 1]])
    ray = np.array([0.1, -0.05, 1])
    pixel = calibration @ ray
    np.testing.assert_allclose(
        grid.network_from_input @ calibration @ ray, grid.network_from_input @ pixel
    )
    blob = np.zeros((360, 240, 3), np.uint8)
    blob[120:124, 60:64] = 255  # centred on (61.5, 121.5)
    seen = to_network(blob, grid)[..., 0].astype(float)
    rows, columns = np.indices(seen.shape)
    centre = [(columns * seen).sum() / seen.sum(), (rows * seen).sum() / seen.sum()]
    expected = grid.network_from_input @ (61.5, 121.5, 1)
    np.testing.assert_allclose(centre, expected[:2], atol=0.05)  # 8-bit rounding of the filter


@pytest.mark.parametrize(
    ("size", "fault"),
    [
        ((0, 480), "invalid"),
        ((640, -1), "invalid"),
        ((4294967295, 2), "invalid"),
        ((10000, 5), "flat"),
        ((5, 10000), "taller"),
    ],
)
def test_sizes_without_a_grid_are_refused(size, fault):
    with pytest.raises(UserError, match=fault):
        grid_for(*size)
    with pytest.raises(UserError, match="multiple of 14"):
        grid_for(640, 480, 500)
