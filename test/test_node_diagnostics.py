# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node's state in /diagnostics: compiling, faults of the device, clocks, map and weights."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from fakes.planar_engine import SIZE
from made_updates import update
from node_rig import CAMERA, START, TIMEOUT, Rig, log_of_warnings

from vggt_ros.engine.interface import DeviceLost
from vggt_ros.errors import UserError
from vggt_ros.ros.health.diagnostics import Health
from vggt_ros.ros.health.notices import ThrottledLog
from vggt_ros.ros.messages import header, image_message
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.tf import transforms
from vggt_ros.ros.tf.tf_cache import open_frames
from vggt_ros.timeline import PATIENCE

pytestmark = pytest.mark.ros


# ---- without a node -----------------------------------------------------------------------------


def test_compiling_is_logged_when_it_changes():
    lines: list[str] = []
    health = Health(lambda: 0.0, lines.append, lines.append)
    for shapes in ((), ("a", "b"), ("a", "b"), ("b",), (), ()):
        health.set_compiling(shapes)
    assert lines == ["compiling a", "compiling b", "all that is needed is compiled"]


def test_states_that_alternate_with_each_image_are_logged_once():
    lines: list[str] = []
    health = Health(lambda: 0.0, lines.append, lines.append)
    for _ in range(3):
        health.wait("compiling for 56x56; images wait")
        health.used()
    assert lines == ["compiling for 56x56; images wait", "ready"]


def test_a_repeated_notice_does_not_hide_others():
    lines: list[str] = []
    now = [0.0]
    notices = ThrottledLog(lambda: now[0], lines.append)
    assert notices.rows("notice") == {"last notice": "none"}
    for text in ("oldest: 0", "a new map starts: 1", "no mount", *(f"late: {i}" for i in range(9))):
        now[0] += 1.0
        notices.add(text)
    now[0] += 0.5
    notices.add("no mount")
    assert notices.rows("notice") == {
        "last notice": "no mount",
        "last notice age [s]": "0.0",
        "second last notice": "late: 8",
        "second last notice age [s]": "0.5",
        "third last notice": "a new map starts: 1",
        "third last notice age [s]": "10.5",
    }
    assert notices.counts == {"oldest": 1, "a new map starts": 1, "no mount": 2, "late": 9}
    assert lines[-3:] == ["late: 0", "late: 5", "no mount"], "repeated ones at intervals"
    assert notices.newest(within=1.0) == "no mount"
    now[0] += 1.0
    assert notices.newest(within=1.0) == ""


# ---- compiling ----------------------------------------------------------------------------------


def test_images_without_a_compiled_program_are_counted_and_not_refused(rig: Rig):
    rig.engine.missing.add(SIZE)
    rig.engine.compiling = ("encoder 56x42", "window of 1 56x42")
    rig.start()
    rig.publish(0)
    report = rig.wait_for_diagnostics("waiting for a program 1", "state compiling for")
    assert report["refused"] == "0" and report["images used"] == "0"
    assert report["state"] == report["/vggt: network"] == "compiling for 56x42; images wait"
    assert report["compiling"] == "encoder 56x42, window of 1 56x42"
    rig.engine.missing.clear()
    rig.engine.compiling = ()
    rig.infer(1)
    assert rig.engine.inferences == [(0,)], "the waiting image was not kept"
    report = rig.wait_for_diagnostics(state="ready", compiling="nothing")
    assert report["/vggt: network"] == "ready"


def test_the_solver_of_loops_is_imported_while_images_wait_for_a_program(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "gtsam", None)
    rig.engine.missing.add(SIZE)
    node = rig.start()
    rig.publish(0)
    rig.wait_for_diagnostics("waiting for a program 1")
    rig.wait_until(lambda: "gtsam" in node.inference.pipeline.map.loops.obstacles.text, "a reason")


def test_a_size_that_is_being_compiled_leaves_the_window_of_the_other_size_alone(rig: Rig):
    rig.start()
    rig.infer(0, 1)
    rig.engine.missing.add((56, 56))
    square = np.zeros((64, 64, 3), np.uint8)
    rig.publish_repeatedly(square, START + 150_000_000, PATIENCE + 1)
    rig.wait_for_diagnostics("waiting for a program 1", "compiling for 56x56; images wait")
    rig.infer(2)
    assert rig.engine.inferences[-1] == (0, 1, 2)
    rig.engine.missing.clear()
    rig.publish_repeatedly(square, START + 250_000_000, PATIENCE + 1)
    rig.wait_for_diagnostics("image size changed from 64x48 to 64x64")


def test_a_window_of_fewer_frames_is_a_warning_with_its_reason(rig: Rig):
    rig.engine.max_frames = 1
    rig.engine.compiling = ("window of 4 56x42", "window of 3 56x42")
    rig.start()
    rig.infer(0, 1, 2)
    report = rig.wait_for_diagnostics("1 of 3 frames: more are being compiled")
    assert report["compiling"] == "window of 4 56x42, window of 3 56x42"
    assert report["window"] == "1 of 3 frames"
    rig.engine.compiling = ()
    rig.wait_for_diagnostics("1 of 3 frames: more do not run, see notices")
    rig.engine.max_frames = 4
    rig.infer(3)
    assert rig.wait_for_diagnostics(window="4 frames")["/vggt: network"] == "ready"


# ---- faults -------------------------------------------------------------------------------------


def test_a_failed_inference_is_reported_and_the_next_image_is_inferred(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
):
    rig.start()
    with monkeypatch.context() as broken:
        broken.setattr(rig.engine, "infer", lambda *_args, **_options: 1 / 0)
        rig.publish(0)
        rig.wait_for_diagnostics("an inference failed: ZeroDivisionError")
    rig.infer(1)


def wait_for_failure(rig: Rig) -> BaseException:
    """The error with which a thread of the node ended."""
    end = time.monotonic() + TIMEOUT
    while not rig.failures:
        assert time.monotonic() < end, "the node does not end"
        time.sleep(0.002)
    return rig.failures.pop()


def test_a_lost_device_is_an_error_and_ends_the_node(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    def lost(*_args, **_options):
        raise DeviceLost("gpu failed at window of 1 56x42: INTERNAL: it broke")

    rig.start()
    rig.infer(0)
    monkeypatch.setattr(rig.engine, "infer", lost)
    rig.images.publish(
        image_message(header(START + 10**9, CAMERA), np.zeros((48, 64, 3), np.uint8))
    )
    assert isinstance(wait_for_failure(rig), DeviceLost)
    rig.wait_for_diagnostics("gpu failed at window of 1")
    assert rig.level("/vggt: network") == DiagnosticStatus.ERROR


def test_a_network_that_cannot_be_opened_ends_the_node(rig: Rig):
    def broken(_parameters, _progress):
        raise UserError("no such model")

    rig.start(engine=broken)
    assert str(wait_for_failure(rig)) == "no such model"


def test_missing_images_are_explained(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("vggt_ros.ros.subscriptions.no_image.TIMEOUT", 0.0)
    rig.start()
    report = rig.wait_for_diagnostics("on /image: published by peer (reliable, volatile)")
    assert report["/vggt: input"].startswith("no image for")
    assert "ros2 topic hz /image" in report["/vggt: input"]
    assert rig.level("/vggt") == DiagnosticStatus.ERROR
    rig.peer.destroy_publisher(rig.images)
    rig.wait_for_diagnostics("it has no publisher; remap image")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, ""), (3600, "3600 s ahead of the ROS"), (-3600, "3600 s behind the ROS")],
)
def test_images_of_another_clock_are_a_warning(rig: Rig, seconds: int, words: str):
    rig.start()
    now = rig.peer.get_clock().now().nanoseconds
    rig.publish(0, header=header(now + seconds * 10**9, CAMERA))
    report = rig.wait_for_diagnostics("images received 1")
    assert float(report["stamp age [s]"]) == pytest.approx(-seconds, abs=8.0)
    assert words in report["/vggt: input"]
    assert ("bag without use_sim_time" in report["/vggt: input"]) == bool(words)
    expected = DiagnosticStatus.WARN if words else DiagnosticStatus.OK
    assert rig.level("/vggt: input") == expected


def test_missing_tf2_msgs_turns_transforms_off_unless_the_user_asked_for_them(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
):
    notices: list[str] = []
    monkeypatch.setitem(sys.modules, "tf2_msgs.msg", None)
    frames = open_frames(rig.peer, 0.0)
    off = transforms.open_transforms(rig.peer, Parameters(), frames, notices.append)
    assert off.state == "off: tf2_msgs is not installed" and "tf2_msgs" in notices[0]
    with pytest.raises(UserError, match="needs the package tf2_msgs"):
        transforms.open_transforms(rig.peer, Parameters(tf_mode="camera"), frames, notices.append)


# ---- weights, scale and map ---------------------------------------------------------------------


def test_random_weights_are_a_warning_that_geometry_is_noise(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
):
    warnings = log_of_warnings(monkeypatch)
    rig.engine.random_weights = True
    rig.start()
    rig.wait_for_diagnostics("random: the geometry is noise")
    rig.wait_until(lambda: warnings, "a warning")
    assert warnings == ["planar has random weights: its geometry is noise"]


def test_arbitrary_units_are_reported(rig: Rig):
    rig.start()
    rig.infer(0)
    report = rig.wait_for_diagnostics("units are arbitrary")
    assert report["scale"] == report["/vggt: scale"] == "units are arbitrary"


@pytest.mark.parametrize(
    ("map_voxel", "words"), [(0.05, "the map is empty: move"), (0.0, "map_voxel is 0")]
)
def test_an_empty_or_disabled_map_is_not_saved(
    rig: Rig, map_voxel: float, words: str, tmp_path: Path
):
    rig.start(map_voxel=map_voxel, map_path=str(tmp_path / "map.ply"))
    response = rig.call("save_map")
    assert not response.success and words in response.message


def test_an_empty_map_names_the_reason_of_the_refused_window(rig: Rig, tmp_path: Path):
    node = rig.start(map_path=str(tmp_path / "map.ply"))
    refused = update([0, 1], accepted=False, reason="the shared cameras disagree")
    node.sender.call_soon(lambda: node.outputs.publish(refused))
    response = rig.call("save_map")
    assert not response.success
    assert "the newest window was refused: the shared cameras disagree" in response.message
