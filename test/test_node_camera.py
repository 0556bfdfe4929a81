# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Any camera as it comes, through topics: K and P, lenses, binning, region of interest, sizes."""

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from fakes.planar_engine import SIZE
from node_rig import CAMERA, INPUT, PERIOD, START, K, Rig, log_of_warnings
from sensor_msgs.msg import CameraInfo, Image, RegionOfInterest
from vggt_ros.msg import PointTracks, QueryPoints

from vggt_ros.imaging.grid import grid_for
from vggt_ros.imaging.lens import Lens
from vggt_ros.ros.messages import header, image_message

pytestmark = pytest.mark.ros

HEIGHT, WIDTH = INPUT
P = [54.0, 0.0, 31.0, -4.0, 0.0, 55.0, 24.0, 0.0, 0.0, 0.0, 1.0, 0.0]
BARREL = [-0.3, 0.08, 0.001, -0.002, 0.0]
GRID = grid_for(WIDTH, HEIGHT, SIZE[1])
RECTIFIED = np.reshape(P, (3, 4))[:, :3]
INFO = "/vggt/depth/camera_info"


def matrix(msg: CameraInfo) -> np.ndarray:
    return np.reshape(msg.k, (3, 3))


def published(rig: Rig, i: int = 0) -> np.ndarray:
    """K that is published beside the depth of frame `i`."""
    infos = rig.subscribe_matched(INFO, CameraInfo)
    rig.infer(i)
    rig.wait_until(lambda: infos, "camera_info")
    return matrix(infos[-1])


# ---- whose K ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "rectify", "expected"),
    [
        ("/cam/image_rect", "auto", RECTIFIED),
        ("/cam/image_raw", "off", RECTIFIED),
        ("/cam/image_rect", "on", RECTIFIED),  # as all that is rectified here
    ],
)
def test_an_image_that_is_rectified_already_has_p_s_k(
    rig: Rig, topic: str, rectify: str, expected: np.ndarray
):
    rig.images = rig.peer.create_publisher(Image, topic, 10)
    node = rig.start(arguments=("-r", f"image:={topic}"), rectify=rectify)
    rig.publish_camera_info(d=BARREL, p=P)
    found = published(rig)
    np.testing.assert_allclose(found, GRID.network_from_input @ expected, atol=1e-9)
    said = "rectified here" if rectify == "on" else "rectified already"
    assert said in rig.wait_for_diagnostics("P of camera_info")["camera"]
    assert node.inference.camera.calibration is not None  # type: ignore[attr-defined]


def test_a_plain_yes_or_no_is_understood_where_yaml_makes_a_boolean_of_on_and_off(rig: Rig):
    node = rig.start(arguments=("-p", "rectify:=on"))
    assert node.parameters.now.rectify == "on"


def test_camera_info_is_used_by_default_where_it_comes_and_said_once(rig: Rig):
    rig.start()
    rig.publish_camera_info()
    np.testing.assert_allclose(published(rig), GRID.network_from_input @ K, atol=1e-9)
    rig.wait_for_diagnostics("there is no distortion to undo: K of camera_info")


def test_without_camera_info_the_network_s_k_is_used_without_a_warning(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
):
    lines = log_of_warnings(monkeypatch)
    rig.start()
    assert published(rig)[0, 0] == pytest.approx(SIZE[1])
    assert not [line for line in lines if "camera_info" in line]


# ---- binning, region of interest, sizes ---------------------------------------------------------


FULL = np.array([[605.0, 0, 641], [0, 606, 359], [0, 0, 1]])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"roi": RegionOfInterest(x_offset=600, y_offset=330, width=WIDTH, height=HEIGHT)},
            [605.0, 606.0, 41.0, 29.0],
        ),
        ({"binning_x": 20, "binning_y": 15}, [30.25, 40.4, 641.5 / 20 - 0.5, 359.5 / 15 - 0.5]),
    ],
)
def test_binning_and_region_of_interest_are_understood(rig: Rig, changes: dict, expected: list):
    rig.start()
    infos = rig.subscribe_matched(INFO, CameraInfo)
    p = np.column_stack([FULL, np.zeros(3)]).ravel()
    rig.camera_infos.publish(
        CameraInfo(width=1280, height=720, k=FULL.ravel(), p=p, r=np.eye(3).ravel(), **changes)
    )
    camera = rig.node.inference.camera  # type: ignore[union-attr]
    rig.wait_until(lambda: camera.calibration is not None, "the calibration arrives")
    rig.infer(0)
    rig.wait_until(lambda: infos, "camera_info")
    found = np.linalg.inv(GRID.network_from_input) @ matrix(infos[0])
    np.testing.assert_allclose(found[[0, 1, 0, 1], [0, 1, 2, 2]], expected, atol=1e-6)


def test_a_camera_info_of_a_larger_image_is_scaled_with_a_warning_that_lasts(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
):
    # stamps are old here
    monkeypatch.setattr("vggt_ros.ros.health.input_health.MAX_STAMP_AGE", np.inf)
    rig.start()
    twice = np.diag([2.0, 2.0, 1.0]) @ K
    twice[:2, 2] += 0.5
    rig.publish_camera_info(twice, width=2 * WIDTH, height=2 * HEIGHT)
    np.testing.assert_allclose(published(rig), GRID.network_from_input @ K, atol=1e-9)
    rig.infer(1)
    rig.wait_for_diagnostics("camera_info is of 128x96 pixels but the image has 64x48: it is taken")
    rig.wait_until(lambda: rig.level("/vggt: input") == DiagnosticStatus.WARN, "a warning")


def test_a_stray_camera_info_of_another_camera_changes_nothing(rig: Rig):
    rig.start()
    rig.publish_camera_info()
    rig.infer(0)
    other = [120.0, 0.0, 33.0, 0.0, 120.0, 25.0, 0.0, 0.0, 1.0]
    msg = CameraInfo(width=WIDTH, height=HEIGHT, k=other)
    rig.camera_infos.publish(msg)
    rig.wait_for_diagnostics("camera_info differs from the one that is used")
    np.testing.assert_allclose(published(rig, 1), GRID.network_from_input @ K, atol=1e-9)
    camera = rig.node.inference.camera  # type: ignore[union-attr]

    def is_taken() -> bool:
        rig.camera_infos.publish(msg)
        return camera.calibration.intrinsics[0, 0] == 120.0

    rig.wait_until(is_taken, "it is taken once it repeats")


# ---- lenses -------------------------------------------------------------------------------------


@pytest.mark.parametrize("resolution", ["network", "input"])
@pytest.mark.parametrize(
    ("model", "d"),
    [("plumb_bob", BARREL), ("equidistant", [0.02, -0.01, 0.003, -0.001])],
)
def test_a_raw_image_is_rectified_and_its_outputs_carry_the_k_of_their_grid(
    rig: Rig, model: str, d: list[float], resolution: str
):
    rig.start(depth_resolution=resolution)
    rig.subscribe_to_outputs()
    rig.publish_camera_info(d=d, distortion_model=model, p=P)
    noise = np.random.default_rng(0).integers(0, 256, (*INPUT, 3), np.uint8)
    raw = cv2.GaussianBlur(noise, (0, 0), 2.0)
    rig.images.publish(image_message(header(START, CAMERA), raw))
    rig.wait_until(lambda: rig.received["/vggt/rgb/image_rect_color"], "the rectified image")
    rig.wait_until(lambda: rig.received["/vggt/points"], "the cloud")
    maker = cv2.fisheye if model == "equidistant" else cv2
    maps = maker.initUndistortRectifyMap(
        K, np.array(d), np.eye(3), RECTIFIED, (WIDTH, HEIGHT), cv2.CV_32FC1
    )
    ideal = cv2.remap(raw, *maps, cv2.INTER_LINEAR)
    scale = np.eye(3) if resolution == "input" else GRID.network_from_input
    size = INPUT if resolution == "input" else SIZE
    if resolution == "network":
        ideal = cv2.resize(ideal, (SIZE[1], SIZE[0]), interpolation=cv2.INTER_LINEAR)
    msg = rig.received["/vggt/rgb/image_rect_color"][0]
    found = np.frombuffer(msg.data, np.uint8).reshape(msg.height, msg.width, 3)
    assert found.shape[:2] == size
    inner = np.s_[6:-6, 6:-6]
    assert np.abs(found.astype(int) - ideal)[inner].mean() < 3
    for topic in (INFO, "/vggt/rgb/camera_info"):
        info = rig.received[topic][0]
        assert (info.height, info.width) == size and not any(info.d)
        np.testing.assert_allclose(matrix(info), scale @ RECTIFIED, atol=1e-9)
    said = rig.wait_for_diagnostics("rectified here")["camera"]
    assert f"({model}, {len(d)} coefficients)" in said


def test_queries_and_tracks_go_through_the_lens_both_ways(rig: Rig):
    rig.engine.visibility = 1.0
    rig.start()
    tracks = rig.subscribe_matched("/vggt/tracks", PointTracks)
    rig.publish_camera_info(d=BARREL, p=P)
    rig.infer(0)
    u, v = 40.0, 30.0
    rig.queries.publish(QueryPoints(ids=[1], u=[u], v=[v]))
    rig.infer(1)
    rig.wait_until(lambda: rig.engine.queries or rig.publish(2), "the query is tracked")
    rig.wait_until(lambda: tracks, "tracks")
    asked = rig.engine.queries[0][0]
    ideal = cv2.undistortPoints(
        np.array([[[u, v]]]), K, np.array(BARREL), P=RECTIFIED,
        criteria=(cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 500, 1e-12),
    )[0, 0]  # fmt: skip
    np.testing.assert_allclose(asked[0], GRID.network_pixels(ideal[None])[0], atol=0.05)
    msg = tracks[-1]
    stamps = [stamp.sec * 10**9 + stamp.nanosec for stamp in msg.stamps]
    pinned = next(k for k, ns in enumerate(stamps) if abs(msg.u[k] - u) < 0.05)
    assert abs(msg.v[pinned] - v) < 0.05 and stamps[pinned] >= START
    moved = next(k for k in range(len(stamps)) if k != pinned)
    step = (stamps[moved] - stamps[pinned]) // PERIOD
    at = np.array([asked[0] - [rig.engine.focal[0] * 0.1 * step, 0.0]])
    plane = GRID.input_pixels(at)[0]
    rays = np.linalg.inv(RECTIFIED) @ [*plane, 1.0]
    raw = Lens("plumb_bob", tuple(BARREL)).distort(rays[None, :2])[0] @ K[:2, :2].T + K[:2, 2]
    np.testing.assert_allclose([msg.u[moved], msg.v[moved]], raw, atol=0.05)


def test_a_lens_that_is_not_known_is_a_warning_that_lasts(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("vggt_ros.ros.health.input_health.MAX_STAMP_AGE", np.inf)
    rig.start()
    rig.publish_camera_info(d=[0.1] * 6, distortion_model="double_sphere")
    assert published(rig)[0, 0] == pytest.approx(SIZE[1])
    rig.wait_for_diagnostics("distortion model 'double_sphere', which is not known here")
    rig.wait_until(lambda: rig.level("/vggt: input") == DiagnosticStatus.WARN, "a warning")


def test_rectify_that_was_asked_for_without_camera_info_is_a_warning(rig: Rig):
    rig.start(rectify="on")
    rig.infer(0)
    rig.wait_for_diagnostics("rectify is on, but no usable camera_info yet")


def test_a_lens_that_becomes_known_later_starts_another_map(rig: Rig):
    rig.start()
    rig.infer(0, 1)
    rig.publish_camera_info(d=BARREL, p=P)
    rig.infer(2)
    rig.wait_for_diagnostics("camera_info changes how the image is read: a new map starts")
    assert len(rig.engine.inferences[-1]) == 1
    rig.infer(3)
    assert len(rig.engine.inferences[-1]) == 2


def test_an_image_of_another_size_in_between_leaves_the_map_with_a_lens_alone(rig: Rig):
    rig.start()
    rig.publish_camera_info(d=BARREL, p=P)
    rig.infer(0, 1)
    stray = image_message(header(START + 2 * PERIOD, CAMERA), np.zeros((96, 128, 3), np.uint8))
    rig.images.publish(stray)
    rig.wait_until(lambda: rig.refused, "the stray image is refused")
    rig.infer(3)
    assert len(rig.engine.inferences[-1]) == 3
