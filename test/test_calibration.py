# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a camera_info says of an image: K or P, binning, region of interest, sizes."""

from types import SimpleNamespace

import numpy as np
import pytest

from vggt_ros.errors import UserError
from vggt_ros.imaging.calibration import Calibration, CameraReader, from_yaml, is_rectified
from vggt_ros.imaging.lens import Lens

K = np.array([[605.0, 0, 641], [0, 606, 359], [0, 0, 1]])
P = np.array([[540.0, 0, 630, -54], [0, 541, 350, 0], [0, 0, 1, 0]])
D = (-0.3, 0.1, 0.0, 0.0, 0.0)


def info(ros1: bool = False, **changes) -> SimpleNamespace:
    """A CameraInfo of 1280 x 720 pixels, as ROS 2 or ROS 1 names its fields."""
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0, do_rectify=False)
    fields = {"k": K.ravel(), "d": D, "r": np.eye(3).ravel(), "p": P.ravel(), "roi": roi}
    fields |= {"binning_x": 0, "binning_y": 0, "width": 1280, "height": 720}
    fields |= {"distortion_model": "plumb_bob", **changes}
    if ros1:
        fields = {key.upper() if key in "kdrp" else key: value for key, value in fields.items()}
    return SimpleNamespace(**fields)


def roi(x: int, y: int, width: int, height: int) -> SimpleNamespace:
    return SimpleNamespace(x_offset=x, y_offset=y, width=width, height=height, do_rectify=True)


@pytest.mark.parametrize("ros1", [False, True])
@pytest.mark.parametrize(
    ("topic", "raw"),
    [
        ("/camera/image_raw", True),
        ("/camera/image_rect", False),
        ("/camera/image_rect_color", False),
        ("/camera/image_rect/compressed", False),
        ("/zed/rgb/color/rect/image", False),
        ("/image_rectified", False),
        ("/camera/image_unrectified", True),
        ("/direct/image", True),
    ],
)
def test_a_rectified_image_has_p_and_a_raw_one_k_and_d(topic: str, raw: bool, ros1: bool):
    camera = CameraReader(topic, "auto").camera(Calibration.of(info(ros1)), 1280, 720)
    np.testing.assert_array_equal(camera.intrinsics, P[:, :3])  # of either, once it is rectified
    assert (camera.rectification is not None) == raw
    if camera.rectification is not None:
        np.testing.assert_array_equal(camera.rectification.raw, K)


def test_rectify_overrides_the_name():
    assert not is_rectified("/camera/image_rect", "on") and is_rectified("/camera/image_raw", "off")
    camera = CameraReader("/camera/image_raw", "off").camera(Calibration.of(info()), 1280, 720)
    np.testing.assert_array_equal(camera.intrinsics, P[:, :3])
    assert camera.rectification is None


def test_k_of_another_size_than_its_message_states_is_doubted():
    """As usb_cam's example file: 1920x1080, with the K of a camera of 640x480 pixels."""
    k = np.array([[438.8, 0, 305.6], [0, 437.3, 243.7], [0, 0, 1]])
    example = info(k=k.ravel(), p=np.zeros(12), width=1920, height=1080)
    camera = Calibration.of(example).camera(1920, 1080, rectified=False)
    assert "principal point at (306, 244)" in camera.doubt and "(960, 540)" in camera.doubt
    whole = Calibration.of(info(k=k.ravel(), p=np.zeros(12), width=640, height=480))
    assert not whole.camera(640, 480, rectified=False).doubt
    # A region of interest may lie anywhere.
    part = Calibration.of(info(roi=roi(600, 300, 640, 360)))
    assert part.intrinsics[0, 2] < 60 and not part.camera(640, 360, rectified=False).doubt
    resized = Calibration.of(example).camera(960, 540, rectified=False).doubt
    assert "resized" in resized and "principal point" in resized, "both doubts are said"


@pytest.mark.parametrize("topic", ["/stereo/image_raw", "/stereo/image_rect"])
def test_p_alone_is_a_calibration_of_a_rectified_image(topic: str):
    """As DepthAI's stereo/camera_info: K zero, D zero, P set (its issue 598)."""
    turned = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])  # R has no meaning without K
    alone = info(k=np.zeros(9), d=(0.0,) * 8, r=turned.ravel())
    camera = CameraReader(topic, "auto").camera(Calibration.of(alone), 1280, 720)
    np.testing.assert_array_equal(camera.intrinsics, P[:, :3])
    assert camera.rectification is None
    with pytest.raises(UserError, match="no calibration"):
        Calibration.of(info(k=np.zeros(9)))  # what D would be undone by is not known
    with pytest.raises(UserError, match="no calibration"):
        Calibration.of(info(k=np.zeros(9), p=np.zeros(12), d=(0.0,) * 5))


def test_a_raw_image_without_distortion_is_used_as_it_comes():
    camera = CameraReader("/image_raw", "auto").camera(
        Calibration.of(info(d=(0.0,) * 5)), 1280, 720
    )
    np.testing.assert_array_equal(camera.intrinsics, K)
    assert camera.rectification is None


@pytest.mark.parametrize("topic", ["/image_raw", "/image_rect"])
def test_without_p_the_rectified_image_keeps_k(topic: str):
    calibration = Calibration.of(info(p=np.zeros(12)))
    np.testing.assert_array_equal(
        CameraReader(topic, "auto").camera(calibration, 1280, 720).intrinsics, K
    )


@pytest.mark.parametrize(
    ("changes", "size", "fx", "cx", "cy"),
    [
        ({"roi": roi(320, 180, 640, 360)}, (640, 360), 605.0, 641 - 320, 359 - 180),
        ({"binning_x": 2, "binning_y": 2}, (640, 360), 302.5, 320.25, 179.25),
        (
            {"binning_x": 2, "binning_y": 2, "roi": roi(320, 180, 640, 360)},
            (320, 180),
            302.5,
            160.25,
            89.25,
        ),
        (
            {"binning_x": 1, "binning_y": 1, "roi": roi(0, 0, 1280, 720)},
            (1280, 720),
            605.0,
            641,
            359,
        ),
    ],
)
def test_binning_and_region_of_interest(
    changes: dict, size: tuple, fx: float, cx: float, cy: float
):
    calibration = Calibration.of(info(d=(), **changes))
    assert calibration[:2] == size
    camera = calibration.camera(*size, rectified=False)
    assert not camera.doubt
    np.testing.assert_allclose(camera.intrinsics[[0, 0, 1], [0, 2, 2]], [fx, cx, cy])
    (px, py), part = P[:2, 2], camera.intrinsics @ np.linalg.inv(K)
    projected = calibration.camera(*size, rectified=True).intrinsics
    np.testing.assert_allclose(projected @ [0, 0, 1], part @ [px, py, 1])


def test_a_resized_image_is_read_with_a_doubt_and_one_of_another_shape_is_not():
    calibration = Calibration.of(info(d=()))
    camera = calibration.camera(640, 360, rectified=False)
    np.testing.assert_allclose(camera.intrinsics[[0, 0], [0, 2]], [302.5, 320.25])
    assert "of 1280x720 pixels but the image has 640x360: it is taken as" in camera.doubt
    with pytest.raises(UserError, match="neither its binning nor its roi says why"):
        calibration.camera(640, 480, rectified=False)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k": np.zeros(9)}, "has no calibration"),
        ({"k": np.full(9, np.nan)}, "has no calibration"),
        ({"r": 2.0 * np.eye(3).ravel()}, "R is not a rotation"),
    ],
)
def test_what_is_no_calibration_is_refused(changes: dict, words: str):
    with pytest.raises(UserError, match=words):
        Calibration.of(info(**changes))


def test_an_unknown_lens_is_refused_only_where_it_is_to_be_undone():
    calibration = Calibration.of(info(distortion_model="double_sphere"))
    with pytest.raises(UserError, match="double_sphere"):
        calibration.camera(1280, 720, rectified=False)
    np.testing.assert_array_equal(
        calibration.camera(1280, 720, rectified=True).intrinsics, P[:, :3]
    )


def test_the_same_camera_is_the_same_object():
    reader, calibration = CameraReader("/image", "auto"), Calibration.of(info())
    first = reader.camera(calibration, 1280, 720)
    assert reader.camera(calibration, 1280, 720) is first
    assert reader.camera(Calibration.of(info()), 1280, 720) is not first


YAML = {
    "image_width": 1280, "image_height": 720, "camera_name": "front",
    "camera_matrix": {"rows": 3, "cols": 3, "data": K.ravel().tolist()},
    "distortion_model": "plumb_bob",
    "distortion_coefficients": {"rows": 1, "cols": 5, "data": list(D)},
    "rectification_matrix": {"rows": 3, "cols": 3, "data": np.eye(3).ravel().tolist()},
    "projection_matrix": {"rows": 3, "cols": 4, "data": P.ravel().tolist()},
}  # fmt: skip


def test_a_calibration_file_says_the_same_as_the_message():
    found, expected = from_yaml(YAML), Calibration.of(info())
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "document", [None, [], {"image_width": 5}, YAML | {"camera_matrix": [1.0]}]
)
def test_another_file_is_refused(document):
    with pytest.raises(UserError, match="no camera_info file"):
        from_yaml(document)


def test_the_case_of_a_model_s_letters_does_not_matter():
    xy = np.array([[0.3, -0.2]])
    d = (0.02, -0.01, 0.003, -0.001)
    for name in ("Equidistant", "FISHEYE"):
        np.testing.assert_array_equal(Lens(name, d).distort(xy), Lens("equidistant", d).distort(xy))
    with pytest.raises(UserError, match="the distortion model 'Double_Sphere', which is not known"):
        Lens("Double_Sphere", d)
