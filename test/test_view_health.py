# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Images that show nothing, and depth that the network does not trust, are lasting warnings."""

import numpy as np
import pytest
from fakes.planar_engine import SIZE
from node_rig import CAMERA, PERIOD, START, Rig
from rclpy.node import Node

from vggt_ros.ros.messages import header, image_message
from vggt_ros.ros.view_health import PATIENCE

pytestmark = pytest.mark.ros


def infer(rig: Rig, first: int, count: int, amplitude: int) -> None:
    """So many images of noise about a dark grey."""
    random = np.random.default_rng(0)
    for i in range(first, first + count):
        done = rig.count("inferences")
        noise = random.integers(-amplitude, amplitude + 1, (48, 64, 1))
        image = np.broadcast_to(20 + noise, (48, 64, 3)).astype(np.uint8)
        rig.images.publish(image_message(header(START + i * PERIOD, CAMERA), image))
        rig.wait_until(lambda n=done: rig.count("inferences") > n, f"inference {i}")


def test_a_lens_cap_is_a_warning_as_long_as_it_is_on(rig: Rig):
    rig.start()
    infer(rig, 0, PATIENCE, amplitude=1)
    rig.wait_for_diagnostics(f"the last {PATIENCE} images show next to nothing (brightness 20 of")
    infer(rig, PATIENCE, 1, amplitude=20)
    rig.wait_until(lambda: "next to nothing" not in rig.status("input").message, "it ends")


def test_depth_that_is_hardly_trusted_is_a_warning_until_it_is(rig: Rig):
    rig.engine.confidence = np.full(SIZE, 1.1, np.float32)
    rig.start()
    infer(rig, 0, PATIENCE, amplitude=20)
    rig.wait_for_diagnostics("0.0% of the newest image's pixels have the confidence", "is 1.10")
    rig.engine.confidence = np.full(SIZE, 2.0, np.float32)
    infer(rig, PATIENCE, 1, amplitude=20)
    rig.wait_until(
        lambda: "newest image's pixels" not in rig.status("outputs").message, "the warning ends"
    )


def test_two_nodes_of_one_name_are_a_warning_until_one_ends(rig: Rig):
    rig.start()
    rig.wait_for_diagnostics()
    other = Node("vggt", context=rig.context)
    rig.wait_for_diagnostics("2 nodes are called /vggt")
    other.destroy_node()
    rig.wait_until(lambda: "nodes are called" not in rig.status("settings").message, "it ends")
