# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Depth images with a lens or a rectification of their own, through topics."""

import numpy as np
import pytest
from fakes.room import BASE_FROM_CAMERA, HEIGHT, INTRINSICS, WIDTH, turn
from node_rig import CAMERA, START, Rig
from robot_rig import DepthRobot
from sensor_msgs.msg import CameraInfo

from vggt_ros.frames import Frame
from vggt_ros.imaging.calibration import Calibration
from vggt_ros.imaging.lens import Lens
from vggt_ros.imaging.rectify import Rectification
from vggt_ros.ros.messages import camera_info_message, header, image_message, transform_message
from vggt_ros.ros.sensors.depth_view import DepthView

pytestmark = [pytest.mark.ros, pytest.mark.slow]

FRAMES = 8
DEPTH_FRAME = "depth_optical"
WIDE = np.array([[40.0, 0, WIDTH / 2 - 3], [0, 40.0, 30.0], [0, 0, 1]])
CAMERA_FROM_DEPTH = np.eye(4)
CAMERA_FROM_DEPTH[:3, 3] = [-0.06, 0.02, 0.03]
R = np.eye(4)  # rectified_from_raw
R[:3, :3] = turn(np.array([0.1, -0.3, 0.05]))
BARREL = [-0.3, 0.08, 0.0, 0.0, 0.0]


def start(rig: Rig, topic: str, info: CameraInfo | None, *, calibrated=True) -> DepthRobot:
    """A robot whose depth camera has a frame of its own on `topic`, and this camera_info."""
    robot = DepthRobot(rig, frames=FRAMES, topic=topic)
    node = robot.start(arguments=("-r", f"scale_depth:={topic}"))
    pose = BASE_FROM_CAMERA @ CAMERA_FROM_DEPTH
    robot.publish_static(transform_message(header(START, "base_link"), DEPTH_FRAME, pose))
    frames, sensor = node.robot.frames, node.robot.depth
    assert frames is not None and sensor is not None
    rig.wait_until(lambda: frames.lookup(CAMERA, DEPTH_FRAME, START) is not None, "the mount")
    if calibrated:
        rig.publish_camera_info(INTRINSICS, width=WIDTH, height=HEIGHT)
    if info is not None:
        sender = rig.peer.create_publisher(CameraInfo, "/scale_depth_info", 10)

        def arrives() -> bool:
            sender.publish(info)
            return bool(sensor.calibrated)

        rig.wait_until(arrives, "the depth's calibration arrives")
    return robot


def info_of(k: np.ndarray, *, r=None, d=(), p=None, frame_id=DEPTH_FRAME) -> CameraInfo:
    """The camera_info of a depth image; P is K where `p` is not given."""
    msg = camera_info_message(header(START, frame_id), k, width=WIDTH, height=HEIGHT)
    msg.d, msg.r = list(d), (np.eye(3) if r is None else r).ravel()
    msg.p = np.column_stack([k if p is None else p, np.zeros(3)]).ravel()
    return msg


def run(rig: Rig, robot: DepthRobot, **depth) -> None:
    """All frames, each after its depth; the units must come out as metres."""
    for i in range(FRAMES):
        robot.publish_depth(i, **depth)
        robot.infer(i)
    rig.wait_for_diagnostics("metres, from depth", inferences=str(FRAMES))
    assert robot.units_per_metre(FRAMES - 1) == pytest.approx(1.0, abs=0.03)


def test_r_turns_the_points_of_a_raw_depth_image(rig: Rig):
    """Its frame is the rectified one, as image_proc has it; depth is along the raw axis."""
    robot = start(rig, "/deep/image_raw", info_of(WIDE, r=R[:3, :3], p=INTRINSICS))
    run(rig, robot, frame_id=DEPTH_FRAME, mount=CAMERA_FROM_DEPTH @ R, intrinsics=WIDE)


def test_r_counts_where_frame_size_and_k_are_the_image_s(rig: Rig):
    robot = start(rig, "/deep/image_raw", info_of(INTRINSICS, r=R[:3, :3], frame_id=CAMERA))
    run(rig, robot, mount=R)


def test_a_rectified_depth_image_has_p_alone(rig: Rig):
    """K, D and R of its camera_info are the raw camera's."""
    info = info_of(INTRINSICS, r=R[:3, :3], d=BARREL, p=WIDE)
    robot = start(rig, "/deep/image_rect", info)
    run(rig, robot, frame_id=DEPTH_FRAME, mount=CAMERA_FROM_DEPTH, intrinsics=WIDE)


def test_turned_depth_without_the_image_s_calibration_is_refused_by_name(rig: Rig):
    info = info_of(INTRINSICS, r=R[:3, :3], frame_id=CAMERA)
    robot = start(rig, "/deep/image_raw", info, calibrated=False)
    for i in range(FRAMES):
        robot.publish_depth(i, mount=R)
        robot.infer(i)
    words = "scale_depth needs camera_info: it maps points to pixels"
    rig.wait_for_diagnostics(words, inferences=str(FRAMES), scale="units are arbitrary")


def test_a_camera_info_of_another_size_is_refused_by_name(rig: Rig):
    robot = start(rig, "/deep/image_raw", info_of(WIDE))
    head = header(START, DEPTH_FRAME)
    robot.sensor.publish(image_message(head, np.ones((HEIGHT // 2, WIDTH // 2), np.float32)))
    assert rig.node is not None and rig.node.robot.depth is not None
    sensor = rig.node.robot.depth
    rig.wait_until(lambda: sensor.heard == 1, "the depth arrives")
    robot.infer(0, 1)
    rig.wait_for_diagnostics("scale_depth is 42x28, but its camera_info is of 84x56; publish one")


LENS = Lens("plumb_bob", tuple(BARREL))
RECTIFIED = Rectification(LENS, INTRINSICS, np.eye(3), WIDE, WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ("depth", "is_rectified", "image", "same"),
    [
        ({}, False, None, True),
        ({"d": BARREL}, False, None, False),
        ({"p": WIDE}, False, None, True),  # P is of the rectified image
        ({"p": WIDE}, True, None, False),
        ({"r": R[:3, :3]}, False, None, False),
        ({"r": R[:3, :3], "d": BARREL}, True, None, True),
        ({"d": BARREL}, False, RECTIFIED, True),
        ({"d": [-0.3, 0.07, 0.0, 0.0]}, False, RECTIFIED, False),
        ({}, False, RECTIFIED, False),
        ({"d": BARREL}, True, RECTIFIED, False),
    ],
)
def test_which_depth_has_the_pixels_of_the_image(depth, is_rectified, image, same):
    calibration = Calibration.of(info_of(INTRINSICS, **depth))
    k = INTRINSICS if image is None else image.rectified
    frame = Frame(np.zeros((HEIGHT, WIDTH, 3), np.uint8), START, CAMERA, k, image)
    assert DepthView(calibration, is_rectified).is_of(frame) == same
