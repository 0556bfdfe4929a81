# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Lenses and rectified images, held to OpenCV's."""

import cv2
import numpy as np
import pytest
from fakes.planar_engine import PlanarEngine

from vggt_ros.errors import UserError
from vggt_ros.frames import Frame, Observation, WindowFrame
from vggt_ros.imaging.grid import grid_for, to_network
from vggt_ros.imaging.lens import Lens, lens_of
from vggt_ros.imaging.rectify import Rectification
from vggt_ros.pipeline import Pipeline
from vggt_ros.settings import Settings

WIDTH, HEIGHT = 640, 480
K = np.array([[410.0, 0, 322.5], [0, 405, 236.5], [0, 0, 1]])
FISHEYE_K = np.array([[244.0, 0, 321.5], [0, 245, 238.5], [0, 0, 1]])  # 150 degrees across
LENSES = {
    "plumb_bob 4": Lens("plumb_bob", (-0.3, 0.08, 1e-3, -2e-3)),
    "plumb_bob 5": Lens("plumb_bob", (-0.3, 0.09, 1e-3, -2e-3, -0.01)),
    "rational 8": Lens(
        "rational_polynomial", (0.516, -2.66, 6e-4, -4e-5, 1.54, 0.394, -2.49, 1.46)
    ),
    "rational 12": Lens(
        "rational_polynomial",
        (0.516, -2.66, 6e-4, -4e-5, 1.54, 0.394, -2.49, 1.46, 2e-3, -1e-3, 1e-3, 5e-4),
    ),
    "rational 14": Lens(
        "rational_polynomial",
        (-0.25, 0.07, 2e-4, -3e-4, 0.0, 0.0, 0.0, 0.0, 2e-3, -1e-3, 1e-3, 5e-4, 0.02, -0.03),
    ),
    "equidistant": Lens("equidistant", (0.02, -0.01, 0.003, -0.001)),
}


def turned(degrees: float) -> np.ndarray:
    """A rotation of a stereo calibration, about an axis of no preference."""
    return cv2.Rodrigues(np.deg2rad(degrees) * np.array([0.3, 0.9, 0.2]))[0]


def rectification(name: str, rotation: np.ndarray | None = None) -> Rectification:
    lens = LENSES[name]
    raw = FISHEYE_K if lens.is_fisheye else K
    ideal = np.array([[300.0, 0, 318], [0, 302, 241], [0, 0, 1]])
    return Rectification(lens, raw, np.eye(3) if rotation is None else rotation, ideal,
                         WIDTH, HEIGHT)  # fmt: skip


def pixels() -> np.ndarray:
    """The pixels of the whole image, from edge to edge."""
    u, v = np.meshgrid(np.linspace(-0.5, WIDTH - 0.5, 65), np.linspace(-0.5, HEIGHT - 0.5, 49))
    return np.stack([u, v], axis=-1).reshape(-1, 2)


def rectified_by_opencv(of: Rectification, uv: np.ndarray) -> np.ndarray:
    d = np.array(of.lens.coefficients)
    if of.lens.is_fisheye:
        return cv2.fisheye.undistortPoints(uv[:, None], of.raw, d, R=of.rotation,
                                           P=of.rectified)[:, 0]  # fmt: skip
    until = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 500, 1e-12)
    return cv2.undistortPoints(
        uv[:, None], of.raw, d, R=of.rotation, P=of.rectified, criteria=until
    )[:, 0]


@pytest.mark.parametrize("degrees", [0.0, 1.5])
@pytest.mark.parametrize("name", LENSES)
def test_pixels_are_rectified_as_by_opencv_and_come_back(name: str, degrees: float):
    of, uv = rectification(name, turned(degrees)), pixels()
    if of.lens.is_fisheye:  # its corners see what lies behind the image plane
        angle = np.linalg.norm((uv - of.raw[:2, 2]) / of.raw[0, 0], axis=-1)
        assert np.isnan(of.rectified_from_input(uv[angle > 1.62])).all()
        uv = uv[angle < np.deg2rad(85)]
    found = of.rectified_from_input(uv)
    assert np.isfinite(found).all()
    there = np.abs(found - rectified_by_opencv(of, uv)) / np.maximum(1.0, np.abs(found) / 1000)
    assert there.max() < 0.05
    assert np.abs(of.input_from_rectified(found) - uv).max() < 1e-3


@pytest.mark.parametrize("name", LENSES)
def test_the_rectified_image_is_opencv_s(name: str):
    of = rectification(name)
    maker = cv2.fisheye if of.lens.is_fisheye else cv2
    across, down = maker.initUndistortRectifyMap(
        of.raw, np.array(of.lens.coefficients), of.rotation, of.rectified, (WIDTH, HEIGHT),
        cv2.CV_32FC1,
    )  # fmt: skip
    remap = of.remap(np.eye(3), WIDTH, HEIGHT)
    expected = np.stack([across, down], axis=-1)
    assert np.abs(remap.uv - expected)[remap.valid].max() < 0.05
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    raw = cv2.GaussianBlur(noise, (0, 0), 2.0)
    ideal = cv2.remap(raw, across, down, cv2.INTER_LINEAR)
    # OpenCV blends the outermost half pixel with black.
    inside = ((expected >= 0) & (expected <= [WIDTH - 1, HEIGHT - 1])).all(axis=-1)
    assert np.abs(of.image(raw).astype(int) - ideal)[inside].max() <= 3
    assert (of.image(raw)[~remap.valid] == 0).all()


def test_the_network_s_grid_is_read_off_the_raw_image_in_one_pass():
    """A spot stands where the grid's own arithmetic says, in an image finer than the grid too."""
    for scale in (1, 3):
        whole = np.diag([scale, scale, 1.0])
        of = Rectification(
            LENSES["plumb_bob 5"], whole @ K, np.eye(3), whole @ K, scale * WIDTH, scale * HEIGHT
        )
        grid = grid_for(of.width, of.height, 518)._replace(rectification=of)
        spot = np.array([[0.8 * of.width, 0.3 * of.height]])
        v, u = np.mgrid[: of.height, : of.width]
        far = ((u - spot[0, 0]) ** 2 + (v - spot[0, 1]) ** 2) / (6.0 * scale) ** 2
        raw = np.repeat((255 * np.exp(-far))[..., None], 3, axis=2).astype(np.uint8)
        seen = to_network(raw, grid)[..., 0].astype(float)
        assert seen.shape == (grid.height, grid.width)
        rows, columns = np.mgrid[: grid.height, : grid.width]
        centre = [(columns * seen).sum() / seen.sum(), (rows * seen).sum() / seen.sum()]
        np.testing.assert_allclose(centre, grid.network_pixels(spot)[0], atol=0.15)
        np.testing.assert_allclose(grid.input_pixels(grid.network_pixels(spot)), spot, atol=0.01)


def test_what_a_lens_cannot_show_is_not_a_number():
    folding = Lens("plumb_bob", (-0.3, 0.0, 0.0, 0.0))  # turns back at 1 / sqrt(0.9)
    assert np.isnan(folding.distort(np.array([[1.2, 0.0]]))).all()
    assert np.isfinite(folding.distort(np.array([[1.0, 0.0]]))).all()
    assert np.isnan(folding.undistort(np.array([[0.9, 0.0]]))).all()


@pytest.mark.parametrize(
    ("model", "d", "words"),
    [
        ("double_sphere", (0.1,) * 5, "model 'double_sphere', which is not known"),
        ("plumb_bob", (0.1,) * 3, "3 coefficients D for its distortion model 'plumb_bob'"),
        ("equidistant", (0.1,) * 5, "'equidistant', which has 4"),
        ("plumb_bob", (np.nan,) * 5, "D is not finite"),
    ],
)
def test_a_lens_that_is_not_known_is_refused_by_name(model: str, d: tuple, words: str):
    with pytest.raises(UserError, match=words):
        Lens(model, d)


@pytest.mark.parametrize("d", [(), (0.0,) * 5])
def test_without_distortion_there_is_no_lens(d: tuple):
    assert lens_of("plumb_bob", d) is None and lens_of("anything", d) is None


# ---- through the pipeline -----------------------------------------------------------------------


def small(name: str) -> Rectification:
    """The same lens on an image of 112 x 84 pixels, twice the planar engine's grid."""
    of, less = rectification(name), np.diag([112 / WIDTH, 84 / HEIGHT, 1.0])
    less[:2, 2] = (less[0, 0] - 1) / 2, (less[1, 1] - 1) / 2
    return Rectification(of.lens, less @ of.raw, of.rotation, less @ of.rectified, 112, 84)


def observed(i: int, of: Rectification | None, **more) -> Observation:
    frame = Frame(np.full((84, 112, 3), 100 + i, np.uint8), 1 + i * 10**8, rectification=of)
    return Observation(frame if of is None else frame._replace(intrinsics=of.rectified), **more)


@pytest.mark.parametrize("name", ["plumb_bob 5", "equidistant"])
def test_queries_and_tracks_are_in_pixels_of_the_raw_image(name: str):
    of, engine = small(name), PlanarEngine()
    engine.infer, plain = lambda *a, **k: standing(plain(*a, **k)), engine.infer  # type: ignore

    def standing(result):
        """The points do not move on the network's grid."""
        return result._replace(tracks=None if result.tracks is None else
                               np.repeat(result.tracks[:1], len(result.tracks), 0))  # fmt: skip

    pipeline = Pipeline(engine, Settings(window_size=2))
    pipeline.step(observed(0, of))
    uv = np.array([[56.0, 42.0], [36.0, 25.0], [78.0, 60.0]])
    pipeline.query(np.arange(3, dtype=np.uint32), uv)
    update = pipeline.step(observed(1, of))
    assert update is not None and update.tracks is not None
    asked, _ = engine.queries[-1]
    grid = update.views[-1].grid
    plane = of.rectified_from_input(uv) @ grid.network_from_input[:2, :2].T
    np.testing.assert_allclose(asked, plane + grid.network_from_input[:2, 2], atol=1e-3)
    assert np.abs(asked - grid._replace(rectification=None).network_pixels(uv)).max() > 1.0
    np.testing.assert_allclose(update.tracks.uv[-1], uv, atol=0.01)
    np.testing.assert_allclose(
        update.views[-1].intrinsics, grid.network_from_input @ of.rectified, atol=1e-9
    )


def test_a_query_that_is_cut_off_with_the_lens_is_refused_by_name():
    of = small("equidistant")
    pipeline = Pipeline(PlanarEngine(), Settings(window_size=2))
    pipeline.step(observed(0, of))
    with pytest.raises(UserError, match=r"query 7 is not in the rectified image: \(1, 1\)"):
        pipeline.query(np.array([7], np.uint32), np.array([[1.0, 1.0]]))
    assert not pipeline.is_tracking


def test_what_the_raw_image_does_not_reach_has_no_depth():
    of = small("plumb_bob 5")
    wide = np.diag([0.5, 0.5, 1.0]) @ of.rectified
    wide[:2, 2] = 55.5, 41.5
    of = Rectification(of.lens, of.raw, of.rotation, wide, 112, 84)
    update = Pipeline(PlanarEngine(), Settings()).step(observed(0, of))
    assert update is not None
    view = update.views[-1]
    seen = view.grid.valid
    assert seen is not None and 0.1 < seen.mean() < 0.9
    np.testing.assert_array_equal(np.isfinite(view.masked_depth(0.0)), seen)
    assert (view.rgb[~seen] == 0).all() and (view.rgb[seen] > 90).all()


def test_another_sensor_s_depth_is_read_where_the_raw_image_shows_it():
    of = small("plumb_bob 5")
    grid = grid_for(112, 84, 56)._replace(rectification=of)
    metres = np.tile(np.arange(112, dtype=np.float32), (84, 1))  # the column of the raw image
    found = WindowFrame(observed(0, of).frame, grid, np.zeros((42, 56, 3), np.uint8),
                        metres).depth_on_grid()  # fmt: skip
    assert found is not None
    u, v = np.meshgrid(np.arange(56), np.arange(42))
    raw = grid.input_pixels(np.stack([u, v], -1).reshape(-1, 2).astype(float))[:, 0]
    known = np.isfinite(found.ravel())
    assert known.any() and np.abs(found.ravel() - raw)[known].max() < 0.51


def test_without_a_lens_nothing_changes_bit_for_bit():
    rgb = np.random.default_rng(0).integers(0, 256, (84, 112, 3), np.uint8)
    plain = Pipeline(PlanarEngine(), Settings()).step(Observation(Frame(rgb, 1)))
    assert plain is not None
    grid = plain.views[0].grid
    assert grid == grid_for(112, 84, 56) and grid.rectification is None and grid.valid is None
    np.testing.assert_array_equal(plain.views[0].rgb, to_network(rgb, grid_for(112, 84, 56)))
