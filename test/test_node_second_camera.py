# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The second camera's lens, through topics: undone by the rule of the first, or a warning."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from fakes.room import HEIGHT, INTRINSICS, WIDTH, number_of, numbered_image, turn
from node_rig import CAMERA, START, Rig
from robot_rig import RIGHT, StereoRobot
from sensor_msgs.msg import CameraInfo

from vggt_ros.ros.messages import camera_info_message, header

pytestmark = [pytest.mark.ros, pytest.mark.slow]

BARREL = (-0.4, 0.1, 0.001, -0.002, 0.0)
FISHEYE = (0.05, -0.02, 0.005, -0.001)
RAW = np.array([[58.0, 0, 43.0], [0, 57.0, 27.0], [0, 0, 1.0]])  # K
TURNED = turn(np.array([0.05, -0.04, 0.06]))  # R
Lens = Callable[[np.ndarray], np.ndarray]


def lens_of(model: str, d: tuple[float, ...], rotation: np.ndarray) -> Lens:
    """What such a camera makes of the image that it would take without its lens, by OpenCV."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    raw = np.stack([columns, rows], axis=-1).reshape(-1, 1, 2)
    undistort = cv2.fisheye.undistortPoints if model == "equidistant" else cv2.undistortPoints
    ideal = undistort(raw, RAW, np.array(d), R=rotation, P=INTRINSICS).astype(np.float32)
    uv = ideal.reshape(HEIGHT, WIDTH, 2)

    def seen(image: np.ndarray) -> np.ndarray:
        return cv2.remap(
            image, uv[..., 0], uv[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )

    return seen


def calibrate(
    rig: Rig, topic: str, *, model="plumb_bob", d=BARREL, rotation=None, frame_id=RIGHT
) -> None:
    """The second camera's camera_info, until the node has it."""
    assert rig.node is not None and rig.node.robot.second_camera is not None
    second_camera = rig.node.robot.second_camera
    sender = rig.peer.create_publisher(CameraInfo, topic, 10)
    msg = camera_info_message(header(START, frame_id), INTRINSICS, width=WIDTH, height=HEIGHT)
    msg.distortion_model, msg.d, msg.k = model, list(d), RAW.ravel()
    msg.r = (np.eye(3) if rotation is None else rotation).ravel()

    def arrives() -> bool:
        sender.publish(msg)
        return frame_id in second_camera.calibrated

    rig.wait_until(arrives, "the calibration arrives")


def shown(robot: StereoRobot) -> set[int]:
    """Numbers of the second camera's images that the network was shown, and could be read."""
    seen = {i for images in robot.engine.inferences for i, camera in images if camera == 1}
    return seen & set(range(len(robot.base)))


@pytest.mark.parametrize(
    ("model", "d", "rotation", "info"),
    [
        ("plumb_bob", BARREL, np.eye(3), "/right/camera_info"),
        ("plumb_bob", BARREL, TURNED, "/baseline_camera_info"),
        ("equidistant", FISHEYE, TURNED, "/right/camera_info"),
    ],
)
def test_its_lens_is_undone_by_its_own_camera_info(
    rig: Rig, model: str, d: tuple[float, ...], rotation: np.ndarray, info: str
):
    """Its images carry their number where the rectified image has it, and elsewhere before."""
    lens = lens_of(model, d, rotation)
    first = numbered_image(5, camera=1)
    assert number_of(first) == (5, 1) != number_of(lens(first))
    robot = StereoRobot(rig, kind="spin", frames=12, topic="/right/image_raw", lens=lens)
    robot.start(arguments=("-r", "baseline_image:=/right/image_raw"))
    calibrate(rig, info, model=model, d=d, rotation=rotation)
    robot.infer_pairs(*range(12))
    report = rig.wait_for_diagnostics("metres, from baseline", inferences="12")
    assert shown(robot) >= set(range(5))
    assert robot.units_per_metre(11) == pytest.approx(1.0, abs=0.03)
    assert report["second camera"].startswith(f"rectified here ({model}")
    assert "baseline_image" not in report["/vggt: scale"]


@pytest.mark.parametrize(
    ("topic", "rectify"), [("/right/image_rect", "auto"), ("/right/image_raw", "off")]
)
def test_an_image_that_is_rectified_already_is_left_as_it_is(rig: Rig, topic: str, rectify: str):
    robot = StereoRobot(rig, kind="spin", frames=6, topic=topic)
    robot.start(arguments=("-r", f"baseline_image:={topic}"), rectify=rectify)
    calibrate(rig, "/right/camera_info")
    robot.infer_pairs(*range(6))
    rig.wait_for_diagnostics("second camera the image is rectified already", inferences="6")
    assert shown(robot) == set(range(6))


def test_a_lens_that_is_not_known_is_a_warning_with_figures_until_it_is(rig: Rig):
    robot = StereoRobot(rig, kind="spin", frames=4)
    robot.start()
    calibrate(rig, "/baseline_camera_info", model="double_sphere", d=(0.1,) * 6)
    robot.infer_pairs(0, 1)
    words = "baseline_image: camera_info has the distortion model 'double_sphere', which is not"
    used = "no lens is undone (2 of its images were used as they come)"
    rig.wait_for_diagnostics(words, used, inferences="2")
    calibrate(rig, "/baseline_camera_info", d=(0.0,) * 5)
    robot.infer_pairs(2, 3)
    rig.wait_until(lambda: words not in rig.diagnostics()["/vggt: scale"], "the warning ends")


def test_the_first_camera_s_lens_without_the_second_s_is_a_warning_until_it_comes(rig: Rig):
    """And the first one's own camera_info is not taken for the second's."""
    robot = StereoRobot(rig, kind="spin", frames=4)
    robot.start()
    rig.publish_camera_info(INTRINSICS, WIDTH, HEIGHT, d=[0.01, 0.0, 0.0, 0.0, 0.0])
    robot.infer_pairs(0, 1)
    words = (
        "the first camera's lens is undone, but of this one there is no usable camera_info on"
        f" '/baseline_camera_info' or '/camera_info' with frame_id '{RIGHT}'"
        " (2 of its images were used as they come)"
    )
    rig.wait_for_diagnostics(words, inferences="2")
    assert CAMERA in rig.node.robot.second_camera.calibrated  # type: ignore[union-attr]
    calibrate(rig, "/camera_info", d=(0.0,) * 5)
    robot.infer_pairs(2, 3)
    rig.wait_until(lambda: words[:40] not in rig.diagnostics()["/vggt: scale"], "it ends")
