# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Bad input is reported in /diagnostics and the log, and the next good frame is inferred."""

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from fakes.planar_engine import SIZE
from nav_msgs.msg import Path
from node_rig import CAMERA, INPUT, PERIOD, START, Rig, log_of_warnings
from sensor_msgs.msg import CameraInfo
from tf2_msgs.msg import TFMessage
from vggt_ros.msg import PointTracks, QueryPoints

from vggt_ros.ros.messages import header, stamp_ns
from vggt_ros.timeline import PATIENCE

pytestmark = pytest.mark.ros


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Warnings in the node's log."""
    return log_of_warnings(monkeypatch)


# ---- images -------------------------------------------------------------------------------------


BAD_IMAGES = {
    "short data": (dict(data=b"\0" * 100), "image data is short"),
    "zero width": (dict(width=0), "image size 0 x 48"),
    "invalid size": (dict(width=2**31, height=2**31), "image size 2147483648 x 2147483648"),
    "small step": (dict(step=10), "step 10 is too small"),
    "unknown encoding": (dict(encoding="8UC7"), "8UC7"),
    "no encoding": (dict(encoding=""), "encoding ''"),
    "encoding by another name": (dict(encoding="rgb888"), "'rgb888'"),
    "zero stamp": (dict(header=header(0, CAMERA)), "stamp is zero"),
    "stamp below zero": (dict(header=header(-5, CAMERA)), "stamp is below zero"),
    "stamp back": (dict(header=header(START - 5, CAMERA)), "stamp goes back"),
    "stamp twice": (dict(header=header(START, CAMERA)), "stamp repeats"),
}


@pytest.mark.parametrize("fault", BAD_IMAGES)
def test_a_bad_image_is_reported_and_never_enters_the_window(
    rig: Rig, warnings: list[str], fault: str
):
    changes, words = BAD_IMAGES[fault]
    rig.start()
    rig.infer(0)
    rig.publish(1, **changes)
    report = rig.wait_for_diagnostics(words, refused="1")
    (kind,) = (key for key in report if key.startswith("refused: "))
    assert len(kind) < 70, "the kind of fault is counted, without its particulars"
    assert any(words in line for line in warnings), "the log has it too"
    rig.infer(2)
    assert rig.engine.inferences[-1] == (0, 1), "frames 0 and 2 of the topic"


def test_many_bad_images_of_a_kind_are_one_line_in_the_log(rig: Rig, warnings: list[str]):
    rig.start()
    for _ in range(50):
        rig.publish(0, header=header(0, CAMERA))
    rig.wait_until(lambda: rig.refused == 50, "all are refused")
    assert len(warnings) == 1


def test_an_encoding_without_colours_is_used_with_one_notice(rig: Rig, warnings: list[str]):
    rig.start()
    for i in range(3):
        rig.publish(i, encoding="8UC3")
        rig.wait_until(lambda n=i: rig.count("inferences") > n, f"inference {i}")
    assert rig.refused == 0
    rig.wait_for_diagnostics("encoding 8UC3 names no colours", "read as bgr8")
    assert sum("8UC3" in line for line in warnings) == 1


def test_a_change_of_size_starts_a_new_window_and_is_reported(rig: Rig):
    rig.start()
    rig.infer(0, 1)
    large = np.zeros((60, 80, 3), np.uint8)
    rig.publish_repeatedly(large, START + 10**9, PATIENCE + 1)
    words = "image size changed from 64x48 to 80x60"
    rig.wait_for_diagnostics(words, refused=str(PATIENCE))
    assert rig.engine.inferences[-1] == (2,)


def test_a_stray_image_compiles_nothing_and_leaves_the_window_alone(rig: Rig):
    rig.start()
    rig.infer(0, 1)
    stray = np.zeros((60, 80, 3), np.uint8)
    for i in (2, 3, 4):
        rig.publish_repeatedly(stray, START + (i - 1) * PERIOD + 1, 2)
        rig.infer(i)
    words = "the image has a new size: 80x60, not 64x48; do two"
    rig.wait_for_diagnostics(words, refused="6")
    assert {size for size, _ in rig.engine.prepared} == {SIZE}
    assert rig.engine.inferences[-1] == (1, 2, 3, 4)


@pytest.mark.parametrize("shape", [(1, 1), (2000, 4), (4, 2000), (31, 64)])
def test_an_image_too_small_for_a_camera_is_always_refused(rig: Rig, shape: tuple[int, int]):
    rig.start()
    rig.publish_repeatedly(np.zeros((*shape, 3), np.uint8), START, PATIENCE + 1)
    words = (
        f"the image is too small for a camera's: {shape[1]}x{shape[0]}, but each side must be 32"
    )
    rig.wait_for_diagnostics(words, refused=str(PATIENCE + 1))
    assert rig.engine.prepared == []
    rig.infer(1)


STRAYS = {
    "an hour ahead": (3600, CAMERA, "the image's stamp jumps ahead: by 3600"),
    "an hour back": (-3600, CAMERA, "the image's stamp goes back"),
    "another camera": (0, "other_camera", "the image has another frame_id: 'other_camera', not"),
}


@pytest.mark.parametrize("stray", STRAYS)
def test_a_lone_stray_is_counted_and_touches_nothing(rig: Rig, warnings: list[str], stray: str):
    seconds, camera, words = STRAYS[stray]
    rig.start()
    paths = rig.subscribe_matched("/vggt/path", Path)
    transforms = rig.subscribe_matched("/tf", TFMessage)
    for i in (0, 2, 4):
        rig.infer(i)
        age = rig.wait_for_diagnostics(f"images received {i + 1}")["stamp age [s]"]
        rig.publish(i + 1, header=header(START + (i + 1) * PERIOD + seconds * 10**9, camera))
        report = rig.wait_for_diagnostics(words, refused=str(i // 2 + 1))
        assert report["stamp age [s]"] == age, "not of the stray"
    rig.infer(6)
    assert rig.engine.inferences[-1] == (0, 1, 2, 3), "the window and the map go on"
    rig.wait_until(lambda: paths and len(paths[-1].poses) == 4, "the path goes on")
    rig.wait_until(lambda: stamps_of(transforms, START + 6 * PERIOD), "the last transform")
    children = {t.child_frame_id for msg in transforms for t in msg.transforms}
    assert camera == CAMERA or camera not in children
    assert not stamps_of(transforms, START + PERIOD + seconds * 10**9)
    assert sum(words in line for line in warnings) == 1


def stamps_of(messages: list[TFMessage], ns: int) -> int:
    """How many transforms have this stamp."""
    stamps = [stamp_ns(t.header.stamp) for msg in messages for t in msg.transforms]
    return stamps.count(ns)


def test_a_change_of_frame_id_that_insists_starts_a_new_window_and_is_reported(rig: Rig):
    rig.start()
    rig.infer(0, 1)
    for i in range(PATIENCE + 1):
        rig.publish(2 + i, header=header(START + (2 + i) * PERIOD, "other_camera"))
    words = "frame_id changed from 'camera_optical' to 'other_camera': a new window"
    rig.wait_for_diagnostics(words, refused=str(PATIENCE))
    rig.wait_until(lambda: rig.engine.inferences[-1] == (2,), "it is inferred")


def test_a_clock_that_was_set_ahead_keeps_window_and_map(rig: Rig):
    rig.start()
    rig.infer(0, 1)
    for i in range(PATIENCE + 1):
        rig.publish(2 + i, header=header(START + 3600 * 10**9 + i * PERIOD, CAMERA))
    rig.wait_for_diagnostics("s: the map goes on", refused=str(PATIENCE))
    rig.wait_until(lambda: rig.engine.inferences[-1] == (0, 1, 2), "it is inferred")


def test_a_recording_that_is_played_again_is_accepted_after_a_few_frames(rig: Rig):
    rig.start()
    rig.infer(20, 21)
    for i in range(PATIENCE):
        rig.publish(i)
    rig.wait_until(lambda: rig.refused == PATIENCE, "five are refused")
    rig.infer(5, 6)
    rig.wait_for_diagnostics("time went back: a new window and a new map start")
    assert len(rig.engine.inferences[-1]) == 2


# ---- camera_info --------------------------------------------------------------------------------


NO_K = [0.0] * 9
NOT_A_K = [60.0, 0.0, 33.0, 0.0, 62.0, 25.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("k", [NO_K, NOT_A_K])
@pytest.mark.parametrize("mode", ["model", "camera_info"])
def test_an_uncalibrated_camera_is_reported_and_the_network_s_k_is_used(
    rig: Rig, mode: str, k: list[float]
):
    rig.start(intrinsics=mode)
    infos = rig.subscribe("/vggt/depth/camera_info", CameraInfo)
    rig.camera_infos.publish(CameraInfo(width=INPUT[1], height=INPUT[0], k=k))
    rig.wait_for_diagnostics("camera_info has no calibration")
    rig.infer(0)
    rig.wait_until(lambda: infos, "camera_info")
    assert infos[0].k[0] == pytest.approx(SIZE[1])


def test_camera_info_of_another_size_is_reported_and_the_network_s_k_is_used(rig: Rig):
    rig.start(intrinsics="camera_info")
    infos = rig.subscribe("/vggt/depth/camera_info", CameraInfo)
    rig.publish_camera_info(width=640, height=360)
    rig.infer(0)
    rig.wait_for_diagnostics("camera_info is of 640x360 pixels but the image has 64x48")
    rig.wait_until(lambda: infos, "camera_info")
    assert infos[0].k[0] == pytest.approx(SIZE[1])


@pytest.mark.parametrize(
    ("informed", "words"), [(True, "camera_info is of 640x360"), (False, "no usable camera_info")]
)
def test_missing_intrinsics_are_a_warning_until_they_arrive(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, informed: bool, words: str
):
    # stamps are old here
    monkeypatch.setattr("vggt_ros.ros.health.input_health.MAX_STAMP_AGE", np.inf)
    rig.start(intrinsics="camera_info")
    if informed:
        rig.publish_camera_info(width=640, height=360)
    rig.infer(0)
    report = rig.wait_for_diagnostics(f"intrinsics is camera_info, but {words}")
    assert report["/vggt: input"].startswith("intrinsics is camera_info, but")
    assert rig.level("/vggt: input") == DiagnosticStatus.WARN
    rig.publish_camera_info()
    rig.infer(1)
    rig.wait_until(lambda: rig.level("/vggt: input") == DiagnosticStatus.OK, "no warning is left")


# ---- queries ------------------------------------------------------------------------------------


BAD_QUERIES = pytest.mark.parametrize(
    ("query", "words"),
    [
        (QueryPoints(ids=[1], u=[float("nan")], v=[3.0]), "query 1 is not finite"),
        (QueryPoints(ids=[2], u=[64.0], v=[3.0]), "outside the 64x48 image: (64, 3)"),
        (QueryPoints(ids=[3], u=[-9.0], v=[3.0]), "outside the 64x48 image"),
        (QueryPoints(ids=[1, 2], u=[3.0], v=[3.0]), "lists of equal length"),
        (QueryPoints(ids=[1, 1], u=[3.0, 4.0], v=[3.0, 4.0]), "repeats an id"),
        (
            QueryPoints(ids=[1], u=[3.0], v=[3.0], header=header(START - 77, "c")),
            "is not one of the",
        ),
    ],
)


@BAD_QUERIES
def test_a_bad_query_leaves_the_tracks_that_run_as_they_are(
    rig: Rig, query: QueryPoints, words: str
):
    node = rig.start()
    tracks = rig.subscribe_matched("/vggt/tracks", PointTracks)
    rig.infer(0)
    rig.queries.publish(QueryPoints(ids=[7, 3], u=[40.0, 10.0], v=[20.0, 11.0]))
    rig.wait_until(lambda: node.inference.pipeline.is_tracking, "the query arrives")
    rig.infer(1)
    rig.queries.publish(query)
    rig.wait_for_diagnostics(words)
    rig.infer(2)
    rig.wait_until(lambda: len(tracks) == 2, "tracks")
    assert [list(msg.ids) for msg in tracks] == [[7, 3], [7, 3]]
    first, second = (np.reshape(msg.u, (-1, 2)) for msg in tracks)
    np.testing.assert_array_equal(second[:2], first, "the points of the first query, further on")


@BAD_QUERIES
def test_a_bad_query_is_reported_and_the_next_frame_is_inferred(
    rig: Rig, query: QueryPoints, words: str
):
    rig.start()
    rig.infer(0)
    rig.queries.publish(query)
    rig.wait_for_diagnostics(words)
    rig.infer(1)
