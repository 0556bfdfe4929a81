# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Images of several shapes on one grid, in one map; what is padded is no scenery."""

import numpy as np
import pytest
from fakes.planar_engine import HEIGHT, WIDTH, frames, planar_engine_of_a_run
from PIL import Image

from vggt_ros.errors import UserError
from vggt_ros.frames import Frame, Observation
from vggt_ros.imaging.fit import Fit
from vggt_ros.imaging.grid import grid_for, to_network
from vggt_ros.pipeline import Pipeline
from vggt_ros.settings import Settings
from vggt_ros.timeline import StreamGate
from vggt_ros.tools.colmap import colmap
from vggt_ros.tools.run import run

SIZES = [(640, 480), (480, 640), (1920, 1080), (300, 300), (4032, 3024), (100, 700)]
PAD, CROP = (Fit(kind, 224, 168) for kind in ("pad", "crop"))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fit", [PAD, CROP])
def test_every_shape_comes_to_one_grid_whose_map_is_that_of_its_pixels(fit: Fit, size):
    """A bright spot in the image is where the grid says that it is."""
    width, height = size
    grid = fit.grid(*size)
    rgb = np.zeros((height, width, 3), np.uint8)
    cell = min(size) // 4
    middle = np.array([0.48 * width, 0.51 * height])
    column, row = (middle - cell / 2).astype(int)
    rgb[row : row + cell, column : column + cell] = 255
    pixels = to_network(rgb, grid)
    assert pixels.shape == (168, 224, 3)
    bright = np.argwhere(pixels[..., 0] > 127).mean(0)[::-1]
    centre = np.array([[column, row]]) + (cell - 1) / 2
    np.testing.assert_allclose(grid.network_pixels(centre)[0], bright, atol=0.6)
    np.testing.assert_allclose(grid.input_pixels(grid.network_pixels(centre)), centre, atol=0.01)


@pytest.mark.parametrize("size", SIZES)
def test_padding_keeps_the_whole_image_repeats_its_edge_and_is_not_valid(size):
    width, height = size
    grid = PAD.grid(*size)
    corners = np.array([[0, 0], [width - 1, height - 1]], float)
    inside = grid.network_pixels(corners)
    assert (inside > -0.5).all() and (inside < [223.5, 167.5]).all()
    if grid.valid is None:
        assert size in ((640, 480), (4032, 3024)) and grid == grid_for(*size, 224)
        return
    share = grid.valid.mean()
    assert share == pytest.approx(min(width / height / (224 / 168), height * 224 / 168 / width),
                                  abs=0.01)  # fmt: skip
    rgb = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    pixels, rows, columns = to_network(rgb, grid), *np.nonzero(grid.valid)
    nearest_row = np.arange(168).clip(rows.min(), rows.max())[:, None]
    nearest_column = np.arange(224).clip(columns.min(), columns.max())
    np.testing.assert_array_equal(pixels, pixels[nearest_row, nearest_column])
    outside = np.argwhere(~grid.valid)[:, ::-1].astype(float)
    assert np.isnan(grid.input_pixels(outside)).any(1).all()


def test_cropping_fills_the_grid():
    for size in SIZES[:-1]:
        grid = CROP.grid(*size)
        corners = grid.input_pixels(np.array([[-0.5, -0.5], [223.5, 167.5]]))
        assert (corners > -1.0).all() and (corners < size).all() and grid.valid is None


def test_a_portrait_keeps_all_its_rows_with_pad():
    assert Fit("pad", 224, 224).grid(480, 640).valid.mean() == pytest.approx(0.75)
    assert Fit("crop", 224, 224).grid(480, 640) == grid_for(480, 640, 224)
    assert Fit("pad", 224, 224, (480, 640)).grid(480, 640) == grid_for(480, 640, 224)


def test_what_is_too_narrow_is_refused():
    with pytest.raises(UserError, match="10 x 700 is too narrow for the grid"):
        PAD.grid(10, 700)


# ---- in the pipeline


def mixed(count: int, turned: set[int]) -> list[Frame]:
    """The camera slides along a wall, and some images are taken upright."""
    return [
        frame._replace(rgb=np.ascontiguousarray(np.rot90(frame.rgb))) if i in turned else frame
        for i, frame in enumerate(frames(count))
    ]


def test_padding_has_no_depth_and_no_say_in_the_map():
    fit = Fit("pad", WIDTH, HEIGHT)
    for garbage in (1.0, 40.0):  # what the network makes of it
        engine = planar_engine_of_a_run()
        infer, valid = engine.infer, fit.grid(84, 112).valid
        assert valid is not None

        def with_garbage(*args, garbage=garbage, infer=infer, valid=valid, **options):
            result = infer(*args, **options)
            depth = result.depth.copy()
            depth[-1][~valid] *= garbage
            return result._replace(depth=depth)

        engine.infer = with_garbage
        pipeline = Pipeline(engine, Settings(), stream=StreamGate(0), fit=fit)
        for frame in mixed(8, set(range(8))):
            update = pipeline.step(Observation(frame))
            assert update is not None and update.registration.accepted
            view = update.views[-1]
            assert np.isnan(view.depth[~valid]).all() and np.isfinite(view.depth[valid]).any()
        x = [view.world_from_camera[1, 3] for view in update.views]
        np.testing.assert_allclose(np.diff(x), np.diff(x)[0], rtol=1e-4)


# ---- `vggt run`


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """Twelve photos; the fourth and the last three are taken upright."""
    monkeypatch.setattr("vggt_ros.engine.engine.open_engine",
                        lambda *_, **__: planar_engine_of_a_run())  # fmt: skip
    path = tmp_path / "in"
    path.mkdir()
    for i, frame in enumerate(mixed(12, {3, 9, 10, 11})):
        Image.fromarray(frame.rgb).save(path / f"{i}.png")
    return path


def test_a_folder_of_mixed_shapes_is_one_map_on_one_grid(folder, tmp_path):
    done = run(folder, tmp_path / "out", picture=False, quiet=True)
    assert done.summary["frames"] == 12 and done.summary["refused"] == 0
    assert [len(segment) for segment in done.segments()] == [12]
    (note,) = done.summary["notes"]
    assert note.startswith("4 of 12 images have another shape than the grid of 56x42")
    for i, frame in enumerate(done.frames()):
        upright = i in (3, 9, 10, 11)
        assert frame.depth.shape == (HEIGHT, WIDTH)
        assert frame.input_size.tolist() == ([84, 112] if upright else [112, 84])
        assert np.isnan(frame.depth[:, :10]).all() == upright  # the columns that pad an upright one
    sparse = colmap(tmp_path / "out", tmp_path / "colmap")
    sizes = [line.split()[2:4] for line in (sparse / "cameras.txt").read_text().splitlines()[1:]]
    assert sorted(sizes) == [["112", "84"], ["84", "112"]]


def test_the_grid_can_be_filled_by_cropping(folder, tmp_path):
    done = run(folder, tmp_path / "out", fit="crop", picture=False, quiet=True)
    assert [len(segment) for segment in done.segments()] == [12]
    assert "what does not fit is cut off (--fit pad keeps all of them)" in done.summary["notes"][0]
    assert all(np.isfinite(frame.depth).all() == np.isfinite(done.frame(0).depth).all()
               for frame in done.frames())  # fmt: skip


def test_a_picture_that_no_grid_takes_costs_itself(folder, tmp_path):
    Image.new("RGB", (4, 200)).save(folder / "5b.png")
    done = run(folder, tmp_path / "out", picture=False, quiet=True)
    assert done.summary["frames"] == 12 and done.summary["refused"] == 1
    assert done.summary["faults"][0].startswith("5b.png: image size 4 x 200 is too narrow")


def test_sizes_of_one_shape_are_used_as_they_come(folder, tmp_path):
    for i in range(12):
        with Image.open(folder / f"{i}.png") as image:
            half = image.rotate(-90 if image.height > image.width else 0, expand=True)
        half.resize((56, 42) if i % 2 else (112, 84)).save(folder / f"{i}.png")
    done = run(folder, tmp_path / "out", picture=False, quiet=True)
    assert [len(segment) for segment in done.segments()] == [12] and not done.summary["notes"]


def test_photos_may_be_taken_with_gaps_of_any_length(folder, tmp_path):
    for i, second in enumerate((0, 1, 2, 400, 401, 9000, 9001, 9002, 90000, 90001, 90002, 90003)):
        (folder / f"{i}.png").rename(folder / f"{1_700_000_000 + second}.png")
    done = run(folder, tmp_path / "out", picture=False, quiet=True)
    assert done.summary["frames"] == 12 and done.summary["refused"] == 0
    assert [len(segment) for segment in done.segments()] == [12]
