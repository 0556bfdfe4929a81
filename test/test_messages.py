# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Arrays to messages and back: consumers read the same values, bit for bit."""

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointField
from vggt_ros.msg import QueryPoints

from vggt_ros.errors import UserError
from vggt_ros.frames import Tracks, View
from vggt_ros.geometry import rotation_from_quaternion, unproject
from vggt_ros.imaging.calibration import Calibration
from vggt_ros.imaging.grid import grid_for
from vggt_ros.mapping.cloud.voxels import OwnedCloud
from vggt_ros.ros import clouds, messages

pytestmark = pytest.mark.ros

HEAD = messages.header(1_763_680_000_123_456_789, "camera_optical")
RNG = np.random.default_rng(7)
K = np.array([[40.0, 0, 10.5], [0, 42.0, 7.25], [0, 0, 1]])


def random_image(height=16, width=22):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def random_depth(height=16, width=22):
    z = RNG.uniform(0.5, 4, (height, width)).astype(np.float32)
    z[:2] = np.nan
    return z


@pytest.mark.parametrize("ns", [1, 999_999_999, 1_000_000_000, 1_763_680_000_123_456_789])
def test_a_stamp_survives_the_round_trip(ns):
    assert messages.stamp_ns(messages.time_message(ns)) == ns


def test_an_image_survives_the_round_trip():
    rgb = random_image()
    msg = messages.image_message(HEAD, rgb)
    assert (msg.header, msg.encoding, msg.step) == (HEAD, "rgb8", 66)
    np.testing.assert_array_equal(messages.rgb_from_image(msg), rgb)


def test_a_depth_image_is_32FC1_and_is_written_in_place():
    z = random_depth()
    kept = messages.image_message(HEAD, z)
    assert (kept.encoding, kept.step, kept.is_bigendian) == ("32FC1", 88, 0)
    buffer = kept.data
    again = messages.image_message(HEAD, 2 * z, into=kept)
    assert again.data is buffer, "a kept message is written in place"
    np.testing.assert_array_equal(np.frombuffer(again.data, "<f4").reshape(16, 22), 2 * z)


def test_a_kept_message_follows_a_change_of_size():
    kept = messages.image_message(HEAD, random_image())
    small = random_image(3, 5)
    np.testing.assert_array_equal(
        messages.rgb_from_image(messages.image_message(HEAD, small, into=kept)), small
    )


def test_padded_rows_and_unknown_encodings_reach_the_decoder():
    rgb = random_image()
    msg = messages.image_message(HEAD, np.pad(rgb, ((0, 0), (0, 2), (0, 0))))
    msg.width -= 2
    np.testing.assert_array_equal(messages.rgb_from_image(msg), rgb)
    msg.encoding = "8UC5"
    with pytest.raises(UserError, match=r"8UC5.*cv_bridge"):
        messages.rgb_from_image(msg)


def test_an_encoding_that_only_cv_bridge_knows_goes_through_it(monkeypatch):
    """With a fake module: it is used for encodings unknown to vggt_ros, and its image returned."""
    import sys
    from types import ModuleType

    class CvBridge:
        def imgmsg_to_cv2(self, msg, desired):
            assert desired == "rgb8"
            return np.full((msg.height, msg.width, 3), 9, np.uint8)

    fake = ModuleType("cv_bridge")
    fake.CvBridge = CvBridge  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cv_bridge", fake)
    msg = messages.image_message(HEAD, random_image())
    msg.encoding = "nv61"
    assert (messages.rgb_from_image(msg) == 9).all()


def test_a_truncated_jpeg_is_an_error_of_the_user():
    from io import BytesIO

    from PIL import Image as Pillow

    whole = BytesIO()
    Pillow.fromarray(random_image(64, 64)).save(whole, "jpeg")
    message = CompressedImage(format="jpeg", data=whole.getvalue())
    assert messages.rgb_from_compressed(message).shape == (64, 64, 3)
    message.data = whole.getvalue()[:300]
    with pytest.raises(UserError, match="compressed image"):
        messages.rgb_from_compressed(message)


def test_camera_info_is_rectified_and_survives_the_round_trip():
    info = messages.camera_info_message(HEAD, K, width=22, height=16)
    assert (info.header, info.width, info.height) == (HEAD, 22, 16)
    assert list(info.d) == [0.0] * 5
    np.testing.assert_array_equal(np.reshape(info.r, (3, 3)), np.eye(3))
    np.testing.assert_array_equal(np.reshape(info.p, (3, 4)), np.c_[K, np.zeros(3)])
    np.testing.assert_array_equal(Calibration.of(info).intrinsics, K)


@pytest.mark.parametrize("k", [np.zeros(9), np.full(9, np.nan), -K.ravel()])
def test_an_uncalibrated_camera_info_is_refused(k):
    with pytest.raises(UserError, match="no calibration"):
        Calibration.of(CameraInfo(k=k))


@pytest.mark.parametrize("at_once", [1, 100, clouds.AT_ONCE])
def test_a_cloud_is_organised_packed_and_coloured(at_once: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(clouds, "AT_ONCE", at_once)
    z, rgb = random_depth(), random_image()
    points = clouds.camera_points(z, K)
    msg = messages.depth_cloud_message(HEAD, z, K, rgb, z)
    assert msg == messages.cloud_message(HEAD, points, rgb, z)  # bit for bit, as bytes
    assert (msg.height, msg.width, msg.point_step, msg.row_step) == (16, 22, 20, 440)
    assert [(f.name, f.offset, f.datatype, f.count) for f in msg.fields] == [
        (name, 4 * i, PointField.FLOAT32, 1)
        for i, name in enumerate(("x", "y", "z", "rgb", "confidence"))
    ]
    table = np.frombuffer(msg.data, "<f4").reshape(16, 22, 5)
    np.testing.assert_array_equal(table[..., :3], points)
    np.testing.assert_array_equal(table[..., 4], z)
    packed = np.frombuffer(msg.data, "<u4").reshape(16, 22, 5)[..., 3]
    wide = rgb.astype(np.uint32)
    np.testing.assert_array_equal(packed, wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2])


@pytest.mark.parametrize("points", [0, 3, 5])
def test_a_kept_cloud_grows_and_shrinks(points):
    kept = messages.records_message(HEAD, [np.full((4, 20), 1, np.uint8)])
    msg = messages.records_message(HEAD, [np.full((points, 20), 9, np.uint8)], into=kept)
    assert (msg.width, list(msg.data)) == (points, [9] * 20 * points)


def test_a_cloud_in_parts_is_the_cloud_and_the_next_one_begins_empty():
    growing = messages.GrowingCloud()
    for sizes in ((3, 0, 5), (2,), (4, 9)):
        growing.clear()
        points = RNG.uniform(-1, 1, (sum(sizes), 3)).astype(np.float32)
        colours = RNG.integers(0, 255, (sum(sizes), 3), dtype=np.uint8)
        ends = np.cumsum(sizes)
        for first, last in zip(ends - sizes, ends, strict=True):
            part = slice(first, last)
            owners = np.zeros(last - first, np.int64)
            growing.append(OwnedCloud(points[part], colours[part], points[part, 0], owners))
        whole = messages.cloud_message(HEAD, points[None], colours[None], points[None, :, 0])
        whole.is_dense = True
        assert growing.message(HEAD) == whole


def test_camera_points_equal_unproject():
    z = random_depth()
    np.testing.assert_allclose(
        clouds.camera_points(z, K), unproject(z, K.astype(np.float32)), rtol=1e-6, atol=1e-6
    )  # float32, another order of two products


@pytest.mark.parametrize("step", [1, 3])
def test_window_points_are_the_confident_pixels_of_every_view_in_the_world(step):
    world_from_camera = np.eye(4)
    world_from_camera[:3, :3] = rotation_from_quaternion(np.array([0.1, -0.4, 0.2, 0.9]))
    world_from_camera[:3, 3] = 1, -2, 0.5
    z, trust, rgb = random_depth(), RNG.uniform(1, 3, (16, 22)).astype(np.float32), random_image()
    seen = View(0, 1, "c", grid_for(22, 16, 14), rgb, K, world_from_camera, z, trust, rgb)
    without_depth = seen._replace(depth=None, confidence=None)
    parts = clouds.WindowCloud().records(
        [without_depth, seen, seen._replace(frame_id=1)], 2.0, step
    )
    msg = messages.records_message(HEAD, parts)
    found = np.frombuffer(msg.data, "<f4").reshape(-1, 5)

    coarse = np.s_[::step, ::step]
    keep = (np.isfinite(z) & (trust >= 2.0))[coarse]
    world = (
        unproject(z.astype(np.float64), K) @ world_from_camera[:3, :3].T + world_from_camera[:3, 3]
    )
    expected = np.tile(world[coarse][keep], (2, 1))
    assert len(expected)
    assert (msg.height, msg.width, msg.is_dense) == (1, len(expected), True)
    np.testing.assert_allclose(found[:, :3], expected, atol=1e-5)  # float32 at a few metres
    np.testing.assert_array_equal(found[:, 4], np.tile(trust[coarse][keep], 2))
    octets = np.frombuffer(msg.data, np.uint8).reshape(-1, 20)
    np.testing.assert_array_equal(octets[:, 14:11:-1], np.tile(rgb[coarse][keep], (2, 1)))


def test_the_points_of_an_unchanged_view_are_computed_once():
    rgb = random_image()
    view = View(
        0, 1, "c", grid_for(22, 16, 14), rgb, K, np.eye(4), random_depth(), random_depth() + 1, rgb
    )
    cloud = clouds.WindowCloud()
    (first,) = cloud.records([view], 1.5, 2)
    (again,) = cloud.records([view], 1.5, 2)
    assert again is first
    assert cloud.records([view._replace(stamp_ns=2)], 1.5, 2)[0] is not first
    assert cloud.records([view], 2.5, 2)[0] is not first


def test_a_pose_and_a_transform_carry_the_same_motion():
    motion = np.eye(4)
    motion[:3, :3] = rotation_from_quaternion(np.array([0.5, 0.5, -0.5, 0.5]))
    motion[:3, 3] = 1, 2, 3
    pose = messages.pose_message(HEAD, motion).pose
    moved = messages.transform_message(HEAD, "camera", motion)
    assert moved.child_frame_id == "camera" and moved.header == HEAD
    for translation, quaternion in (
        (pose.position, pose.orientation),
        (moved.transform.translation, moved.transform.rotation),
    ):
        assert (translation.x, translation.y, translation.z) == (1, 2, 3)
        xyzw = [quaternion.x, quaternion.y, quaternion.z, quaternion.w]
        np.testing.assert_allclose(xyzw, [0.5, 0.5, -0.5, 0.5])


def test_tracks_are_frame_major():
    uv = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    tracks = Tracks(np.array([4, 5, 9], np.uint32), (10, 20), uv, uv[..., 0] / 12, uv[..., 1] / 12)
    msg = messages.tracks_message(HEAD, tracks, window_id=3, segment=1)
    assert list(msg.ids) == [4, 5, 9]
    assert [messages.stamp_ns(stamp) for stamp in msg.stamps] == [10, 20]
    np.testing.assert_array_equal(np.reshape(msg.u, (2, 3)), uv[..., 0])
    np.testing.assert_array_equal(np.reshape(msg.v, (2, 3)), uv[..., 1])
    assert len(msg.visibility) == len(msg.confidence) == 6


def test_queries_survive_and_unequal_or_repeated_ones_are_refused():
    ids, uv = messages.queries_from(QueryPoints(ids=[3, 1], u=[1.0, 2.0], v=[5.0, 6.0]))
    np.testing.assert_array_equal(ids, [3, 1])
    np.testing.assert_array_equal(uv, [[1, 5], [2, 6]])
    assert messages.queries_from(QueryPoints())[1].shape == (0, 2)
    with pytest.raises(UserError, match="equal length"):
        messages.queries_from(QueryPoints(ids=[1], u=[1.0, 2.0], v=[5.0]))
    with pytest.raises(UserError, match="repeats"):
        messages.queries_from(QueryPoints(ids=[1, 1], u=[1.0, 2.0], v=[5.0, 5.0]))


def test_large_fields_are_arrays_which_are_not_checked_element_by_element():
    assert type(messages.image_message(HEAD, random_image()).data).__name__ == "array"
    assert isinstance(Image().data, type(messages.image_message(HEAD, random_image()).data))
