# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Messages that are written as bytes: what a subscriber reads is what rclpy would have sent."""

import numpy as np
import pytest
from geometry_msgs.msg import Point, PoseStamped
from made_updates import CAMERA, keyframes, pose, stamp, update, view
from nav_msgs.msg import Path
from node_rig import TIMEOUT, Rig
from rclpy.serialization import deserialize_message, serialize_message
from visualization_msgs.msg import Marker, MarkerArray

from vggt_ros.ros.messages import header, stamp_ns
from vggt_ros.ros.publishing.following import MapFollower
from vggt_ros.ros.publishing.path_output import SPARE, PathOutput
from vggt_ros.ros.publishing.serialised import PathBytes, marker_bytes

pytestmark = pytest.mark.ros

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("length", range(9))
def test_a_path_of_records_is_the_path_of_objects(length: int):
    """Whatever the frame's name does to the alignment of the first pose and of the others."""
    frame = "f" * length
    made = PathBytes(frame)
    for count in (0, 1, 2, 5):
        records, expected = made.records(count), Path(header=header(0, frame))
        for i in range(count):
            head, numbers = header(stamp(i), frame), RNG.normal(size=7)
            records["seconds"][i], records["nanoseconds"][i] = divmod(stamp(i), 10**9)
            records["position"][i], records["quaternion"][i] = numbers[:3], numbers[3:]
            one = PoseStamped(header=head)
            x, y, z, *quaternion = numbers.tolist()
            one.pose.position = Point(x=x, y=y, z=z)
            axes = one.pose.orientation
            axes.x, axes.y, axes.z, axes.w = quaternion
            expected.poses.append(one)
            expected.header = head
        data = made.message(records)
        assert len(data) == len(serialize_message(expected))
        assert deserialize_message(data, Path) == expected


@pytest.mark.parametrize("length", range(4))
@pytest.mark.parametrize("counts", [(0, 0), (3, 0), (0, 2), (6, 4), (7, 11)])
def test_markers_of_arrays_are_the_markers_of_objects(length: int, counts: tuple[int, int]):
    head = header(stamp(1), "f" * length)
    markers = [Marker(header=head, ns=name, type=Marker.LINE_LIST) for name in ("one", "other")]
    points = [RNG.normal(size=(count, 3)) for count in counts]
    data = marker_bytes(markers, points)
    for marker, mine in zip(markers, points, strict=True):
        marker.points = [Point(x=x, y=y, z=z) for x, y, z in mine.tolist()]
    expected = MarkerArray(markers=markers)
    assert len(data) == len(serialize_message(expected))
    assert deserialize_message(data, MarkerArray) == expected


def test_a_long_path_keeps_its_newest_poses_in_order():
    path, follower, longest = PathOutput("map"), MapFollower(), SPARE + 100
    last = 3 * SPARE
    for i in range(last):
        if i % 50 == 7:
            continue  # its window was refused; it comes with the next one
        missed = [i - 1] if i % 50 == 8 else []
        found = update([*missed, view(i, keyframe=0)], keyframes([0]))
        path.update(found, follower.follow(found), longest)
    message = deserialize_message(path.message(), Path)
    shown = [stamp_ns(each.header.stamp) for each in message.poses]
    assert shown == [stamp(i) for i in range(last - longest, last)]
    places = [[p.pose.position.x, p.pose.position.y] for p in message.poses]
    expected = [pose(i)[:2, 3] for i in range(last - longest, last)]
    np.testing.assert_allclose(places, expected)
    assert message.header == message.poses[-1].header


def test_a_long_path_and_many_keyframes_arrive_whole(rig: Rig):
    node = rig.start(map_period=0.1)
    paths = rig.subscribe_matched("/vggt/path", Path)
    markers = rig.subscribe_matched("/vggt/keyframes", MarkerArray)
    poses, frames = 10_000, 2000
    views = [view(i, camera=CAMERA, keyframe=i // 5, depth=None) for i in range(poses)]
    many = update(views, keyframes(range(frames)), fresh=0)
    node.sender.call_soon(lambda: node.outputs.publish(many))
    assert node.sender.wait_until_idle(5 * TIMEOUT)
    rig.wait_until(lambda: paths and markers, "path and keyframes")
    assert [len(paths[-1].poses), len(markers[-1].markers[0].points)] == [poses, 6 * frames]
    assert stamp_ns(paths[-1].poses[-1].header.stamp) == stamp(poses - 1)
