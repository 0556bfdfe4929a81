# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The world is tied to whatever tree the camera is in, and no frame gets a second parent."""

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from node_rig import CAMERA, Rig
from tree_rig import HAND_HELD, URDF, TreeRig, lines_in, parameters_of

pytestmark = pytest.mark.ros

WORLD = "vggt_world"
LEAF = (WORLD, "vggt_odom")
ODOM = ("odom", "base_footprint")


TREES = {  # static links, moving links: the link that joins
    "bare camera": ((), (), (WORLD, CAMERA)),
    "hand-held": (HAND_HELD, (), (WORLD, "camera_link")),
    "robot without odometry": (URDF, (), ("base_footprint", WORLD)),
    "robot with odometry": (URDF, (ODOM,), ("odom", WORLD)),
    "robot in a map": (URDF, (ODOM, ("map", "odom")), ("map", WORLD)),
    "camera that pans": (
        (("base_link", "pan_base"), *HAND_HELD),
        (("pan_base", "camera_link"),),
        ("base_link", WORLD),
    ),
    "camera on a moving arm": (HAND_HELD, (("arm", "camera_link"),), ("camera_link", WORLD)),
}


@pytest.mark.parametrize("name", TREES)
def test_every_tree_is_joined_with_the_world(rig: Rig, name: str):
    static, moving, joint = TREES[name]
    robot = TreeRig(rig, static, moving)
    robot.start()
    robot.infer(0, 1, 2)
    for i in range(3):
        robot.check_camera(WORLD, i)
    assert robot.links() == {LEAF, joint}
    robot.check_parents()
    assert warning(rig, 3) == ""


def test_a_hand_held_camera_is_told_how_to_mount_it(rig: Rig):
    robot = TreeRig(rig, HAND_HELD)
    robot.start()
    robot.infer(0, 1)
    report = rig.wait_for_diagnostics("vggt_world -> camera_link is sent")
    (line,) = lines_in(next(text for text in report.values() if "camera_link is sent" in text))
    publisher = ["ros2", "run", "tf2_ros", "static_transform_publisher"]
    assert line == [*publisher, "--frame-id", "base_link", "--child-frame-id", "camera_link"]


def test_where_tf_is_remapped_the_line_publishes_on_that_topic(rig: Rig):
    """As in a namespace beside nav2, whose /tf is a relative name."""
    robot = TreeRig(rig, HAND_HELD, namespace="/robot")
    robot.start()
    robot.infer(0, 1)
    robot.check_camera(WORLD, 1)
    report = rig.wait_for_diagnostics("vggt_world -> camera_link is sent")
    (line,) = lines_in(next(text for text in report.values() if "camera_link is sent" in text))
    assert line[-3:] == ["--ros-args", "-r", "/tf_static:=/robot/tf_static"]


@pytest.mark.parametrize(
    ("moving", "expected"),
    [
        ((), {"tf_mode": "odom_to_base", "base_frame": "base_footprint"}),
        ((ODOM,), {"tf_mode": "map_to_odom"}),
    ],
)
def test_a_robot_is_told_of_the_mode_that_suits_it(rig: Rig, moving, expected):
    robot = TreeRig(rig, URDF, moving)
    robot.start()
    robot.infer(0)
    report = rig.wait_for_diagnostics(f"-> {WORLD} is sent")
    (line,) = lines_in(next(text for text in report.values() if f"{WORLD} is sent" in text))
    assert parameters_of(line) == expected


# ---- frames that come later ---------------------------------------------------------------------


def test_odometry_that_starts_later_becomes_the_root(rig: Rig):
    robot = TreeRig(rig, URDF)
    robot.start()
    robot.infer(0, 1)
    robot.check_camera(WORLD, 1)
    robot.moving = [ODOM]
    robot.infer(2, 3)
    robot.check_camera(WORLD, 3)
    assert robot.links() == {LEAF, ("base_footprint", WORLD), ("odom", WORLD)}
    assert robot.links(since=2) == {LEAF, ("odom", WORLD)}


def test_a_mount_that_comes_after_the_first_image_ends_the_transform_to_the_camera(rig: Rig):
    robot = TreeRig(rig)
    node = robot.start()
    robot.infer(0)
    robot.check_camera(WORLD, 0)
    robot.add_static(*HAND_HELD)
    assert node.robot.frames is not None
    frames = node.robot.frames
    rig.wait_until(lambda: frames.tree.parent(CAMERA) is not None, "the mount arrives")
    robot.infer(1, 2)
    robot.check_camera(WORLD, 2)
    assert robot.links(since=1) == {LEAF, (WORLD, "camera_link")}


def test_another_world_above_the_same_camera_is_respected(rig: Rig):
    """As that of a second node on the same rig."""
    robot = TreeRig(rig, HAND_HELD)
    robot.start()
    robot.infer(0, 1)
    robot.moving = [("other_world", "camera_link")]
    robot.infer(2, 3)
    robot.check_camera(WORLD, 3)
    assert robot.links(since=2) == {LEAF, ("camera_link", WORLD)}


# ---- trees that cannot be joined ----------------------------------------------------------------

FAULTS = {  # parameters, static links, moving links: words of the warning
    "mode camera in a robot": ({"tf_mode": "camera"}, URDF, (), "already has the parent"),
    "mode camera with odometry": ({"tf_mode": "camera"}, URDF, (ODOM,), "already has the parent"),
    "mode camera, hand-held": ({"tf_mode": "camera"}, HAND_HELD, (), "already has the parent"),
    "second odometry": (
        {"tf_mode": "odom_to_base", "base_frame": "base_footprint"}, URDF, (ODOM,),
        "another node publishes odom -> base_footprint",
    ),
    "base is not the root": (
        {"tf_mode": "odom_to_base"}, URDF, (), "another node publishes base_footprint -> base_link",
    ),
    "second localisation": (
        {"tf_mode": "map_to_odom", "world_frame": "map"}, URDF, (ODOM, ("map", "odom")),
        "another node publishes map -> odom",
    ),
    "no odometry": (
        {"tf_mode": "map_to_odom", "tf_wait": 0.0}, URDF[1:], (), "nothing places base_link in",
    ),
    "a world of others": (
        {"world_frame": "map"}, URDF, (ODOM, ("map", "odom")), "other nodes have map",
    ),
    "a leaf of others": (
        {}, (*HAND_HELD, ("camera_link", "vggt_odom")), (), "vggt_odom already has the parent",
    ),
    "a world of another node": (
        {}, (*HAND_HELD, ("vggt_world", "vggt_odom")), (), "so that another node of this kind has",
    ),
    "another base": (
        {"tf_mode": "odom_to_base", "base_frame": "chassis", "tf_wait": 0.0}, URDF, (),
        "no node publishes chassis",
    ),
}  # fmt: skip


def warning(rig: Rig, inferences: int) -> str:
    """The message of the status of transforms if it warns, after so many inferences."""

    def status() -> DiagnosticStatus:
        newest = rig.received["/diagnostics"][-1]
        return next(status for status in newest.status if status.name == "/vggt: tf")

    rig.wait_for_diagnostics(inferences=str(inferences))
    rig.wait_until(lambda: "until just now" not in status().message, "what ended is not shown")
    return status().message if status().level == DiagnosticStatus.WARN else ""


def outcome(parameters: dict, static, moving) -> str:
    """The warning of a node with these parameters; without one the tree must be joined."""
    rig = Rig()
    try:
        robot = TreeRig(rig, static, moving)
        robot.start(**parameters)
        robot.infer(0, 1, 2)
        text = warning(rig, 3)
        if not text:
            robot.check_camera(parameters.get("world_frame", WORLD), 2)
        robot.check_parents()
        return text
    finally:
        rig.close()


@pytest.mark.parametrize("name", FAULTS)
def test_a_tree_that_is_not_joined_is_a_lasting_warning_whose_line_works(name: str):
    parameters, static, moving, words = FAULTS[name]
    text = outcome(parameters, static, moving)
    assert words in text
    (line,) = lines_in(text)
    assert outcome(parameters | parameters_of(line), static, moving) == "", line


def test_what_another_node_has_placed_is_sent_once_that_node_was_stopped(rig: Rig):
    """As the warning asks for; once it is there again, it is left to it."""
    robot, other = TreeRig(rig, URDF, (ODOM, ("map", "odom"))), {("map", "odom")}
    robot.start(tf_mode="map_to_odom", world_frame="map")
    robot.infer(0, 1)
    assert "another node publishes map -> odom; stop it" in warning(rig, 2)
    robot.moving = [ODOM]
    robot.infer(*range(11, 102, 10))  # ten seconds
    assert "another node publishes map -> odom; stop it" in warning(rig, 12)
    assert not other & robot.links()
    robot.infer(112, 113)
    rig.wait_until(lambda: other <= robot.links(since=112), "map -> odom is sent")
    assert not warning(rig, 14)
    robot.moving = [ODOM, ("map", "odom")]
    robot.infer(114, 115)
    assert "another node publishes map -> odom; stop it" in warning(rig, 16)
    assert not other & robot.links(since=114)


def test_a_camera_that_the_robot_does_not_know_is_a_warning_whose_line_mounts_it(rig: Rig):
    robot = TreeRig(rig, (("base_link", "laser"), *HAND_HELD))
    node = robot.start()
    robot.infer(0, 1)
    (line,) = lines_in(warning(rig, 2))
    mount = line[line.index("--frame-id") + 1], line[line.index("--child-frame-id") + 1]
    robot.add_static(mount)
    assert node.robot.frames is not None
    frames = node.robot.frames
    rig.wait_until(lambda: frames.tree.parent("camera_link"), "the mount arrives")
    robot.infer(2, 3)
    robot.check_camera(WORLD, 3)
    assert warning(rig, 4) == ""
