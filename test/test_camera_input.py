# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which camera_info an image is read by, as they come: another camera's, and of a lens in focus."""

import numpy as np
import pytest
from node_rig import CAMERA, INPUT, START, K, Rig
from rclpy.qos import DurabilityPolicy, QoSProfile
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
        intrinsics = K.copy()
        intrinsics[[0, 1], [0, 1]] *= focal / K[0, 0]
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


# ---- on which topic it is ------------------------------------------------------------------------

BESIDE = "/robot/front/camera_info"


def start_with_images_on(rig: Rig, topic: str, *remapped: str, **parameters) -> CameraInput:
    words = [word for rule in (f"image:={topic}", *remapped) for word in ("-r", rule)]
    rig.open(arguments=tuple(words), **parameters)
    return rig.node.inference.camera  # type: ignore[attr-defined, union-attr]


@pytest.mark.parametrize(
    ("topic", "parameters"),
    [
        ("/robot/front/image_raw", {}),
        ("/robot/front/image_raw", {"image_transport": "compressed"}),
        ("/robot/front/image_raw/compressed", {"image_transport": "compressed"}),
    ],
)
@pytest.mark.parametrize("is_kept", [False, True])
def test_a_camera_info_that_is_not_remapped_is_read_beside_the_images(
    rig: Rig, topic: str, parameters: dict[str, str], is_kept: bool
):
    rig.peer.destroy_publisher(rig.camera_infos)
    durability = DurabilityPolicy.TRANSIENT_LOCAL if is_kept else DurabilityPolicy.VOLATILE
    rig.camera_infos = rig.peer.create_publisher(
        CameraInfo, BESIDE, QoSProfile(depth=1, durability=durability)
    )
    camera = start_with_images_on(rig, topic, **parameters)
    if not is_kept:
        rig.wait_until(rig.camera_infos.get_subscription_count, "it is subscribed to")
    rig.publish_camera_info()
    assert camera.calibration is not None
    np.testing.assert_array_equal(camera.calibration.intrinsics, K)


def test_what_is_remapped_or_has_the_input_s_own_name_comes_first(rig: Rig):
    other = rig.peer.create_publisher(CameraInfo, BESIDE, 1)
    start_with_images_on(rig, "/robot/front/image_raw")
    rig.wait_until(rig.camera_infos.get_subscription_count, "/camera_info is subscribed to")
    assert other.get_subscription_count() == 0
    rig.peer.destroy_publisher(rig.camera_infos)
    rig.wait_until(other.get_subscription_count, "without it the one beside the images is")


def test_a_remapped_camera_info_is_not_replaced_by_the_one_beside_the_images(rig: Rig):
    other = rig.peer.create_publisher(CameraInfo, BESIDE, 1)
    start_with_images_on(rig, "/robot/front/image_raw", "camera_info:=/calibration")
    rig.wait_for_diagnostics("camera_info is remapped to /calibration, which has no publisher")
    assert other.get_subscription_count() == 0


def test_each_camera_of_a_rig_has_the_one_beside_its_images(rig: Rig):
    publishers = {
        name: rig.peer.create_publisher(CameraInfo, f"/robot/{name}/camera_info", 1)
        for name in ("left", "right")
    }
    words = ("left/image:=/robot/left/image_raw", "right/image:=/robot/right/image_raw")
    rig.open(arguments=tuple(w for rule in words for w in ("-r", rule)), cameras="left,right")
    for name, publisher in publishers.items():
        rig.wait_until(publisher.get_subscription_count, f"that of {name} is subscribed to")
