# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Where the camera is mounted, by /tf: looked up for each map, compared, and doubted."""

import numpy as np
import pytest
from fakes.oracle import NONE
from fakes.room import BASE_FROM_CAMERA
from node_rig import CAMERA, PERIOD, Rig
from robot_rig import START, SimulatedRobot

from vggt_ros.ros.messages import header, transform_message

pytestmark = pytest.mark.ros


def test_after_a_reset_the_map_starts_where_odometry_is_by_then(rig: Rig):
    robot = SimulatedRobot(rig, "room", 12, NONE)
    robot.start(tf_mode="map_to_odom", world_frame="map", scale_source="fixed", fixed_scale=1.0)
    robot.infer(*range(8))
    assert rig.call("reset").success
    robot.infer(8)
    rig.wait_until(lambda: len(robot.stamps_of("map", "odom")) == 9, "nine transforms")
    first = robot.tree.lookup("map", "odom", START + 8 * PERIOD)
    np.testing.assert_allclose(first, np.eye(4), atol=1e-3)


def mounted(rig: Rig, robot: SimulatedRobot, pose: np.ndarray, camera: str = CAMERA) -> None:
    """Publish a mount, and wait until the node has it."""
    robot.publish_static(transform_message(header(START, "base_link"), camera, pose))
    frames = rig.node.robot.frames  # type: ignore[union-attr]

    def arrived() -> bool:
        found = frames.lookup("base_link", camera, START)
        return found is not None and np.allclose(found, pose)

    rig.wait_until(arrived, "the mount arrives")


def test_a_camera_that_moves_on_the_robot_is_a_lasting_warning(rig: Rig):
    robot = SimulatedRobot(rig, faults=NONE)
    robot.start(tf_mode="none")
    robot.infer(*range(4))
    tilted = BASE_FROM_CAMERA.copy()
    tilted[2, 3] += 0.2
    mounted(rig, robot, tilted)
    robot.infer(*range(4, 18))  # of which the transforms are compared once a second
    words = f"'base_link' -> '{CAMERA}' on /tf differs by 0.200 m and 0.0 degrees"
    rig.wait_for_diagnostics(words, "call ~/reset to use it")
    rig.call("reset")
    robot.infer(*range(18, 32))
    rig.wait_until(lambda: words not in str(rig.diagnostics()), "the warning ends")
    np.testing.assert_allclose(rig.node.robot.mount, tilted)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("camera", "rotation", "is_doubted"),
    [
        ("camera_link", np.eye(3), True),
        ("ceiling_optical_frame", np.eye(3), False),  # of a camera that faces the ceiling
        ("camera", BASE_FROM_CAMERA[:3, :3], False),
    ],
)
def test_an_image_in_the_frame_of_the_camera_s_housing_is_a_warning(
    rig: Rig, camera: str, rotation: np.ndarray, is_doubted: bool
):
    robot = SimulatedRobot(rig, faults=NONE)
    robot.start(described=False, tf_mode="none")
    pose = np.eye(4)
    pose[:3, :3] = rotation
    mounted(rig, robot, pose, camera)
    rig.publish(0, header=header(START, camera))
    rig.wait_for_diagnostics("world levelled by mount")
    words = f"the camera faces straight up: z of '{camera}' is z of 'base_link'"
    if is_doubted:
        rig.wait_for_diagnostics(words, "such as 'camera_optical_frame'")
    else:
        assert words not in str(rig.diagnostics())
