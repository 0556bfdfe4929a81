# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Pixels to ignore: masks on the network's grid, the rule for the sky, and a map without them."""

from pathlib import Path

import numpy as np
import pytest
from fakes.oracle import NONE, VGGT_LIKE
from fakes.planar_engine import HEIGHT, WIDTH, PlanarEngine, frames
from fakes.room import true_depth
from map_rig import Oracle, Ride, cameras
from PIL import Image

from vggt_ros.errors import UserError
from vggt_ros.frames import Observation
from vggt_ros.imaging.grid import grid_for, to_network
from vggt_ros.imaging.lens import Lens
from vggt_ros.imaging.masks import Masking, covered, dilated, mask_on_grid, read_mask, sky
from vggt_ros.imaging.rectify import Rectification
from vggt_ros.pipeline import Pipeline
from vggt_ros.settings import Settings

LOWER = np.s_[36:]  # rows of the oracle's image that a moving thing takes


# ---- masks on the grid --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(640, 480), (320, 240), (1280, 960), (64, 48)])
def test_a_mask_of_any_size_comes_to_the_same_pixels_of_the_grid(size: tuple[int, int]):
    """A box from a quarter to a half of the image, whatever the mask's own resolution."""
    width, height = size
    mask = np.zeros((height, width), bool)
    mask[height // 4 : height // 2, width // 4 : width // 2] = True
    grid = grid_for(640, 480)
    found = np.argwhere(mask_on_grid(mask, grid))
    low, high = found.min(0), found.max(0) + 1
    near = 0.5 + 0.5 * grid.width / width
    np.testing.assert_allclose(low, [grid.height / 4, grid.width / 4], atol=near)
    np.testing.assert_allclose(high, [grid.height / 2, grid.width / 2], atol=near)


def test_rows_that_the_grid_cuts_off_are_cut_off_the_mask():
    grid = grid_for(480, 960)  # taller than wide: the middle is kept
    mask = np.zeros((960, 480), bool)
    mask[:240] = True
    assert grid.crop_top > 0
    assert not mask_on_grid(mask, grid).any()
    mask[:480] = True
    assert abs(mask_on_grid(mask, grid).mean() - 0.5) < 0.01


@pytest.mark.parametrize("size", [(640, 480), (320, 240)])
def test_where_a_lens_is_undone_a_mask_goes_the_way_of_its_image(size: tuple[int, int]):
    """A mask of the raw image covers the pixels that show what was white under it."""
    k = np.array([[410.0, 0, 322.5], [0, 405, 236.5], [0, 0, 1]])
    lens = Lens("plumb_bob", (-0.3, 0.08, 1e-3, -2e-3))
    of = Rectification(lens, k, np.eye(3), k, 640, 480)
    grid = grid_for(640, 480)._replace(rectification=of)
    rgb = np.zeros((480, 640, 3), np.uint8)
    rgb[20:140, 40:200] = rgb[300:460, 420:620] = 255
    step = 640 // size[0]
    found = mask_on_grid(rgb[::step, ::step, 0] > 0, grid)
    white = to_network(rgb, grid)[..., 0]
    assert found.sum() > 5000
    assert (found == (white > 127))[(white == 0) | (white == 255)].mean() > 0.999
    straight = mask_on_grid(rgb[..., 0] > 0, grid_for(640, 480))
    assert (found != straight).sum() > 1000


def test_a_mask_of_another_shape_is_refused_with_both_sizes():
    with pytest.raises(UserError, match="it has 640x360 pixels, and the image 640x480"):
        mask_on_grid(np.zeros((360, 640), bool), grid_for(640, 480))


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "I;16"])
def test_a_mask_file_is_true_where_its_pixels_are_not_zero(tmp_path: Path, mode: str):
    grey = np.zeros((6, 8), np.uint8)
    grey[2, 3] = 255
    image = Image.fromarray(grey)
    image = Image.fromarray(grey.astype(np.uint16)) if mode == "I;16" else image.convert(mode)
    image.save(tmp_path / "body.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "body.png"), grey > 0)


@pytest.mark.parametrize("content, words", [(None, "No such file"), (b"no image", "not an image")])
def test_a_mask_file_that_cannot_be_read_is_an_error(tmp_path: Path, content, words: str):
    if content is not None:
        (tmp_path / "body.png").write_bytes(content)
    with pytest.raises(UserError, match=words):
        Masking(str(tmp_path / "body.png"))


# ---- the sky ------------------------------------------------------------------------------------


def outdoors(top: tuple[int, int, int], horizon: tuple[int, int, int]) -> np.ndarray:
    """Sky down to row 60, and ground below; a dark pole in column 30 reaches up to row 10."""
    random = np.random.default_rng(0)
    rgb = random.integers(40, 140, (100, 80, 3), dtype=np.uint8)
    blend = np.linspace(0, 1, 60)[:, None, None]
    sky_colour = (1 - blend) * np.array(top) + blend * np.array(horizon)
    rgb[:60] = np.clip(sky_colour + random.normal(0, 2, (60, 80, 3)), 0, 255)
    rgb[10:60, 28:33] = (60, 45, 30)
    return rgb


@pytest.mark.parametrize(
    "top, horizon",
    [((40, 90, 180), (170, 200, 235)), ((190, 192, 196), (225, 225, 226))],
    ids=["blue", "overcast"],
)
def test_the_sky_is_what_reaches_down_from_the_upper_rim(top, horizon):
    found = sky(outdoors(top, horizon))
    open_sky = np.ones((100, 80), bool)
    open_sky[60:] = open_sky[:, 28:33] = False
    assert found[open_sky].mean() > 0.97
    assert not found[62:].any() and not found[12:, 28:33].any()


def test_a_warm_wall_and_a_dark_ceiling_are_no_sky():
    assert not sky(np.full((60, 80, 3), (200, 180, 150), np.uint8)).any()
    assert not sky(np.full((60, 80, 3), (50, 55, 60), np.uint8)).any()


# ---- what the network sees ----------------------------------------------------------------------


def test_a_box_grows_to_each_side_and_corner():
    mask = np.zeros((12, 20), bool)
    mask[5, 9] = mask[0, 0] = True
    grown = dilated(mask, 3)
    expected = np.zeros((12, 20), bool)
    expected[2:9, 6:13] = expected[:4, :4] = True
    np.testing.assert_array_equal(grown, expected)
    assert dilated(np.ones((2, 2), bool), 7).all()


def test_what_is_covered_has_the_mean_colour_of_the_rest():
    rgb = np.full((40, 40, 3), (10, 20, 30), np.uint8)
    mask = np.zeros((40, 40), bool)
    mask[20, 20] = True
    rgb[13:28, 13:28] = 250
    shown = covered(rgb, mask)
    assert (shown == (10, 20, 30)).all(), "a box of seven pixels around it"
    assert (rgb[20, 20] == 250).all()
    assert (covered(rgb, np.ones((40, 40), bool)) == 127).all()


class Recorder(PlanarEngine):
    """Keeps the newest image that it is shown."""

    newest: np.ndarray

    def infer(self, frame_ids, images, **options):
        self.newest = images[-1]
        return super().infer(frame_ids, images, **options)


@pytest.mark.parametrize("cover", ["none", "box"])
def test_the_network_sees_masked_pixels_unless_they_are_to_be_covered(cover):
    mask = np.zeros((2 * HEIGHT, 2 * WIDTH), bool)
    mask[40:60, 20:40] = True
    engine = Recorder()
    pipeline = Pipeline(engine, Settings(mask_network=cover))
    for frame in frames(3):
        frame.rgb[40:60, 20:40] = 255
        update = pipeline.step(Observation(frame, mask=mask))
        assert update is not None
        inside = np.s_[22:28, 12:18]
        assert (engine.newest[inside] > 250).all() == (cover == "none")
        view = update.views[-1]
        assert (view.rgb[inside] > 250).all(), "what is published is the image as it is"
        assert np.isnan(view.depth[inside]).all() and (view.confidence[inside] == 0).all()


# ---- the map ------------------------------------------------------------------------------------


def behind_a_crowd(world_from_camera: np.ndarray) -> np.ndarray:
    """True depth, and in the lower third something that is anywhere at each look."""
    depth = true_depth(world_from_camera).copy()
    random = np.random.default_rng(round(1e6 * float(np.abs(world_from_camera).sum())))
    v, u = np.mgrid[:20, :84]
    waves = np.sin(random.uniform(0, 0.3) * u + random.uniform(0, 0.5) * v)
    depth[LOWER] = random.uniform(0.4, 4.0) * np.exp(0.5 * waves)
    return depth


def test_masked_pixels_are_in_no_depth_and_nothing_depends_on_them():
    """A crowd in the lower third: with the mask poses and depth are those of an empty room."""
    truth = cameras("room")[:60:2]
    mask = np.zeros((56, 84), bool)
    mask[LOWER] = True

    def with_mask(observation: Observation, _: int) -> Observation:
        return observation._replace(mask=mask)

    def ride(observe=lambda o, _: o, **oracle) -> Ride:
        return Ride(truth, engine=Oracle(truth, VGGT_LIKE, **oracle), observe=observe)

    crowd, empty = ride(with_mask, see=behind_a_crowd), ride(with_mask)
    for one, other in zip(crowd.updates, empty.updates, strict=True):
        np.testing.assert_array_equal(one.covariance, other.covariance)
        for view, alike in zip(one.views, other.views, strict=True):
            np.testing.assert_array_equal(view.world_from_camera, alike.world_from_camera)
            if view.depth is not None:
                np.testing.assert_array_equal(view.depth, alike.depth)
                assert np.isnan(view.depth[LOWER]).all() and (view.confidence[LOWER] == 0).all()
                assert np.isfinite(view.depth[:36]).all()
    assert not crowd.refused and crowd.share < 0.01
    unmasked = ride(see=behind_a_crowd)
    assert not np.array_equal(unmasked.centres, ride().centres)


def test_a_frame_that_is_masked_whole_does_not_stop_the_run():
    truth = cameras("arc")[:30:3]

    def all_masked(observation: Observation, i: int) -> Observation:
        return observation._replace(mask=np.full((56, 84), i in (4, 5)))

    ride = Ride(truth, NONE, observe=all_masked)
    assert len(ride.updates) == len(truth)
    assert ride.updates[-1].registration.accepted


def test_without_masks_nothing_changes():
    truth = cameras("arc")[:30:3]
    one, other = Ride(truth, VGGT_LIKE), Ride(truth, VGGT_LIKE, observe=lambda o, _: o)
    nothing = np.zeros((56, 84), bool)
    third = Ride(truth, VGGT_LIKE, observe=lambda o, _: o._replace(mask=nothing))
    for updates in zip(one.updates, other.updates, third.updates, strict=True):
        for views in zip(*(update.views for update in updates), strict=True):
            for view in views[1:]:
                np.testing.assert_array_equal(view.depth, views[0].depth)
                np.testing.assert_array_equal(view.world_from_camera, views[0].world_from_camera)


def test_a_mask_that_leaves_next_to_nothing_is_doubted(tmp_path):
    """As one whose zeros and ones are exchanged."""
    body = np.zeros((48, 64), np.uint8)
    body[40:] = 255
    grid, pixels = grid_for(64, 48, 56), np.zeros((42, 56, 3), np.uint8)
    for name, values, is_doubted in (("body", body, False), ("inverted", 255 - body, True)):
        path = tmp_path / f"{name}.png"
        Image.fromarray(values).save(path)
        masking = Masking(str(path))
        masking.of(pixels, grid)
        assert ("leave less than 20% of the image" in masking.fault) == is_doubted
