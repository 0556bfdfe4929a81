# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Images that show nothing, and depth that the network does not trust, are lasting warnings."""

import numpy as np
import pytest
from fakes.planar_engine import SIZE
from made_updates import update, view
from node_rig import CAMERA, PERIOD, START, K, Rig
from rclpy.node import Node
from rosgraph_msgs.msg import Clock

from vggt_ros.frames import View
from vggt_ros.imaging.grid import grid_for
from vggt_ros.ros.health.view_health import FOCALS, PATIENCE, FocalHealth, ViewHealth
from vggt_ros.ros.messages import header, image_message

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


def test_a_camera_that_sends_one_image_again_and_again_is_a_warning_that_lasts():
    health, random = ViewHealth(), np.random.default_rng(0)
    images = random.integers(0, 256, (2, *SIZE, 3)).astype(np.uint8)
    count, second = 0, 1_000_000_000

    def see(image: np.ndarray, every_ns: int = second) -> str:
        nonlocal count
        count += 1
        seen = view(0, rgb=image, stamp_ns=START + count * every_ns)
        health.update(seen, 1.5)
        return health.images

    for _ in range(10):
        assert not see(images[0])
    assert see(images[0]).startswith("the last 11 images are one and the same, for 10 s")
    assert "the last 12 images" in see(images[0])
    assert not see(images[1])
    for _ in range(5):  # as of a robot that stands still: noise makes them differ
        noise = random.integers(0, 2, images[0].shape)
        assert not see((images[0] // 2 + noise).astype(np.uint8))
    count = 0
    for _ in range(30):  # one second of it
        assert not see(images[0], second // 30)


def test_images_dark_and_bright_by_turns_are_a_warning():
    """As of exposures for HDR, or of a depth camera whose emitter blinks."""
    health, random = ViewHealth(), np.random.default_rng(0)
    image, ones = np.zeros((*SIZE, 3), np.uint8), np.ones(SIZE, np.float32)
    grid = grid_for(64, 48, SIZE[1])
    view = View(0, 1, CAMERA, grid, image, np.eye(3), np.eye(4), ones, 2 * ones, image)

    def see(brightness: int) -> str:
        rgb = np.clip(brightness + random.integers(-20, 21, (*SIZE, 3)), 0, 255).astype(np.uint8)
        health.update(view._replace(rgb=rgb), 1.5)
        return health.images

    for i in range(PATIENCE + 1):
        assert not see(60 + 60 * (i % 2))
    assert "images are dark and bright by turns (brightness 60 and 12" in see(120)
    assert not see(120)
    for i in range(20):  # a lamp that is dimmed up
        assert not see(60 + 6 * i)


@pytest.mark.parametrize(
    ("ratio", "wide", "is_doubted"),
    [
        (1.0, 60.0, False),
        (1.3, 60.0, False),
        (1.5, 60.0, True),
        (0.6, 60.0, True),
        (1.5, 130.0, False),  # a wide lens, of which the network has seen few
        (0.6, 20.0, False),
    ],
)
def test_a_focal_length_that_images_contradict_is_a_lasting_warning(
    ratio: float, wide: float, is_doubted: bool
):
    health, focal = FocalHealth(), 21.0 / np.tan(np.radians(wide / 2.0))
    k = np.array([[focal, 0.0, 21.0], [0.0, focal, 14.0], [0.0, 0.0, 1.0]])
    seen = update([0])._replace(focal=ratio, views=(view(0, intrinsics=k),))
    for i in range(FOCALS):
        assert not health.warning
        health.add(seen._replace(focal=3.0 * ratio) if i == 7 else seen)
    assert bool(health.warning) == is_doubted
    assert not is_doubted or f"is {1.0 / ratio:.2f} times what the network finds" in health.warning
    health.add(seen._replace(focal=None))
    assert not health.warning, "there is no calibration any more"


@pytest.mark.parametrize(("intrinsics", "is_said"), [("auto", True), ("model", False)])
def test_a_calibration_of_another_zoom_is_named_by_the_node(
    rig: Rig, intrinsics: str, is_said: bool
):
    rig.start(intrinsics=intrinsics)
    zoomed = K.copy()
    zoomed[[0, 1], [0, 1]] *= 2.0
    rig.publish_camera_info(zoomed)
    infer(rig, 0, FOCALS + 1, amplitude=20)
    words = "camera_info's focal length is 1.87 times what the network finds"
    if is_said:
        rig.wait_for_diagnostics(words)
    else:
        rig.wait_for_diagnostics(inferences=str(FOCALS + 1))
        assert words not in str(rig.diagnostics())


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


def test_two_publishers_of_the_time_are_a_warning_until_one_ends(rig: Rig):
    rig.start(use_sim_time=True)
    clocks = [rig.peer.create_publisher(Clock, "/clock", 10) for _ in range(2)]
    rig.wait_for_diagnostics("2 publishers have /clock (peer, peer): time goes to and fro")
    rig.peer.destroy_publisher(clocks[0])
    rig.wait_until(lambda: "have /clock" not in rig.status("input").message, "it ends")


def test_two_nodes_of_one_name_are_a_warning_until_one_ends(rig: Rig):
    rig.start()
    rig.wait_for_diagnostics()
    other = Node("vggt", context=rig.context)
    rig.wait_for_diagnostics("2 nodes are called /vggt")
    other.destroy_node()
    rig.wait_until(lambda: "nodes are called" not in rig.status("settings").message, "it ends")
