# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which camera_info an image is read by, as they come: another camera's, and of a lens in focus."""

import numpy as np
import pytest
from node_rig import CAMERA, INPUT, START, K
from sensor_msgs.msg import CameraInfo

from vggt_ros.frames import Frame
from vggt_ros.ros.inputs import CameraInput, CameraReports
from vggt_ros.ros.messages import camera_info_message, header

pytestmark = pytest.mark.ros

HEIGHT, WIDTH = INPUT
IMAGE = Frame(np.zeros((*INPUT, 3), np.uint8), START, CAMERA)


class Heard:
    """A camera's input, and what lasts of what it says."""

    def __init__(self) -> None:
        self.warning, self.notices = "", []
        reports = CameraReports(
            self.notices.append, self.notices.append, self.warn, lambda _: None, lambda _: None
        )
        self.input = CameraInput("/image", "auto", "auto", reports)

    def warn(self, text: str) -> None:
        self.warning = text

    def hear(self, focal: float, frame_id: str = CAMERA, **changes) -> np.ndarray | None:
        """One more camera_info; returns the K of the next image."""
        intrinsics = np.diag([focal / K[0, 0], focal / K[0, 0], 1.0]) @ K
        head = header(START, frame_id)
        msg: CameraInfo = camera_info_message(head, intrinsics, width=WIDTH, height=HEIGHT)
        for field, value in changes.items():
            setattr(msg, field, value)
        self.input.hear(msg)
        frame, _ = self.input.read(IMAGE)
        return frame.intrinsics


def test_camera_info_of_another_frame_is_a_warning_as_long_as_it_is_used():
    heard = Heard()
    heard.hear(60.0, "depth_optical")
    assert "camera_info is of frame_id 'depth_optical' and the image of 'camera_optical'" in (
        heard.warning
    )
    for _ in range(3):  # as another calibration must
        heard.hear(90.0, f"/{CAMERA}")
    assert not heard.warning


def test_camera_info_without_a_frame_is_not_doubted():
    heard = Heard()
    heard.hear(60.0, "")
    assert not heard.warning


def test_k_follows_a_lens_that_is_focused_with_each_image():
    heard = Heard()
    for focal in np.linspace(60.0, 64.0, 50):
        found = heard.hear(float(focal))
        assert found is not None
        assert found[0, 0] == pytest.approx(focal)
    assert not heard.warning and not heard.notices


def test_distorted_images_whose_calibration_never_repeats_are_a_warning():
    heard = Heard()
    bent = {"d": [-0.3, 0.08, 0.001, -0.002, 0.0], "distortion_model": "plumb_bob"}
    for focal in np.linspace(60.0, 64.0, 40):
        found = heard.hear(float(focal), **bent)
    assert found is not None
    assert found[0, 0] == pytest.approx(60.0), "a map is of one rectified image"
    assert "camera_infos differ from the one that is used and from each other" in heard.warning
    for _ in range(3):
        heard.hear(64.0, **bent)
    assert not heard.warning


def test_a_jump_of_k_must_repeat():
    heard = Heard()
    heard.hear(60.0)
    assert heard.hear(90.0)[0, 0] == 60.0  # type: ignore[index]
    assert "must repeat" in heard.notices[-1]
