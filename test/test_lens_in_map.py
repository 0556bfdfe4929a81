# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A drive seen through a lens: once it is undone, the map is that of the ideal camera."""

import numpy as np
import pytest
from fakes.oracle import Faults
from fakes.room import HEIGHT, INTRINSICS, WIDTH, numbered_image
from map_rig import Ride, cameras

from vggt_ros.frames import Observation
from vggt_ros.imaging.grid import grid_for
from vggt_ros.imaging.lens import Lens
from vggt_ros.imaging.rectify import Rectification

pytestmark = pytest.mark.slow

TIMES, FRAMES = 4, 20  # camera pixels to one of the network
GRID = grid_for(TIMES * WIDTH, TIMES * HEIGHT, WIDTH)
IDEAL = GRID.input_from_network @ INTRINSICS
WIDE = IDEAL.copy()  # 150 degrees across
WIDE[0, 0] = WIDE[1, 1] = TIMES * WIDTH / 2 / np.deg2rad(75)
LENSES = {
    "plumb_bob": (Lens("plumb_bob", (-0.3, 0.08, 0.0, 0.0)), IDEAL),
    "equidistant": (Lens("equidistant", (0.0, 0.0, 0.0, 0.0)), WIDE),
}


def ideal_image(i: int) -> np.ndarray:
    return numbered_image(i).repeat(TIMES, axis=0).repeat(TIMES, axis=1)


@pytest.mark.parametrize("name", LENSES)
def test_a_map_through_a_lens_is_that_of_the_ideal_camera(name: str):
    lens, raw = LENSES[name]
    of = Rectification(lens, raw, np.eye(3), IDEAL, TIMES * WIDTH, TIMES * HEIGHT)
    u, v = np.meshgrid(np.arange(of.width), np.arange(of.height))
    there = of.rectified_from_input(np.stack([u, v], axis=-1).astype(float))
    inside = ((there > -0.5) & (there < [of.width - 0.5, of.height - 0.5])).all(axis=-1)
    column, row = np.rint(np.where(inside[..., None], there, 0)).astype(int).transpose(2, 0, 1)

    def ideal(observation: Observation, i: int) -> Observation:
        frame = observation.frame._replace(rgb=ideal_image(i), intrinsics=IDEAL)
        return observation._replace(frame=frame)

    def through_lens(observation: Observation, i: int) -> Observation:
        seen = np.where(inside[..., None], ideal_image(i)[row, column], np.uint8(128))
        frame = observation.frame._replace(rgb=seen, intrinsics=IDEAL, rectification=of)
        return observation._replace(frame=frame)

    truth = cameras("arc", 300)[:FRAMES]
    expected, found = (Ride(truth, Faults(), observe=how) for how in (ideal, through_lens))
    assert found.engine.inferences == expected.engine.inferences, "the images are recognised"
    for one, other in zip(found.updates, expected.updates, strict=True):
        np.testing.assert_allclose(
            one.views[-1].world_from_camera, other.views[-1].world_from_camera, atol=1e-9
        )
        np.testing.assert_array_equal(one.views[-1].depth, other.views[-1].depth)
        np.testing.assert_allclose(one.views[-1].intrinsics, INTRINSICS, atol=1e-9)
