# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A map that outlives its node, over topics: saved, loaded by another node, and found again in."""

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from fakes.figures import alignment, path_length
from fakes.oracle import Oracle
from fakes.room import BASE_FROM_CAMERA
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped
from nav_msgs.msg import Path as PathMessage
from node_rig import TIMEOUT, Rig
from rclpy.parameter import Parameter
from robot_rig import PERIOD, START, SimulatedRobot
from sensor_msgs.msg import PointCloud2
from vggt_ros.msg import MapStatus
from visualization_msgs.msg import MarkerArray

from vggt_ros.errors import UserError
from vggt_ros.geometry import Similarity
from vggt_ros.mapping.map_files import load_map, save_map
from vggt_ros.ros.messages import header, pose_message, stamp_ns
from vggt_ros.ros.tf.tf_cache import pose_of

pytestmark = pytest.mark.ros

FIRST = range(80)  # frames: once round a circle, 0.15 m each
SECOND = range(80, 100)  # its start once more, in two seconds


@pytest.fixture
def open_rig() -> Iterator[Callable[[], Rig]]:
    rigs: list[Rig] = []

    def close() -> None:
        while rigs:
            rigs.pop().close()

    def open_rig() -> Rig:
        """One at a time, since all have the same topics."""
        close()
        rigs.append(Rig())
        return rigs[-1]

    yield open_rig
    close()


class Run(NamedTuple):
    """What a node said of some frames, by their numbers."""

    robot: SimulatedRobot
    states: list[int]
    poses: dict[int, np.ndarray]  # world_from_camera, where the camera was located
    status: list[MapStatus]


def open_robot(rig: Rig, engine: Oracle | None = None) -> SimulatedRobot:
    robot = SimulatedRobot(rig, frames=100)
    robot.engine = engine or robot.engine
    return robot


def drive(robot: SimulatedRobot, frames: range) -> Run:
    """Once the node runs: these frames, one after the other."""
    rig = robot.rig
    poses = rig.subscribe_matched("/vggt/pose", PoseStamped)
    status = rig.subscribe_matched("/vggt/status", MapStatus)
    robot.infer(*frames)

    def of_frames() -> list[MapStatus]:
        """Without that of the start, which has no stamp."""
        return [msg for msg in status if stamp_ns(msg.header.stamp)][-len(frames) :]

    rig.wait_until(lambda: len(of_frames()) == len(frames), "a status for each frame")
    status = of_frames()
    return Run(robot, [msg.state for msg in status], by_frame(poses), status)


def by_frame(poses: list[PoseStamped]) -> dict[int, np.ndarray]:
    found = {}
    for msg in poses:
        pose = pose_of(msg.pose.position, msg.pose.orientation)
        assert pose is not None
        found[(stamp_ns(msg.header.stamp) - START) // PERIOD] = pose
    return found


def path_of(rig: Rig) -> dict[int, np.ndarray]:
    """The corrected path, as a late subscriber receives it."""
    received = rig.subscribe_matched("/vggt/path", PathMessage, latched=True)
    rig.wait_until(lambda: received, "a path")
    return by_frame(received[-1].poses)


class Saved(NamedTuple):
    """A map that a node has saved before it ended."""

    folder: Path
    truth_from_world: Similarity
    points: int


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Saved:
    folder = tmp_path_factory.mktemp("there") / "not yet" / "map"
    rig = Rig()
    try:
        robot = open_robot(rig)
        robot.start(tf_mode="none", map_path=str(folder), map_period=0.1)
        drive(robot, FIRST)
        response = rig.call("save_map")
        assert response.success and str(folder) in response.message, response.message
        maps = rig.subscribe_matched("/vggt/map_points", PointCloud2, latched=True)
        path = path_of(rig)
        rig.wait_until(lambda: maps, "the map")
        truth = centres((robot.base @ BASE_FROM_CAMERA)[list(path)])
        fit = alignment(centres(path.values()), truth, with_scale=True)
        return Saved(folder, fit, maps[-1].width)
    finally:
        rig.close()


def centres(poses) -> np.ndarray:
    return np.stack([pose[:3, 3] for pose in poses])


def errors(saved: Saved, run: Run) -> np.ndarray:
    """How far each located frame is from the truth, in the frame of the first run; metres."""
    found = saved.truth_from_world.apply(centres(run.poses.values()))
    truth = (run.robot.base @ BASE_FROM_CAMERA)[list(run.poses)]
    return np.linalg.norm(found - centres(truth), axis=1)


def hashes(folder: Path) -> dict[str, str]:
    files = [file for file in folder.parent.rglob("*") if file.is_file()]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def failure(rig: Rig) -> BaseException:
    """The error that ends the node."""
    end = time.monotonic() + TIMEOUT
    while not rig.failures:
        assert time.monotonic() < end
        time.sleep(0.002)
    return rig.failures.pop()


# ---- found again --------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping", [True, False])
def test_another_node_finds_itself_in_the_map_within_two_seconds(open_rig, saved: Saved, mapping):
    before, rig = hashes(saved.folder), open_rig()
    robot = open_robot(rig)
    robot.start(tf_mode="none", map=str(saved.folder), mapping=mapping)
    run = drive(robot, SECOND)
    relocalising = run.states.count(MapStatus.RELOCALISING)
    assert run.states[0] == MapStatus.RELOCALISING and 1 < relocalising < 15
    assert MapStatus.RELOCALISING not in run.states[relocalising:], "once, at the start"
    assert set(run.poses) == set(SECOND[relocalising:]), "no pose before it is found"
    length = path_length(robot.base[FIRST, :3, 3])
    assert np.sqrt(np.mean(errors(saved, run) ** 2)) < 0.01 * length
    assert len({status.segment for status in run.status[relocalising:]}) == 1
    assert hashes(saved.folder) == before


def test_a_map_that_is_not_extended_is_shown_as_it_was_and_not_saved(
    open_rig, saved: Saved, tmp_path
):
    rig = open_rig()
    robot = open_robot(rig)
    robot.start(
        tf_mode="none", map=str(saved.folder), mapping=False, map_path=str(tmp_path / "new"),
        map_period=0.1,
    )  # fmt: skip
    maps = rig.subscribe_matched("/vggt/map_points", PointCloud2, latched=True)
    rig.wait_until(lambda: maps, "the map, before any image")
    shown = maps[-1].width
    assert 0.95 * saved.points < shown <= saved.points, "points that moved into one voxel are one"
    drive(robot, SECOND)
    later = rig.subscribe_matched("/vggt/keyframes", MarkerArray, latched=True)
    rig.wait_until(lambda: later, "keyframes")
    keyframes = load_map(saved.folder, fingerprint=Oracle.fingerprint).store
    assert len(later[-1].markers[0].points) == 6 * len(keyframes), "those of the map alone"
    assert {msg.width for msg in maps} == {shown}
    response = rig.call("save_map")
    assert not response.success and "mapping is false" in response.message
    assert list(tmp_path.iterdir()) == []


def test_a_map_that_was_extended_is_saved_with_what_it_was(open_rig, saved: Saved, tmp_path):
    folder = tmp_path / "map"
    shutil.copytree(saved.folder, folder)
    old = load_map(folder, fingerprint=Oracle.fingerprint)
    rig = open_rig()
    robot = open_robot(rig)
    robot.start(tf_mode="none", map=str(folder), map_path=str(folder))
    response = rig.call("save_map")
    assert not response.success and "not found in the loaded map yet" in response.message
    drive(robot, SECOND)
    assert rig.call("save_map").success
    new = load_map(folder, fingerprint=Oracle.fingerprint)
    assert set(old.store.ids) < set(new.store.ids) and new.segment == old.segment
    assert set(new.store.snapshot().segments) == {old.segment}
    assert old.cloud is not None and new.cloud is not None
    assert set(old.cloud.keyframes) < set(new.cloud.keyframes) <= set(new.store.ids)


def test_reset_starts_again_in_the_loaded_map(open_rig, saved: Saved):
    rig = open_rig()
    robot = open_robot(rig)
    robot.start(tf_mode="none", map=str(saved.folder))
    drive(robot, SECOND[:10])
    maps = rig.subscribe_matched("/vggt/map_points", PointCloud2)
    assert rig.call("reset").success
    rig.wait_until(lambda: maps and maps[-1].width <= saved.points, "the map as it was loaded")
    assert maps[-1].width > 0.95 * saved.points
    run = drive(robot, SECOND[10:])
    assert run.states[0] == MapStatus.RELOCALISING and run.states[-1] == MapStatus.TRACKING


# ---- asked for ----------------------------------------------------------------------------------


def set_map(rig: Rig, folder: Path) -> None:
    assert rig.node is not None
    (result,) = rig.node.set_parameters([Parameter("map", value=str(folder))])
    assert result.successful, result.reason


def test_a_running_node_loads_a_map(open_rig, saved: Saved, tmp_path):
    rig = open_rig()
    robot = open_robot(rig)
    robot.start(tf_mode="none", map_directory="/")
    response = rig.call("load_map")
    assert not response.success and "set the parameter map" in response.message
    run = drive(robot, SECOND[:6])
    set_map(rig, tmp_path)
    response = rig.call("load_map")
    assert not response.success and "holds no map.json" in response.message
    run = drive(robot, SECOND[6:8])
    assert run.states == [MapStatus.TRACKING] * 2, "a map that is refused changes nothing"
    set_map(rig, saved.folder)
    response = rig.call("load_map")
    assert response.success and str(saved.folder) in response.message
    run = drive(robot, SECOND[8:])
    assert run.states[0] == MapStatus.RELOCALISING and run.states[-1] == MapStatus.TRACKING
    assert errors(saved, run).max() < 0.2
    assert set(path_of(rig)) <= set(SECOND[8:]), "nothing of the map before"


class Forgetful(Oracle):
    """All looks alike to it: its descriptors say nothing."""

    def describe(self, frame_id: int) -> np.ndarray | None:
        random = np.random.default_rng(frame_id).standard_normal(64)
        return (random / np.linalg.norm(random)).astype(np.float32)


@pytest.fixture(scope="module")
def nondescript(saved: Saved, tmp_path_factory) -> Path:
    """The same map, with descriptors that say nothing."""
    folder = tmp_path_factory.mktemp("nondescript") / "map"
    shutil.copytree(saved.folder, folder)
    loaded = load_map(folder, fingerprint=Oracle.fingerprint)
    random = np.random.default_rng(0)
    for key in loaded.store.ids.tolist():
        loaded.store.replace(key, descriptor=None)
    for key in loaded.store.ids.tolist():
        descriptor = random.standard_normal(64).astype(np.float32)
        loaded.store.replace(key, descriptor=descriptor)
    save_map(
        folder, loaded.store, fingerprint=Oracle.fingerprint, model="oracle", grid=loaded.grid,
        segment=loaded.segment, metric=False, scale_sigma=np.inf,
    )  # fmt: skip
    return folder


def turns_of_tried(rig: Rig, saved: Saved, folder: Path, *, told: bool) -> list[float]:
    """The keyframes that were compared until the camera was found: by how much they face away.

    In radians, by the truth; all that face as the camera does are close to it on this drive.
    """
    robot = open_robot(rig)
    engine = robot.engine = Forgetful(robot.base @ BASE_FROM_CAMERA, robot.engine.faults)
    robot.start(tf_mode="none", map=str(folder))
    pose = rig.peer.create_publisher(PoseWithCovarianceStamped, "/initialpose", 10)
    rig.wait_until(lambda: pose.get_subscription_count() == 1, "/initialpose is matched")
    if told:
        there = saved.truth_from_world.inverse()
        base, known = robot.base[SECOND[5]], np.eye(4)
        known[:3, :3], known[:3, 3] = there.rotation @ base[:3, :3], there.apply(base[:3, 3])
        msg = PoseWithCovarianceStamped(header=header(START, "vggt_world"))
        msg.pose.pose = pose_message(msg.header, known).pose
        pose.publish(msg)
    run = drive(robot, SECOND)
    sought = [state == MapStatus.RELOCALISING for state in run.states]
    turns = []
    for images, i in zip(engine.inferences, SECOND, strict=True):
        old = [number for number, _ in images if number in FIRST]
        if old and sought[i - SECOND[0]]:
            cosine = robot.base[old[0], :3, 0] @ robot.base[i, :3, 0]
            turns.append(float(np.arccos(np.clip(cosine, -1.0, 1.0))))
    return turns


def test_a_pose_that_is_given_narrows_the_search(open_rig, saved: Saved, nondescript: Path):
    told = turns_of_tried(open_rig(), saved, nondescript, told=True)
    alone = turns_of_tried(open_rig(), saved, nondescript, told=False)
    assert 0 < len(told) < 5 and max(told) < 1.2, "facing as the pose does, give or take"
    assert len(alone) > len(told) and max(alone) > 1.5


def test_a_pose_that_cannot_be_used_is_refused_or_noticed(open_rig):
    rig = open_rig()
    robot = open_robot(rig)
    robot.start(tf_mode="none")
    pose = rig.peer.create_publisher(PoseWithCovarianceStamped, "/initialpose", 10)
    rig.wait_until(lambda: pose.get_subscription_count() == 1, "/initialpose is matched")
    drive(robot, range(3))
    msg = PoseWithCovarianceStamped(header=header(START, "map"))
    msg.pose.pose.orientation.w = 1.0
    pose.publish(msg)
    rig.wait_for_diagnostics("it is in 'map', not in world_frame 'vggt_world'")
    msg.header.frame_id, msg.pose.pose.orientation.w = "vggt_world", 0.0
    pose.publish(msg)
    rig.wait_for_diagnostics("or no quaternion of length one")
    msg.pose.pose.orientation.w = 1.0
    pose.publish(msg)
    rig.wait_for_diagnostics("not needed: the camera is located")


# ---- refused ------------------------------------------------------------------------------------


def other_byte(folder: Path) -> None:
    file = sorted((folder / "keyframes").iterdir())[0]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: None, "was made with another network"),
        (other_byte, "is damaged"),
        (lambda folder: (folder / "cloud.ply").unlink(), "cloud.ply is missing"),
        (shutil.rmtree, "there is no folder"),
    ],
)
def test_a_map_that_does_not_fit_ends_the_node_with_the_reason(
    open_rig, saved: Saved, tmp_path, change, words
):
    folder = tmp_path / "map"
    shutil.copytree(saved.folder, folder)
    change(folder)
    rig = open_rig()
    robot = open_robot(rig)
    if "network" in words:
        robot.engine.fingerprint = "another"
    rig.open(engine=lambda *_: robot.engine, network_width=84, map=str(folder))
    error = failure(rig)
    assert isinstance(error, UserError) and words in str(error)


def test_a_map_of_another_width_ends_the_node_and_of_another_height_refuses_images(
    open_rig, saved: Saved
):
    rig = open_rig()
    robot = open_robot(rig)
    rig.open(engine=lambda *_: robot.engine, network_width=98, map=str(saved.folder))
    assert "84x56 network pixels, and these are 98 wide" in str(failure(rig))
    rig = open_rig()
    robot = open_robot(rig)
    robot.start(tf_mode="none", map=str(saved.folder))
    rig.publish_repeatedly(np.zeros((84, 84, 3), np.uint8), START, 2)
    rig.wait_for_diagnostics("and these are 84x84: use a camera of that shape")
    assert rig.count("inferences") == 0 and not rig.failures
