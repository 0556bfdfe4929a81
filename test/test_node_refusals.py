# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Bad input is named in /diagnostics and the log, and the next good frame has its turn."""

from collections.abc import Iterator

import numpy as np
import pytest
from node_rig import INPUT, PERIOD, SIZE, START, Rig
from vggt_ros.msg import QueryPoints

from vggt_ros.engine.interface import DeviceLost
from vggt_ros.ros.inputs import Sizes
from vggt_ros.ros.messages import camera_info_message, header, image_message

K = np.array([[60.0, 0, 33], [0, 62, 25], [0, 0, 1]])


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the node warns of in its log."""
    from vggt_ros.ros import diagnostics

    lines: list[str] = []
    original = diagnostics.Health.__init__

    def init(self, clock, warn, inform):
        original(self, clock, lines.append, inform)

    monkeypatch.setattr(diagnostics.Health, "__init__", init)
    return lines


BAD_IMAGES = {
    "short data": (dict(data=b"\0" * 100), "image data is short"),
    "zero width": (dict(width=0), "image size 0 x 48"),
    "absurd size": (dict(width=2**31, height=2**31), "is absurd"),
    "small step": (dict(step=10), "step 10 is too small"),
    "unknown encoding": (dict(encoding="8UC7"), "8UC7"),
    "no encoding": (dict(encoding=""), "encoding ''"),
    "encoding by another name": (dict(encoding="RGB8"), "'RGB8' is not read here: use one of rgb8"),
    "zero stamp": (dict(header=header(0, "camera_optical")), "stamp is zero"),
    "stamp below zero": (dict(header=header(-5, "camera_optical")), "stamp is below zero"),
    "stamp back": (dict(header=header(START - 5, "camera_optical")), "stamp goes back"),
    "stamp twice": (dict(header=header(START, "camera_optical")), "stamp repeats"),
}


@pytest.mark.parametrize("fault", BAD_IMAGES)
def test_a_bad_image_is_named_and_survived(rig: Rig, said: list[str], fault: str):
    changes, words = BAD_IMAGES[fault]
    rig.start()
    rig.show_and_wait(0)
    rig.show(1, **changes)
    report = rig.until_diagnosed(words)
    assert report["refused"] == "1"
    (kind,) = (key for key in report if key.startswith("refused: "))
    assert len(kind) < 70, "what is counted is the kind of fault, without its particulars"
    assert any(words in line for line in said), "the log says it too"
    rig.show_and_wait(2)
    assert rig.wall.looks[-1] == (0, 1), "the bad one never entered the window"


def test_a_thousand_bad_images_are_one_line_in_the_log(rig: Rig, said: list[str]):
    rig.start()
    for _ in range(50):
        rig.show(0, header=header(0, "camera_optical"))
    rig.until(lambda: rig.node.health._refused.counts.total() == 50, "all are refused")
    assert len(said) == 1


def test_a_change_of_size_begins_a_new_window_and_is_named(rig: Rig):
    rig.start()
    rig.show_and_wait(0, 1)
    large = np.zeros((60, 80, 3), np.uint8)
    rig.publish_in_turn(large, START + 10**9, Sizes.PATIENCE)
    report = rig.until_diagnosed("image size changed from 64x48 to 80x60")
    assert report["refused"] == str(Sizes.PATIENCE - 1)
    assert rig.wall.looks[-1] == (2,)


def test_a_stray_picture_compiles_nothing_and_leaves_the_window_alone(rig: Rig):
    rig.start()
    rig.show_and_wait(0, 1)
    stray = np.zeros((60, 80, 3), np.uint8)
    for i in (2, 3, 4):
        rig.publish_in_turn(stray, START + (i - 1) * PERIOD + 1, Sizes.PATIENCE - 1)
        rig.show_and_wait(i)
    report = rig.until_diagnosed("the image has a new size: 80x60, not 64x48; it is used once 3")
    assert report["refused"] == "6"
    assert {size for size, _ in rig.wall.prepared} == {SIZE}
    assert rig.wall.looks[-1] == (1, 2, 3, 4)


@pytest.mark.parametrize("shape", [(1, 1), (2000, 4), (4, 2000), (31, 64)])
def test_a_picture_too_small_for_a_camera_is_refused_however_often_it_comes(rig: Rig, shape):
    rig.start()
    rig.publish_in_turn(np.zeros((*shape, 3), np.uint8), START, Sizes.PATIENCE + 1)
    words = (
        f"the image is too small for a camera's: {shape[1]}x{shape[0]}, but each side must be 32"
    )
    assert rig.until_diagnosed(words)["refused"] == str(Sizes.PATIENCE + 1)
    assert rig.wall.prepared == []
    rig.show_and_wait(1)


def test_a_change_of_frame_begins_a_new_window_and_is_named(rig: Rig):
    rig.start()
    rig.show_and_wait(0, 1)
    rig.show(2, header=header(START + 10**9, "other_camera"))
    rig.until_diagnosed("frame_id changed from 'camera_optical' to 'other_camera'")
    assert rig.wall.looks[-1] == (2,)


def test_a_recording_that_is_played_again_is_believed_after_a_few_frames(rig: Rig):
    rig.start()
    rig.show_and_wait(20, 21)
    for i in range(5):
        rig.show(i)
    rig.until(lambda: rig.node.health._refused.counts.total() == 5, "five are refused")
    rig.show_and_wait(5, 6)
    rig.until_diagnosed("a new map begins")
    assert len(rig.wall.looks[-1]) == 2


NO_K = [0.0] * 9
NOT_A_K = [60.0, 0.0, 33.0, 0.0, 62.0, 25.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("k", [NO_K, NOT_A_K])
@pytest.mark.parametrize("mode", ["model", "camera_info"])
def test_an_uncalibrated_camera_is_named_and_the_network_s_k_serves(
    rig: Rig, mode: str, k: list[float]
):
    from sensor_msgs.msg import CameraInfo

    rig.start(intrinsics=mode)
    rig.listen("/vggt/depth/camera_info", CameraInfo)
    rig.infos.publish(CameraInfo(width=INPUT[1], height=INPUT[0], k=k))
    rig.until_diagnosed("camera_info has no calibration")
    rig.show_and_wait(0)
    rig.until(lambda: rig.heard["/vggt/depth/camera_info"], "camera_info")
    assert rig.heard["/vggt/depth/camera_info"][0].k[0] == pytest.approx(SIZE[1])


def test_camera_info_of_another_size_is_named_and_the_network_s_k_serves(rig: Rig):
    from sensor_msgs.msg import CameraInfo

    rig.start(intrinsics="camera_info")
    rig.listen("/vggt/depth/camera_info", CameraInfo)
    rig.infos.publish(camera_info_message(header(START, "c"), K, width=640, height=480))
    rig.until(lambda: rig.node.looker.calibration is not None, "the calibration")
    rig.show_and_wait(0)
    rig.until_diagnosed("camera_info is of 640x480 pixels but the image has 64x48")
    rig.until(lambda: rig.heard["/vggt/depth/camera_info"], "camera_info")
    assert rig.heard["/vggt/depth/camera_info"][0].k[0] == pytest.approx(SIZE[1])


@pytest.mark.parametrize(
    ("informed", "words"), [(True, "camera_info is of 640x480"), (False, "no usable camera_info")]
)
def test_intrinsics_that_are_wanted_and_missing_are_a_warning_until_they_come(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, informed: bool, words: str
):
    from diagnostic_msgs.msg import DiagnosticStatus

    monkeypatch.setattr("vggt_ros.ros.diagnostics.FAR", np.inf)  # the rig's stamps are old
    node = rig.start(intrinsics="camera_info")
    if informed:
        rig.inform(K, width=640, height=480)
        rig.until(lambda: node.looker.calibration is not None, "the calibration")
    rig.show_and_wait(0)
    report = rig.until_diagnosed(f"intrinsics is camera_info, but {words}")
    assert report["/vggt: camera"].startswith("intrinsics is camera_info, but")
    assert rig.level("/vggt: camera") == DiagnosticStatus.WARN

    def fits(calibration) -> bool:
        return calibration is not None and calibration.width == INPUT[1]

    rig.inform(K)
    rig.until(lambda: fits(node.looker.calibration), "the calibration that fits")
    rig.show_and_wait(1)
    rig.until(lambda: rig.level("/vggt: camera") == DiagnosticStatus.OK, "no warning is left")


@pytest.mark.parametrize(
    ("mode", "d", "noticed"),
    [
        ("camera_info", [0.1, 0.0, 0.0, 0.0, 0.0], True),
        ("camera_info", [0.0] * 5, False),
        ("camera_info", [], False),
        ("model", [0.1, 0.0, 0.0, 0.0, 0.0], False),
    ],
)
def test_distortion_that_is_ignored_is_named(rig: Rig, mode: str, d: list[float], noticed: bool):
    node = rig.start(intrinsics=mode)
    info = camera_info_message(header(START, "c"), K, width=INPUT[1], height=INPUT[0])
    info.d = d
    rig.infos.publish(info)
    rig.until(lambda: node.looker.calibration is not None, "the calibration")
    rig.show_and_wait(0)
    report = rig.until_diagnosed("looks 1")
    words = "camera_info has distortion, which is ignored"
    assert (words in report["last notice"]) == noticed
    assert (f"noticed: {words}" in report) == noticed


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (QueryPoints(ids=[1], u=[float("nan")], v=[3.0]), "query 1 is not a number"),
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
def test_a_bad_query_is_named_and_survived(rig: Rig, query: QueryPoints, words: str):
    rig.start()
    rig.show_and_wait(0)
    rig.queries.publish(query)
    rig.until_diagnosed(words)
    rig.show_and_wait(1)


def test_a_look_that_fails_is_named_and_the_next_one_has_its_turn(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
):
    rig.start()
    with monkeypatch.context() as broken:
        broken.setattr(rig.wall, "look", lambda *_args, **_options: 1 / 0)
        rig.show(0)
        rig.until_diagnosed("a look failed: ZeroDivisionError")
    rig.show_and_wait(1)


def test_images_whose_program_is_being_compiled_wait_and_are_not_refused(rig: Rig):
    rig.wall.missing.add(SIZE)
    rig.wall.compiling = ("encoder 56x42", "window of 1 56x42")
    rig.start()
    rig.show(0)
    report = rig.until_diagnosed("waiting for a program 1")
    assert report["refused"] == "0" and report["images used"] == "0"
    assert report["state"] == report["/vggt: network"] == "compiling for 56x42; images wait"
    assert report["compiling"] == "encoder 56x42, window of 1 56x42"
    rig.wall.missing.clear()
    rig.wall.compiling = ()
    rig.show_and_wait(1)
    assert rig.wall.looks == [(0,)], "what waited was not kept"
    report = rig.until_diagnosed("state ready", "compiling nothing")
    assert report["/vggt: network"] == "ready"


def test_a_size_that_is_being_compiled_leaves_the_other_one_s_window_alone(rig: Rig):
    rig.start()
    rig.show_and_wait(0, 1)
    rig.wall.missing.add((56, 56))
    square = np.zeros((64, 64, 3), np.uint8)
    rig.publish_in_turn(square, START + 150_000_000, Sizes.PATIENCE)
    rig.until_diagnosed("waiting for a program 1", "compiling for 56x56; images wait")
    rig.show_and_wait(2)
    assert rig.wall.looks[-1] == (0, 1, 2)
    rig.wall.missing.clear()
    rig.pictures.publish(image_message(header(START + 250_000_000, "camera_optical"), square))
    rig.until_diagnosed("image size changed from 64x48 to 64x64")


def test_a_window_that_is_still_small_says_why(rig: Rig):
    rig.wall.largest = 1
    rig.wall.compiling = ("window of 4 56x42", "window of 3 56x42")
    rig.start()
    rig.show_and_wait(0, 1, 2)
    report = rig.until_diagnosed("1 of 3 frames: more are being compiled")
    assert report["compiling"] == "window of 4 56x42, window of 3 56x42"
    assert report["window"] == "1 of 3 frames"
    rig.wall.compiling = ()
    rig.until_diagnosed("1 of 3 frames: more do not run, see notices")
    rig.wall.largest = 4
    rig.show_and_wait(3)
    assert rig.until_diagnosed("window 4 frames")["/vggt: network"] == "ready"


def test_what_is_compiled_is_logged_as_it_changes():
    from vggt_ros.ros.diagnostics import Health

    lines: list[str] = []
    health = Health(lambda: 0.0, lines.append, lines.append)
    for shapes in ((), ("a", "b"), ("a", "b"), ("b",), (), ()):
        health.compiles(shapes)
    assert lines == ["compiling a", "compiling b", "all that is needed is compiled"]


def test_a_notice_that_repeats_does_not_hide_others():
    from vggt_ros.ros.notices import Complaints

    lines: list[str] = []
    now = [0.0]
    notices = Complaints(lambda: now[0], lines.append)
    assert notices.rows("notice") == {"last notice": "none"}
    for text in ("oldest: 0", "a new map begins: 1", "no mount", *(f"late: {i}" for i in range(9))):
        now[0] += 1.0
        notices.add(text)
    now[0] += 0.5
    notices.add("no mount")
    assert notices.rows("notice") == {
        "last notice": "no mount",
        "last notice age [s]": "0.0",
        "second last notice": "late: 8",
        "second last notice age [s]": "0.5",
        "third last notice": "a new map begins: 1",
        "third last notice age [s]": "10.5",
    }
    assert notices.counts == {"oldest": 1, "a new map begins": 1, "no mount": 2, "late": 9}
    assert lines[-3:] == ["late: 0", "late: 5", "no mount"], "what goes on is logged now and then"
    assert notices.newest(within=1.0) == "no mount"
    now[0] += 1.0
    assert notices.newest(within=1.0) == ""


def test_states_that_come_and_go_with_each_image_are_logged_once():
    from vggt_ros.ros.diagnostics import Health

    lines: list[str] = []
    health = Health(lambda: 0.0, lines.append, lines.append)
    for _ in range(3):
        health.wait("compiling for 56x56; images wait")
        health.used()
    assert lines == ["compiling for 56x56; images wait", "ready"]


def test_a_lost_device_is_told_and_ends_the_node(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    from diagnostic_msgs.msg import DiagnosticStatus

    def lost(*_args, **_options):
        raise DeviceLost("pencil failed at window of 1 56x42: INTERNAL: it broke")

    rig.start()
    rig.show_and_wait(0)
    monkeypatch.setattr(rig.wall, "look", lost)
    rig.pictures.publish(image_message(header(START + 10**9, "c"), np.zeros((48, 64, 3), np.uint8)))
    while not rig.deaths:
        pass
    assert isinstance(rig.deaths.pop(), DeviceLost)
    rig.until_diagnosed("pencil failed at window of 1")
    assert rig.level("/vggt: network") == DiagnosticStatus.ERROR


def test_silence_is_explained(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("vggt_ros.ros.no_image.PATIENCE", 0.0)
    rig.start()
    report = rig.until_diagnosed("on /image: published by robot (reliable)")
    assert report["/vggt: camera"].startswith("no image for")
    assert "ros2 topic hz /image" in report["/vggt: camera"]
    rig.robot.destroy_publisher(rig.pictures)
    rig.until_diagnosed("nobody publishes it; remap image")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, ""), (3600, "3600 s ahead of the ROS"), (-3600, "3600 s behind the ROS")],
)
def test_images_of_another_clock_are_a_warning(rig: Rig, seconds: int, said: str):
    from diagnostic_msgs.msg import DiagnosticStatus

    rig.start()
    now = rig.robot.get_clock().now().nanoseconds
    rig.show(0, header=header(now + seconds * 10**9, "camera_optical"))
    report = rig.until_diagnosed("images received 1")
    assert float(report["stamp age [s]"]) == pytest.approx(-seconds, abs=8.0)
    assert said in report["/vggt: camera"]
    assert ("bag without use_sim_time" in report["/vggt: camera"]) == bool(said)
    expected = DiagnosticStatus.WARN if said else DiagnosticStatus.OK
    assert rig.level("/vggt: camera") == expected


def test_random_weights_are_called_noise(rig: Rig, said: list[str]):
    rig.wall.random_weights = True
    rig.start()
    rig.until_diagnosed("random: the geometry is noise")
    assert said == ["wall has random weights: its geometry is noise"]


def test_units_are_arbitrary_and_say_so(rig: Rig):
    rig.start()
    rig.show_and_wait(0)
    report = rig.until_diagnosed("units are arbitrary")
    assert report["scale"] == report["/vggt: geometry"] == "units are arbitrary"


@pytest.mark.parametrize(
    ("map_voxel", "words"), [(0.05, "the map is empty: move"), (0.0, "map_voxel is 0")]
)
def test_a_map_that_is_not_there_is_not_saved(rig: Rig, map_voxel: float, words: str):
    rig.start(map_voxel=map_voxel)
    answer = rig.call("save_map")
    assert not answer.success and words in answer.message


def test_a_map_that_no_window_joins_says_why(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    rig.start()
    rig.show_and_wait(0)
    monkeypatch.setattr("vggt_ros.mapping.alignment.MAX_RESIDUAL", -1.0)
    rig.show_and_wait(1)
    answer = rig.call("save_map")
    assert not answer.success and "did not join: the shared cameras disagree" in answer.message


@pytest.mark.parametrize(
    ("random_weights", "advice"),
    [(False, "move more slowly"), (True, "expected, since the weights are random")],
)
def test_a_map_that_no_window_joins_for_long_is_a_warning(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, random_weights: bool, advice: str
):
    from diagnostic_msgs.msg import DiagnosticStatus

    rig.wall.random_weights = random_weights
    rig.start()
    rig.show_and_wait(0)
    monkeypatch.setattr("vggt_ros.mapping.alignment.MAX_RESIDUAL", -1.0)
    rig.show_and_wait(1, 2, 3, 4)
    rig.until_diagnosed("looks 5")
    assert rig.level("/vggt: geometry") == DiagnosticStatus.OK, "four may be a mishap"
    rig.show_and_wait(5)
    report = rig.until_diagnosed("5 windows in a row do not fit the map")
    assert "the shared cameras disagree" in report["/vggt: geometry"]
    assert advice in report["/vggt: geometry"]
    assert rig.level("/vggt: geometry") == DiagnosticStatus.WARN
    monkeypatch.undo()
    rig.show_and_wait(6)
    assert rig.until_diagnosed("looks 7")["joints refused"] == "5"
    assert rig.level("/vggt: geometry") == DiagnosticStatus.OK


def test_a_network_that_cannot_be_opened_ends_the_node(rig: Rig):
    from vggt_ros.errors import UserError

    def broken(_parameters, _progress):
        raise UserError("no such model")

    rig.start(engine=broken)
    while not rig.deaths:
        pass
    assert str(rig.deaths.pop()) == "no such model"


def test_missing_tf2_msgs_turns_transforms_off_unless_they_were_asked_for(
    rig: Rig, said: list[str], monkeypatch: pytest.MonkeyPatch
):
    import sys

    from vggt_ros.errors import UserError
    from vggt_ros.ros import transforms
    from vggt_ros.ros.parameters import Parameters
    from vggt_ros.ros.tf_cache import open_frames

    monkeypatch.setitem(sys.modules, "tf2_msgs.msg", None)
    frames = open_frames(rig.robot, 0.0)
    off = transforms.open_transforms(rig.robot, Parameters(), frames, said.append)
    assert off.state == "off: tf2_msgs is not installed" and "tf2_msgs" in said[0]
    with pytest.raises(UserError, match="needs the package tf2_msgs"):
        transforms.open_transforms(rig.robot, Parameters(tf_mode="camera"), frames, said.append)
