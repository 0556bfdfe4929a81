# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Path and cloud follow the map: corrections, merged segments, refused and doubtful windows."""

import numpy as np
import pytest
from made_updates import DEPTH, SIZE, keyframes, pose, stamp, update, view

from vggt_ros.geometry import Similarity, rotation_from_quaternion
from vggt_ros.mapping.cloud.voxels import OwnedCloud
from vggt_ros.mapping.map_files import LoadedMap
from vggt_ros.mapping.pose_graph.keyframes import KeyframeStore
from vggt_ros.mapping.status import MapStatus
from vggt_ros.ros.live_parameters import LiveParameters
from vggt_ros.ros.messages import stamp_ns
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.publishing.following import MapFollower
from vggt_ros.ros.publishing.map_output import MapOutput
from vggt_ros.ros.publishing.path_output import PathOutput

pytestmark = pytest.mark.ros

TURN = rotation_from_quaternion(np.array([0.0, 0.0, 0.3, 0.95]))
MOTION = Similarity(1.5, TURN, np.array([1.0, 2.0, 3.0]))


class Unchanging(LiveParameters):
    """Parameters without a node."""

    def __init__(self, now: Parameters):
        self.now = now


class Followed:
    """A path and a cloud that are shown each update, as the node shows them."""

    def __init__(self, max_length: int = 1000):
        self.follower, self.max_length = MapFollower(), max_length
        self.path = PathOutput("map")
        self.map = MapOutput(Unchanging(Parameters(map_voxel=0.05)))

    def add(self, *parts, **changes) -> None:
        found = update(*parts, **changes)
        change = self.follower.follow(found)
        self.path.update(found, change, self.max_length)
        self.map.update(found, change)

    @property
    def frames(self) -> list[int]:
        """Numbers of the frames whose poses are shown."""
        stamps = [stamp_ns(pose.header.stamp) for pose in self.path.poses]
        return [(ns - stamp(0)) // (stamp(1) - stamp(0)) for ns in stamps]

    @property
    def centres(self) -> np.ndarray:
        places = [pose.pose.position for pose in self.path.poses]
        return np.array([[p.x, p.y, p.z] for p in places]).reshape(-1, 3)

    @property
    def points(self) -> np.ndarray:
        """Points of the cloud as published."""
        data = self.map.message().data
        return np.frombuffer(data, "<f4").reshape(-1, 5)[:, :3].astype(np.float64)


def centres(frames, motion: Similarity | None = None) -> np.ndarray:
    places = np.array([pose(i)[:3, 3] for i in frames])
    return places if motion is None else motion.apply(places)


@pytest.fixture
def followed() -> Followed:
    return Followed()


def test_path_and_cloud_move_where_a_correction_moves_their_keyframes(followed: Followed):
    followed.add([0], keyframes([]))
    for i in (1, 2, 3):
        followed.add([i - 1, i], keyframes(range(i + 1)))
    before = followed.points
    np.testing.assert_allclose(followed.centres, centres(range(4)))
    np.testing.assert_allclose(before[:, 0], DEPTH, atol=1e-5)
    assert followed.path.has_changed
    followed.path.message()
    moved = keyframes(range(4), moved=MOTION)
    views = [view(3, world_from_camera=MOTION.apply_to_poses(pose(3)[None])[0])]
    followed.add(views, moved, fresh=0)
    assert followed.path.has_changed
    np.testing.assert_allclose(followed.centres, centres(range(4), MOTION))
    planes = MOTION.inverse().apply(followed.points)
    np.testing.assert_allclose(planes[:, 0], DEPTH, atol=1e-4)


def test_the_axes_of_the_path_turn_with_the_correction(followed: Followed):
    followed.add([0], keyframes([0]))
    followed.add([0], keyframes([0], moved=MOTION), fresh=0)
    q = followed.path.poses[0].pose.orientation
    found = rotation_from_quaternion(np.array([q.x, q.y, q.z, q.w]))
    np.testing.assert_allclose(found, TURN @ pose(0)[:3, :3], atol=1e-9)


def test_only_poses_of_the_keyframes_that_moved_move(followed: Followed):
    near = [view(i, keyframe=0 if i < 2 else 2) for i in range(4)]
    followed.add(near, keyframes([0, 2]), fresh=4)
    part = keyframes([0, 2])
    moved = part.translation + [[0.0, 0, 0], [0, 0, 5.0]]
    followed.add(near, part._replace(translation=moved), fresh=0)
    np.testing.assert_allclose(followed.centres[:, 2], [0, 0, 5, 5])


def test_nothing_is_published_again_where_nothing_changed(followed: Followed):
    followed.add([0, 1], keyframes([0, 1]))
    followed.path.message()
    followed.add([0, 1], keyframes([0, 1]), fresh=0)
    assert not followed.path.has_changed


def test_poses_of_a_removed_keyframe_follow_its_heir(followed: Followed):
    followed.add([0, 1, 2], keyframes([0, 1, 2]), fresh=3)
    followed.add([2, 3], keyframes([0, 2, 3], heirs={1: 0}))
    moved = keyframes([0, 2, 3])
    shift = np.array([[0.0, 0, 4.0], [0, 0, 0], [0, 0, 0]])
    followed.add([3], moved._replace(translation=moved.translation + shift), fresh=0)
    np.testing.assert_allclose(followed.centres[:, 2], [4, 4, 0, 0])


# ---- refused and doubtful windows ---------------------------------------------------------------


def test_predicted_poses_stay_out_of_the_path_until_they_are_registered(followed: Followed):
    known = keyframes([0, 1])
    followed.add([0, 1], known, fresh=2)
    wrong = pose(9)
    for i in (2, 3, 4):
        views = [view(0), view(i - 1, world_from_camera=wrong), view(i, world_from_camera=wrong)]
        followed.add(views, known, accepted=False, reason="nonsense")
    assert followed.frames == [0, 1]
    followed.add([0, 3, 4, 5], known)
    assert followed.frames == [0, 1, 3, 4, 5], "frame 2 was never registered"
    np.testing.assert_allclose(followed.centres, centres([0, 1, 3, 4, 5]))


@pytest.mark.parametrize(
    "fault", [{"accepted": False, "reason": "nonsense"}, {"doubtful": True, "reason": "noisy"}]
)
def test_depth_of_a_refused_or_doubtful_window_never_enters_the_cloud(
    followed: Followed, fault: dict
):
    first = view(0)
    followed.add([first], keyframes([0]))
    doubted = view(1, depth=np.full_like(view(1).depth, 7.0))
    followed.add([first, doubted], keyframes([0]), **fault)
    assert followed.map.size == 0, "not even what it settles"
    # The next window is sound, and has no depth of its own for the older view.
    scaled = doubted._replace(depth=2.0 * doubted.depth)  # by a correction: the same inference's
    followed.add([scaled, view(2)], keyframes([0, 1]))
    followed.add([view(2), view(3)], keyframes([0, 1, 2]))
    assert followed.map.size > 0
    assert followed.points[:, 0].max() < DEPTH + 0.1
    followed.add([view(1), view(3)], keyframes([0, 1, 2]), fresh=0)  # it was inferred again
    assert followed.points[:, 1].max() > centres([1])[0, 1]


# ---- segments -----------------------------------------------------------------------------------


def test_another_segment_hides_the_first_and_a_merge_shows_both(followed: Followed):
    followed.add([0], keyframes([0]))
    followed.add([0, 1], keyframes([0, 1]))
    first = followed.map.size
    two = {0: 0, 1: 0, 5: 4, 6: 4}
    followed.add([5, 6], keyframes(two, segments=two), fresh=2, segment=4)
    assert followed.frames == [5, 6]
    second = followed.map.size
    assert second == first
    apart = followed.points
    # Found again: the second segment joins the first, and moves to its place.
    poses, shift = keyframes(two), np.zeros((4, 3))
    shift[2:] = 0.0, 0.0, 30.0
    poses = poses._replace(translation=poses.translation + shift)
    followed.add([5, 6], poses, fresh=0, accepted=False, reason="refused at this very moment")
    assert followed.frames == [0, 1, 5, 6]
    np.testing.assert_allclose(followed.centres[:, 2], [0, 0, 30, 30])
    assert followed.map.size == first + second
    high = followed.points[:, 2] > 15.0
    assert high.sum() == second
    np.testing.assert_allclose(
        np.sort(followed.points[high], axis=0), np.sort(apart + [0, 0, 30.0], axis=0), atol=1e-5
    )


def test_the_first_segment_comes_back_when_the_camera_does(followed: Followed):
    followed.add([0, 1], keyframes([0, 1]), fresh=2)
    two = {0: 0, 1: 0, 5: 4}
    followed.add([5], keyframes(two, segments=two), segment=4)
    assert followed.frames == [5] and followed.map.size == 0
    followed.add([0, 7], keyframes(two, segments=two), segment=0)
    assert followed.frames == [0, 1, 7] and followed.map.size > 0


def test_a_map_that_nothing_ties_to_the_last_one_starts_empty(followed: Followed):
    followed.add([0, 1], keyframes([0, 1]), fresh=2)
    assert followed.map.size > 0
    followed.add([7], keyframes([7]))
    assert followed.frames == [7] and followed.map.size == 0


def test_a_path_keeps_the_newest_poses():
    followed = Followed(max_length=2)
    for i in range(1, 5):
        followed.add([i - 1, i], keyframes([0]))
    assert followed.frames == [3, 4]
    followed.path.message()
    followed.add([2, 3, 4], keyframes([0]), fresh=0)
    assert followed.frames == [3, 4] and not followed.path.has_changed


def test_a_large_cloud_is_published_after_some_updates_and_a_small_one_at_once(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
):
    followed.add([0, 1], keyframes([0, 1]), fresh=2)
    small = followed.map.next_message()
    assert small is not None and small.width == followed.map.size > 100
    assert followed.map.next_message() is None, "another one is not due"
    monkeypatch.setattr("vggt_ros.ros.publishing.map_output.READ_AT_ONCE", followed.map.size // 4)
    sent = {}
    for i in range(2, 60):  # six seconds
        followed.add([i], keyframes([0, 1, i]), fresh=1)
        if (message := followed.map.next_message()) is not None:
            sent[i] = message
    first, *_ = sent
    assert 21 < first < 28, "due from frame 20 on, and read in four parts"
    assert sent[first].header.stamp.nanosec == stamp(first) % 10**9
    found, expected = (
        np.frombuffer(msg.data, "<f4").reshape(-1, 5)[:, :3]
        for msg in (list(sent.values())[-1], followed.map.message())
    )
    np.testing.assert_allclose(np.sort(found, axis=0), np.sort(expected, axis=0))


# ---- a loaded map -------------------------------------------------------------------------------


def loaded_map(**changes) -> LoadedMap:
    """Frames 0 and 1 as keyframes of segment 0, and a point of each."""
    cloud = OwnedCloud(
        np.array([[1.01, 0.0, 0.0], [3.01, 0.0, 0.0]], np.float32),
        np.full((2, 3), 100, np.uint8), np.full(2, 2.0, np.float32), np.array([0, 1]),
    )  # fmt: skip
    return LoadedMap(KeyframeStore(), 0, False, np.inf, SIZE, "small", cloud)._replace(**changes)


def test_a_loaded_cloud_is_shown_until_the_camera_is_found_and_moves_with_its_keyframes():
    shown = Followed()
    shown.map.load(loaded_map())
    assert sorted(shown.points[:, 0]) == pytest.approx([1.01, 3.01])
    segments = {4: 1, 5: 1}
    known = keyframes([0, 1, 4, 5], segments=segments)
    shown.add([4, 5], known, status=MapStatus(sought_in=0), segment=1)
    shown.add([5, view(6, keyframe=5)], known, status=MapStatus(sought_in=0), segment=1)
    assert len(shown.points) == 2 and shown.frames == [], "this run's segment is hidden"
    joined = keyframes([0, 1, 4, 5])
    shown.add([5, view(6, keyframe=5)], joined, segment=0)
    assert len(shown.points) > 2 and shown.frames == [4, 5, 6]
    shown.add([5, view(6, keyframe=5)], keyframes([0, 1, 4, 5], moved=MOTION), segment=0)
    expected = MOTION.apply(np.array([[1.01, 0.0, 0.0], [3.01, 0.0, 0.0]]))
    for point in expected:
        assert np.linalg.norm(shown.points - point, axis=1).min() < 1e-5


def test_a_map_that_is_not_extended_shows_the_loaded_cloud_alone():
    shown = Followed()
    shown.map = MapOutput(Unchanging(Parameters(map="somewhere", mapping=False)))
    shown.map.load(loaded_map())
    for i in range(4, 8):
        shown.add([i, i + 1], keyframes([0, 1, *range(4, i + 1)]))
    assert len(shown.points) == 2 and shown.frames == [4, 5, 6, 7, 8]
    assert not shown.map.is_due(), "it is what it was"


def test_path_and_cloud_follow_keyframes_that_moved_after_the_last_update():
    shown = Followed()
    shown.add([0, 1], keyframes([0, 1]))
    shown.add([1, 2], keyframes([0, 1, 2]))
    before, points = shown.centres, shown.points
    change = shown.follower.settle(keyframes([0, 1, 2], moved=MOTION))
    shown.path.follow(change)
    shown.map.follow(change)
    np.testing.assert_allclose(shown.centres, MOTION.apply(before), atol=1e-6)
    np.testing.assert_allclose(
        np.sort(shown.points, axis=0), np.sort(MOTION.apply(points), axis=0), atol=1e-4
    )
    shown.add([2, 3], keyframes([0, 1, 2, 3], moved=MOTION))
    np.testing.assert_allclose(shown.centres[:3], MOTION.apply(before), atol=1e-6)
