# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""map -> odom for consumers that ask for now: post-dated, re-sent, and off where that is wrong."""

from typing import Any

import numpy as np
import pytest
from fakes.oracle import NONE
from geometry_msgs.msg import TransformStamped
from made_updates import update
from node_rig import PERIOD, Rig
from robot_rig import START, SimulatedRobot
from rosgraph_msgs.msg import Clock
from tree_rig import HAND_HELD, URDF, TreeRig

from vggt_ros.ros.messages import stamp_ns, time_message
from vggt_ros.ros.tf.tf_repeat import SlowTransform

pytestmark = pytest.mark.ros

SECOND = 1_000_000_000


# ---- through the node ---------------------------------------------------------------------------


def test_the_transform_is_valid_for_the_tolerance_and_at_every_image(rig: Rig):
    robot = SimulatedRobot(rig, "arc", 6, NONE)
    robot.start(tf_mode="map_to_odom", world_frame="map", transform_tolerance=0.25)
    robot.infer(*range(6))
    images, ahead = [START + i * PERIOD for i in range(6)], 250_000_000
    expected = [images[0], *(ns + ahead for ns in images)]
    rig.wait_until(lambda: len(robot.stamps_of("map", "odom")) >= 7, "seven transforms")
    assert robot.stamps_of("map", "odom") == expected
    for ns in [*images, images[-1] + ahead]:
        assert robot.tree.lookup("map", "odom", ns) is not None


def start_at(rig: Rig, robot: SimulatedRobot, **parameters) -> Any:
    """The node in simulated time, and a function that sets it."""
    clock = rig.peer.create_publisher(Clock, "/clock", 10)
    node = robot.start(
        tf_mode="map_to_odom", world_frame="map", use_sim_time=True,
        transform_tolerance=0.1, transform_rate_hz=10.0, **parameters,
    )  # fmt: skip
    rig.wait_until(lambda: clock.get_subscription_count(), "the node subscribes to the clock")

    def set_time(ns: int) -> None:
        clock.publish(Clock(clock=time_message(ns)))
        rig.wait_until(lambda: node.get_clock().now().nanoseconds == ns, "the time")

    return set_time


@pytest.mark.parametrize(("policy", "is_kept"), [("withhold", False), ("freeze", True)])
def test_it_is_sent_again_until_the_camera_is_lost(rig: Rig, policy: str, is_kept: bool):
    robot = SimulatedRobot(rig, "arc", 4, NONE)
    set_time = start_at(rig, robot, tf_when_lost=policy)

    def stamps() -> list[int]:
        return robot.stamps_of("map", "odom")

    late = 300_000_000  # of the image, which arrives then
    set_time(START + late)
    robot.infer(0)
    rig.wait_until(lambda: START + late + SECOND // 10 in stamps(), "valid now")
    for step in range(1, 6):
        now = START + late + step * 150_000_000
        set_time(now)
        rig.wait_until(lambda ns=now: ns + SECOND // 10 in stamps(), "again, from the clock")
    node = rig.node
    assert node is not None
    lost = update([1], accepted=False, reason="nonsense")
    done = rig.count("inferences")
    node.sender.call_soon(lambda: node.outputs.publish(lost))
    robot.infer(1)
    rig.wait_until(lambda: rig.count("inferences") > done, "published")
    assert stamps() == sorted(set(stamps())), "each stamp once, and rising"
    assert is_kept or "withheld" not in node.transforms.state


@pytest.mark.parametrize(
    ("tree", "parameters"),
    [
        (HAND_HELD, {}),
        (URDF, {"tf_mode": "odom_to_base", "base_frame": "base_footprint"}),
        ((), {"tf_mode": "camera"}),
    ],
)
def test_a_transform_that_moves_with_the_robot_is_not_post_dated(rig: Rig, tree, parameters):
    robot = TreeRig(rig, tree)
    robot.start(transform_tolerance=0.5, transform_rate_hz=20.0, **parameters)
    robot.infer(0, 1)
    report = rig.wait_for_diagnostics("transform_tolerance and transform_rate_hz are not used")
    assert any("moves with the robot" in text for text in report.values())
    stamps = {stamp_ns(found.header.stamp) for found in robot.sent}
    assert len(stamps) == 2, "those of the images"


def test_a_robot_that_is_joined_below_its_odometry_is_post_dated(rig: Rig):
    robot = TreeRig(rig, URDF, (("odom", "base_footprint"),))
    robot.start(transform_tolerance=0.5)
    robot.infer(0)
    rig.wait_until(lambda: len(robot.tree.stamps("vggt_world")) == 2, "two stamps")
    first, second = robot.tree.stamps("vggt_world")
    assert second - first == SECOND // 2
    robot.check_camera("vggt_world", 0)


# ---- without a node -----------------------------------------------------------------------------


class Repeating:
    """A `SlowTransform` by a clock that the test sets."""

    def __init__(self, tolerance: float = 0.1, *, resends: bool = True, keeps: bool = False):
        self.now = START
        self.sent: list[TransformStamped] = []
        self.slow = SlowTransform(
            lambda: self.now, self.sent.extend, tolerance=tolerance, resends=resends, keeps=keeps
        )

    def update(self, ns: int, x: float = 0.0) -> list[int]:
        """Stamps of what is sent for an image."""
        pose = np.eye(4)
        pose[0, 3] = x
        found = self.slow.messages("map", "odom", [(ns, pose)])
        self.sent += found
        return self._stamps(found)

    def tick(self, seconds: float) -> list[int]:
        """Stamps of what is re-sent so much later."""
        self.now += round(seconds * SECOND)
        before = len(self.sent)
        self.slow.resend()
        return self._stamps(self.sent[before:])

    @staticmethod
    def _stamps(found: list[TransformStamped]) -> list[int]:
        return [stamp_ns(each.header.stamp) - START for each in found]


def test_stamps_rise_although_images_are_older_than_what_was_re_sent():
    made = Repeating()
    assert made.update(START - 200_000_000) == [-200_000_000, 100_000_000]
    assert made.tick(0.05) == [150_000_000]
    assert made.update(START - 100_000_000, x=1.0) == [], "covered until the clock goes on"
    assert made.tick(0.05) == [200_000_000]
    assert made.sent[-1].transform.translation.x == 1.0, "the newest one"
    assert made.tick(0.0) == [], "time stands still"


def test_it_ends_three_seconds_after_the_last_image_unless_it_is_kept():
    for keeps, count in ((False, 3), (True, 5)):
        made = Repeating(keeps=keeps)
        made.update(START)
        assert sum(len(made.tick(1.0)) for _ in range(5)) == count


def test_what_is_withheld_is_not_re_sent():
    made = Repeating()
    made.update(START)
    made.slow.stop()
    assert made.tick(0.1) == []
    assert made.update(START + SECOND) == [SECOND, SECOND + 100_000_000]


def test_images_of_another_clock_are_a_problem_and_nothing_is_re_sent():
    made = Repeating()
    made.now += 3600 * SECOND
    assert made.update(START) == [0, 100_000_000]
    assert "3600 s behind the ROS clock" in made.slow.problem
    assert made.tick(0.1) == []
    made.now = START + 2 * SECOND
    made.update(START + 2 * SECOND)
    assert made.slow.problem == ""


def test_by_default_stamps_are_those_of_the_images():
    made = Repeating(tolerance=0.0, resends=False)
    assert not made.slow.is_on
    assert [made.update(START + i) for i in range(3)] == [[0], [1], [2]]
