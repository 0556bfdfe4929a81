# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""REP 105 over a correction and over a loss: what jumps, what never does, what is withheld."""

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from made_updates import CAMERA, pose, stamp, update, view
from node_rig import Rig
from tf2_msgs.msg import TFMessage

from vggt_ros.frames import Update
from vggt_ros.geometry import rotation_from_quaternion
from vggt_ros.mapping.status import LOST, RELOCALISING, TRACKING, UNCERTAIN, MapStatus
from vggt_ros.mapping.velocity import UNKNOWN_VARIANCE
from vggt_ros.ros.messages import header, transform_message
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.publishing.pose_output import PoseOutput, invertible_covariance
from vggt_ros.ros.tf.tf_cache import TfCache, open_frames, pose_of
from vggt_ros.ros.tf.transforms import Transforms, open_transforms

pytestmark = pytest.mark.ros

BASE_FROM_CAMERA = np.eye(4)
BASE_FROM_CAMERA[:3, :3] = pose(0)[:3, :3]
BASE_FROM_CAMERA[:3, 3] = 0.2, 0.0, 0.5
ODOM_FROM_BASE = np.eye(4)
ODOM_FROM_BASE[:3, 3] = 3.0, 1.0, 0.0
JUMP = np.eye(4)  # a correction of the map: now_from_then
JUMP[:3, :3] = rotation_from_quaternion(np.array([0.0, 0.0, 0.2, 0.98]))
JUMP[:3, 3] = 4.0, 0.0, 1.0
FRAMES = {"world_frame": "map", "odom_frame": "odom", "base_frame": "base_link"}


class Tree:
    """The robot's frames, and what the node's transforms make of them."""

    def __init__(self, rig: Rig, mode: str, **parameters):
        self.rig, self.notices = rig, []
        self.parameters = Parameters(tf_mode=mode, **FRAMES, **parameters)
        frames = open_frames(rig.peer, 0.0)
        self.tree, self.robot = TfCache(), frames.tree
        if mode != "camera":
            self.describe("base_link", CAMERA, BASE_FROM_CAMERA)
        if mode == "map_to_odom":
            for i in range(9):
                self.describe("odom", "base_link", ODOM_FROM_BASE, stamp(i))
        self.transforms: Transforms = open_transforms(
            rig.peer, self.parameters, frames, self.notices.append
        )
        self.poses = PoseOutput(self.parameters, lambda _camera, _ns: BASE_FROM_CAMERA)
        self.sent: list[TransformStamped] = []
        self.arrived = rig.subscribe("/tf", TFMessage)

    def describe(self, parent: str, child: str, place: np.ndarray, ns: int = 0) -> None:
        msg = transform_message(header(ns, parent), child, place)
        for tree in (self.robot, self.tree):
            tree.add([msg], is_static=ns == 0)

    def send(self, found: Update) -> None:
        """Send the transforms of an update and wait for them."""
        self.transforms.send(found)
        leaf = "map" if self.parameters.tf_mode == "odom_to_base" else "vggt_odom"
        ns = found.views[-1].stamp_ns
        self.rig.wait_until(lambda: self._receive(leaf, ns), f"{leaf} at {ns}")

    def _receive(self, leaf: str, ns: int) -> bool:
        while self.arrived:
            msg = self.arrived.pop(0)
            self.sent += msg.transforms
            self.tree.add(msg.transforms, is_static=False)
        return ns in self.tree.stamps(leaf)

    def place(self, frame: str, i: int) -> np.ndarray | None:
        """Of the camera at frame i's stamp."""
        return self.tree.lookup(frame, CAMERA, stamp(i))


def corrected(i: int, **changes) -> Update:
    """Frame i, where the map was moved by JUMP after frame 1."""
    moved = i > 1
    odom_from_world = np.linalg.inv(JUMP) if moved else np.eye(4)
    found = view(i, world_from_camera=JUMP @ pose(i) if moved else pose(i))
    return update([found], odom_from_world=odom_from_world, **changes)


MODES = {"camera": "vggt_odom", "odom_to_base": "odom", "map_to_odom": "vggt_odom"}
PARENTS = {
    "camera": {("map", "vggt_odom"), ("map", CAMERA)},
    "odom_to_base": {("odom", "map"), ("odom", "base_link")},
    "map_to_odom": {("map", "vggt_odom"), ("map", "odom")},
}


@pytest.mark.parametrize("mode", MODES)
def test_a_correction_moves_the_camera_in_the_map_and_not_in_the_frame_of_odometry(
    rig: Rig, mode: str
):
    tree = Tree(rig, mode)
    for i in range(4):
        found = corrected(i)
        tree.send(found)
        smooth, jumping = tree.place(MODES[mode], i), tree.place("map", i)
        np.testing.assert_allclose(smooth, pose(i), atol=1e-9)
        np.testing.assert_allclose(jumping, found.views[-1].world_from_camera, atol=1e-9)
        msg = tree.poses.odometry(found)
        assert (msg.header.frame_id, msg.child_frame_id) == (MODES[mode], "base_link")
        base = pose_of(msg.pose.pose.position, msg.pose.pose.orientation)
        np.testing.assert_allclose(base @ BASE_FROM_CAMERA, pose(i), atol=1e-9)
    found = {(t.header.frame_id, t.child_frame_id) for t in tree.sent}
    assert found == PARENTS[mode], "the leaf, and the mode's own; no frame has two parents"
    assert len(tree.sent) == 2 * 4


@pytest.mark.parametrize(
    ("policy", "expected"), [("withhold", None), ("freeze", 1), ("predict", 3)]
)
@pytest.mark.parametrize("mode", ["camera", "odom_to_base", "map_to_odom"])
def test_a_camera_that_is_not_located_has_the_transform_that_the_user_chose(
    rig: Rig, mode: str, policy: str, expected: int | None
):
    tree = Tree(rig, mode, tf_when_lost=policy)
    tree.send(update([0]))
    tree.send(update([1]))
    assert tree.poses.pose(update([1])) is not None
    lost = update([3], accepted=False, reason="nonsense")
    tree.send(lost)
    found = tree.place("map", 3)
    msg = tree.poses.pose(lost)
    if expected is None:
        assert found is None and msg is None
        assert "withheld" in tree.transforms.state
    else:
        np.testing.assert_allclose(found, pose(expected), atol=1e-9)
        place = pose_of(msg.pose.position, msg.pose.orientation)
        np.testing.assert_allclose(place, pose(expected), atol=1e-9)
    odometry = tree.poses.odometry(lost)
    assert odometry.pose.covariance[0] >= UNKNOWN_VARIANCE, "it comes, and says how far off it is"
    tree.send(update([4]))
    np.testing.assert_allclose(tree.place("map", 4), pose(4), atol=1e-9)
    assert "withheld" not in tree.transforms.state


@pytest.mark.parametrize(
    ("state", "is_sent"),
    [(TRACKING, True), (UNCERTAIN, True), (RELOCALISING, False), (LOST, False)],
)
def test_windows_that_fit_each_other_but_not_the_map_have_no_transform(
    rig: Rig, state: str, is_sent: bool
):
    tree = Tree(rig, "odom_to_base")
    tree.send(update([0], status=MapStatus(state)))
    assert (tree.place("map", 0) is not None) == is_sent


def test_a_frozen_place_is_not_carried_into_another_map(rig: Rig):
    tree = Tree(rig, "odom_to_base", tf_when_lost="freeze")
    tree.send(update([0]))
    tree.transforms.reset()
    tree.poses.reset()
    lost = update([1], accepted=False, reason="nonsense")
    tree.send(lost)
    assert tree.place("map", 1) is None and tree.poses.pose(lost) is None


def test_a_map_that_another_node_places_gets_no_second_parent(rig: Rig):
    tree = Tree(rig, "odom_to_base")
    tree.describe("map", "odom", np.eye(4))  # as RTAB-Map does: ours would close a circle
    tree.transforms.send(update([0]))
    rig.wait_until(lambda: tree.arrived, "odom -> base_link")
    assert [t.child_frame_id for t in tree.arrived[0].transforms] == ["base_link"]
    assert "map -> odom" in tree.notices[0] and "world_frame" in tree.notices[0]


def test_a_frame_of_odometry_that_another_node_places_gets_no_second_parent(rig: Rig):
    tree = Tree(rig, "camera", camera_frame="seen", visual_odom_frame="odom")
    msg = TFMessage(transforms=[transform_message(header(1, "earth"), "odom", np.eye(4))])
    rig.peer.create_publisher(TFMessage, "/tf", 10).publish(msg)
    rig.wait_until(lambda: "odom" in tree.transforms.parents, "the other node's transform")
    rig.wait_until(lambda: tree.arrived, "it is heard here too")
    tree.arrived.clear()
    tree.transforms.send(update([0]))
    rig.wait_until(lambda: tree.arrived, "map -> seen")
    assert [t.child_frame_id for t in tree.arrived[0].transforms] == ["seen"]
    assert "visual_odom_frame" in tree.notices[0]


# ---- covariance ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "covariance",
    [
        np.zeros((6, 6)),
        np.full((6, 6), np.nan),
        np.diag([np.inf, 1, 1, 1, 1, 1]),
        np.ones((6, 6)),
        np.diag([1e6, 1e6, 1e6, 1e-8, 1e-8, -1e-9]),
        np.outer(np.arange(6) * 1e4, np.arange(6) * 1e4) + np.triu(np.full((6, 6), 1e-3)),
    ],
)
def test_every_covariance_is_finite_and_can_be_inverted(covariance: np.ndarray):
    found = invertible_covariance(covariance)
    np.testing.assert_array_equal(found, found.T)
    np.linalg.cholesky(found)
    if np.isfinite(covariance).all():
        largest = np.abs(covariance).max()
        np.testing.assert_allclose(
            found, (covariance + covariance.T) / 2, atol=1e-8 + 1e-9 * largest
        )


def test_a_sound_covariance_is_left_as_it_is():
    square = np.random.default_rng(0).standard_normal((6, 6))
    np.testing.assert_allclose(invertible_covariance(square @ square.T), square @ square.T)


def test_the_covariance_of_odometry_turns_with_its_frame():
    turned = np.eye(4)
    turned[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    poses = PoseOutput(Parameters(tf_mode="none"), lambda _camera, _ns: None)
    sigmas = np.diag([1.0, 4.0, 9.0, 1e-4, 4e-4, 9e-4])
    found = update([0], odom_from_world=turned)
    registration = found.registration._replace(covariance=sigmas)
    msg = poses.odometry(found._replace(registration=registration))
    covariance = np.reshape(msg.pose.covariance, (6, 6))
    # Along the odometry's x lies the world's -y, along its y the world's x.
    expected = np.diag([4.0, 1.0, 9.0, 4e-4, 1e-4, 9e-4])
    np.testing.assert_allclose(covariance, expected, rtol=1e-6, atol=1e-12)
