# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A rig that is wrong: each fault is named with figures, and the other cameras go on."""

import ast
import re

import cv2
import numpy as np
import pytest
from fakes.room import HEIGHT, WIDTH, numbered_image
from node_rig import PERIOD, Rig
from rig_robot import MOUNTS, NAMES, START, RigRobot
from test_node_rig import check_accounts, settle

from vggt_ros.geometry import rotation_angle, rotation_from_quaternion
from vggt_ros.mapping.rig.report import LAUNCH_FILE

pytestmark = [pytest.mark.ros, pytest.mark.slow]

MS = 1_000_000
APEX = np.diag([0.0, 0.0, 0.0, 1.0])  # of a pose without a place


def publish(robot: RigRobot, *frames: int, shifts: dict[str, int] | None = None, **changes) -> None:
    """Images of all cameras; stamps shifted by nanoseconds; `changes` of right's image."""
    for i in frames:
        for name in robot.names:
            more = changes if name == "right" else {}
            ns = START + i * PERIOD + (shifts or {}).get(name, 0)
            robot.publish(name, i, ns=ns, **more)


def test_equal_frame_ids_are_named_until_they_differ(rig: Rig):
    robot = RigRobot(rig)
    robot.start(tf_mode="none")
    publish(robot, *range(30), frame_id="left_optical")
    text = "right: its images have the frame_id 'left_optical', as those of left"
    rig.wait_for_diagnostics(text, "give each camera its own in its driver")
    rig.wait_until(lambda: robot.account("right")["refused"] == 30, "all of them are refused")
    rig.wait_until(lambda: rig.count("inferences") > 0, "an inference of the others")
    settle(robot)  # or an inference of before would be taken for that of an instant that follows
    robot.infer(*range(30, 36))
    rig.wait_until(lambda: text not in rig.diagnostics()["/vggt: input"], "the warning ends")
    check_accounts(robot, **dict.fromkeys(NAMES, 36))
    # All but the first that came again; on a busy machine an instant may have gone without it.
    assert 0 < robot.account("right")["used"] < 6


@pytest.mark.parametrize("clock", [-3_600_437 * MS, 437 * MS])
def test_a_clock_that_is_apart_is_named_with_the_offset(rig: Rig, clock: int):
    robot = RigRobot(rig)
    robot.start(tf_mode="none")
    publish(robot, *range(25), shifts={"left": clock})
    side = "ahead of" if clock > 0 else "behind"
    report = rig.wait_for_diagnostics("left: left out: its stamps are", side)
    (text,) = [t for t in report["/vggt: input"].split("; ") if "its stamps are" in t]
    offset = float(text.split("its stamps are ")[1].split(" ms")[0])
    assert offset == pytest.approx(abs(clock) / MS, abs=200)
    settle(robot, "front", "right")
    assert robot.account("left")["used"] == 0 < robot.account("front")["used"]
    assert robot.account("front")["used"] == robot.account("right")["used"]


def test_rates_of_5_and_30_hz_are_joined_at_the_slower_one(rig: Rig):
    robot = RigRobot(rig, NAMES[:2])
    robot.start(tf_mode="none")
    for k in range(30):
        robot.publish("front", k // 6, ns=START + round(k * 1e9 / 30))
        if k % 6 == 0:
            robot.publish("left", k // 6, ns=START + round(k * 1e9 / 30) + 4 * MS)
            done = k // 6 + 1
            rig.wait_until(lambda n=done: rig.count("inferences") == n, f"instant {done}")
    counts = robot.account("front")
    assert counts["used"] == 5 == robot.account("left")["used"]
    assert counts["unpaired"] + counts["in hand"] == 25
    assert "left out" not in rig.wait_for_diagnostics("30.0 Hz", "5.0 Hz")["/vggt: input"]


def test_one_camera_without_camera_info_is_named(rig: Rig):
    robot = RigRobot(rig)
    robot.start(tf_mode="none")
    robot.calibrate("front", "left")
    robot.infer(0, 1)
    text = "right: no usable camera_info, of which front has one: 2 of its images were used with"
    rig.wait_for_diagnostics(text, "publish /right/camera_info")
    robot.calibrate("right")
    robot.infer(2)
    rig.wait_until(lambda: text not in rig.diagnostics()["/vggt: input"], "the warning ends")


def test_a_camera_that_changes_its_size_insists_and_goes_on(rig: Rig):
    robot = RigRobot(rig)
    node = robot.start(tf_mode="none")
    robot.infer(0, 1, 2)
    larger = [
        cv2.resize(numbered_image(i, camera=2), (2 * WIDTH, 2 * HEIGHT), interpolation=0)
        for i in range(12)
    ]
    for i in range(3, 9):
        for name in NAMES:
            robot.publish(name, i, image=larger[i] if name == "right" else None)
        rig.wait_until(lambda n=i: rig.count("inferences") > n, f"inference {i}")
    assert robot.account("right")["refused"] == 5
    report = rig.wait_for_diagnostics("right: the image has a new size: 168x112, not 84x56")
    assert robot.account("right")["used"] == 4, report["images of right"]
    check_accounts(robot, **dict.fromkeys(NAMES, 9))
    assert node.inference.pipeline.map.keyframes.store.snapshot().segments.max(initial=0) == 0


def test_an_image_that_cannot_be_read_leaves_its_camera_out_of_that_instant(rig: Rig):
    robot = RigRobot(rig)
    robot.start(tf_mode="none")
    robot.infer(0)
    for name in NAMES:
        image = np.zeros((8, 8, 3), np.uint8) if name == "left" else None
        robot.publish(name, 1, image=image)
    rig.wait_until(lambda: rig.count("inferences") == 2, "the second inference")
    rig.wait_for_diagnostics("left: the image is too small for a camera's: 8x8")
    assert [camera for i, camera in robot.engine.inferences[-1] if i == 1] == [0, 2]
    check_accounts(robot, **dict.fromkeys(NAMES, 2))


def test_cameras_that_are_swapped_are_named_with_the_angle(rig: Rig):
    robot = RigRobot(rig)
    robot.start(described=("front",), tf_mode="none")
    robot.describe("left", MOUNTS["right"])
    robot.describe("right", MOUNTS["left"])
    robot.infer(*range(10))
    rig.wait_for_status(
        "tf",
        lambda found: (
            "left" in found.message
            and "right" in found.message
            and re.search("14[34]", found.message)
        ),
    )


def test_tf_that_comes_late_gives_metres_from_then_on(rig: Rig):
    robot = RigRobot(rig)
    robot.start(described=(), tf_mode="none")
    robot.infer(*range(4))
    rig.wait_for_diagnostics("units are arbitrary")
    for name in NAMES:
        robot.describe(name, MOUNTS[name])
    robot.infer(*range(4, 24))
    rig.wait_for_diagnostics("metres, from baseline", "rig left by TF")


def test_tf_that_contradicts_itself_is_named(rig: Rig):
    robot = RigRobot(rig)
    robot.start(tf_mode="none")
    robot.infer(*range(3))
    other = MOUNTS["left"].copy()
    other[0, 3] += 0.2
    robot.describe("left", other)
    robot.infer(*range(3, 20))
    rig.wait_for_diagnostics("left: /tf contradicts itself", "by 0.200 m and 0.0 degrees")


def test_topics_of_one_camera_are_named_as_unused(rig: Rig):
    robot = RigRobot(rig, NAMES[:2])
    remaps = ("-r", "baseline_image:=/stereo/right/image", "-r", "image:=/camera/image")
    robot.start(tf_mode="none", arguments=remaps)
    report = rig.wait_for_diagnostics(
        "baseline_image is remapped to /stereo/right/image, but not used: cameras is front, left;"
        " every two cameras of a rig are a baseline",
        "image is remapped to /camera/image, but not used",
    )
    assert "camera_info is remapped" not in report["/vggt: settings"]


def test_too_few_cameras_for_min_cameras_are_named(rig: Rig):
    robot = RigRobot(rig, NAMES[:2])
    robot.start(tf_mode="none", min_cameras=2)
    robot.infer(0, 1)
    for i in range(2, 15):
        robot.publish("front", i)
    words = "nothing is inferred: min_cameras is 2, and 1 of 2 cameras run (front)"
    rig.wait_for_diagnostics("no instant for", words)
    robot.infer(15, 16)
    rig.wait_until(lambda: words not in rig.diagnostics()["/vggt: input"], "the warning ends")


def test_a_rig_without_metres_is_named_although_no_scale_source_is_given(rig: Rig):
    """A network that sees no baseline between the cameras of an instant."""
    robot = RigRobot(rig, NAMES[:2], frames=60)
    robot.engine.rig = [np.eye(4), MOUNTS["left"] * np.array([1.0, 1.0, 1.0, 0.0]) + APEX]
    robot.start(tf_mode="none")
    robot.infer(*range(58))  # six seconds: a source that is younger is not judged
    rig.wait_for_diagnostics("scale_source baseline: the last", "comparisons measured nothing")


def test_without_tf_the_places_are_estimated_and_a_line_to_paste_is_given(rig: Rig, tmp_path):
    """In the log, and as a launch file beside the map; both are what the robot's cameras are."""
    robot = RigRobot(rig)
    robot.start(described=("front",), tf_mode="none", map_path=str(tmp_path / "map"))
    robot.infer(*range(30))
    saved = rig.call("save_map")
    assert saved.success and saved.message.endswith(f"and {LAUNCH_FILE}"), saved.message
    text = (tmp_path / "map" / LAUNCH_FILE).read_text()
    assert "LENGTHS ARE NOT METRES" in str(ast.get_docstring(ast.parse(text)))
    for name in NAMES[1:]:
        (line,) = [line for line in text.splitlines() if f"'{name}_optical'" in line]
        words = ast.literal_eval(line.split("arguments=")[1].removesuffix("),"))
        assert words[-4:] == ["--frame-id", "front_optical", "--child-frame-id", f"{name}_optical"]
        given = dict(zip(words[::2], words[1::2], strict=True))
        xyzw = np.array([float(given[f"--q{axis}"]) for axis in "xyzw"])
        turned = rotation_from_quaternion(xyzw).T @ MOUNTS[name][:3, :3]
        assert np.degrees(rotation_angle(turned)) < 1.0
    assert rig.call("save_map").success, "the map may be saved again in its place"
    rig.wait_for_diagnostics(
        "left: /tf does not say where it is",
        "static_transform_publisher",
        "--frame-id front_optical --child-frame-id left_optical",
    )
