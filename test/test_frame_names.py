# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Names of frames with a leading slash, as older drivers and parameter files have them."""

import node_rig
import numpy as np
import pytest
from fakes.oracle import NONE
from fakes.room import BASE_FROM_CAMERA
from geometry_msgs.msg import PoseStamped
from node_rig import CAMERA, PERIOD, Rig, log_of_warnings
from robot_rig import START, SimulatedRobot
from sensor_msgs.msg import Image, Imu, PointCloud2
from tf2_msgs.msg import TFMessage
from tree_rig import HAND_HELD, TreeRig

from vggt_ros.ros.messages import header, odometry_message, transform_message

pytestmark = pytest.mark.ros


def test_a_frame_id_with_a_slash_is_that_of_the_tree(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    lines = log_of_warnings(monkeypatch)
    robot = TreeRig(rig, HAND_HELD)
    robot.start()
    depths = rig.subscribe_matched("/vggt/depth/image", Image)
    clouds = rig.subscribe_matched("/vggt/points", PointCloud2)
    for i in range(3):
        done = rig.count("inferences")
        rig.publish(i, header=header(node_rig.START + i * PERIOD, f"/{CAMERA}"))
        rig.wait_until(lambda n=done: rig.count("inferences") > n, f"inference {i}")
    robot.check_camera("vggt_world", 2)
    assert robot.links() == {("vggt_world", "vggt_odom"), ("vggt_world", "camera_link")}
    rig.wait_until(lambda: len(depths) == 3 and len(clouds) == 3, "depth")
    assert {msg.header.frame_id for msg in depths + clouds} == {CAMERA}
    assert sum("leading slash" in line for line in lines) == 1, "said once"


SLASHED = {
    "tf_mode": "map_to_odom",
    "world_frame": "/map",
    "base_frame": "/base_link",
    "odom_frame": "/odom",
    "visual_odom_frame": "/vggt_odom",
}


def test_slashes_in_parameters_odometry_and_tf_make_no_difference(rig: Rig, monkeypatch):
    lines = log_of_warnings(monkeypatch)
    robot = SimulatedRobot(rig, "arc", 12, NONE)
    mount = transform_message(header(START, "/base_link"), f"/{CAMERA}", BASE_FROM_CAMERA)
    robot.static.publish(TFMessage(transforms=[mount]))
    robot.start(described=False, scale_source="odometry", **SLASHED)
    poses = rig.subscribe_matched("/vggt/pose", PoseStamped)
    for i in range(12):
        ns = START + i * PERIOD
        wheels = transform_message(header(ns, "/odom"), "/base_link", robot.wheels[i])
        robot.tf.publish(TFMessage(transforms=[wheels]))
        there = odometry_message(
            header(ns, "/odom"), "/base_link", robot.wheels[i], np.eye(4), np.eye(6)
        )
        robot.odom.publish(there)
        robot.infer(i, tf=False, odom=False)
    rig.wait_until(lambda: len(robot.stamps_of("map", "odom")) == 12, "map -> odom")
    names = {t.header.frame_id for t in robot.transforms} | {
        t.child_frame_id for t in robot.transforms
    }
    ours = {name for name in names if name not in ("/odom", "/base_link")}
    assert ours == {"map", "odom", "vggt_odom"}
    assert {msg.header.frame_id for msg in poses} == {"map"}
    rig.wait_for_diagnostics("metres, from odometry")
    said = [line for line in lines if "leading slash" in line]
    assert len(said) == len(SLASHED) - 1 + 2, said  # each parameter, /tf and odometry, once each


def test_gravity_of_a_slashed_frame_is_that_of_the_camera(rig: Rig):
    robot = SimulatedRobot(rig, faults=NONE)
    imu = rig.peer.create_publisher(Imu, "/imu", 10)
    node = robot.start(described=False, tf_mode="none")
    rig.wait_until(lambda: imu.get_subscription_count() == 1, "imu is subscribed")
    msg = Imu(header=header(START, f"/{CAMERA}"))
    msg.linear_acceleration.y = -9.81
    imu.publish(msg)
    rig.wait_until(lambda: node.robot.gravity.samples == 1, "gravity arrives")
    robot.infer(0)
    noticed = node.health.snapshot().notices
    assert not any("gravity" in kind for kind in noticed)
