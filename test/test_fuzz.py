# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Damaged messages where they are converted: each is read, or refused in a sentence.

The node as a whole is in `test_fuzz_node.py`. Each example that fails is found again: the
examples follow from the code alone.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fuzz_messages import WHOLE, damaged, damaged_bytes, picture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from node_rig import CAMERA, INPUT, START, K
from tf2_msgs.msg import TFMessage

from vggt_ros.errors import UserError
from vggt_ros.frames import Frame
from vggt_ros.imaging.reader import ImageReader
from vggt_ros.mapping.metric.odometry import OdometryBuffer
from vggt_ros.mapping.metric.scale_sources import sparse_depth
from vggt_ros.ros.health.notices import LONGEST, printable
from vggt_ros.ros.inputs import CameraInput, CameraReports, frame_from
from vggt_ros.ros.messages import queries_from, stamp_ns
from vggt_ros.ros.sensors.depth_messages import depth_from_image, points_from
from vggt_ros.ros.sensors.masks import mask_from
from vggt_ros.ros.tf.tf_cache import TfCache, pose_of
from vggt_ros.ros.tf.tf_messages import Reader

pytestmark = pytest.mark.ros

IN_A_TEST, IN_A_LONG_ONE = 60, 1500  # examples of each kind of message


def read_image(msg: Any) -> None:
    rgb = frame_from(msg, ImageReader()).rgb
    assert rgb.dtype == np.uint8 and rgb.ndim == 3


def read_depth(msg: Any) -> None:
    found = depth_from_image(msg)
    assert found.shape == (msg.height, msg.width)
    assert not (found <= 0).any()


def read_cloud(msg: Any) -> None:
    """The points, and their depth on the pixels of an image."""
    points = points_from(msg)
    assert len(points) == msg.height * msg.width
    assert sparse_depth(points, K, *INPUT).shape == INPUT


def read_mask(msg: Any) -> None:
    assert mask_from(msg).shape == (msg.height, msg.width)


def read_camera_info(msg: Any) -> None:
    """The calibration, and an image by it, which is never lost."""
    nothing = CameraReports(*[lambda *_: None] * 5)
    camera = CameraInput("/image", "auto", "auto", nothing)
    camera.hear(msg)
    frame, _ = camera.read(Frame(picture(), START, CAMERA))
    if frame.rectification is not None:
        assert frame.rectification.image(frame.rgb).shape == frame.rgb.shape
    if frame.intrinsics is not None:
        assert np.isfinite(frame.intrinsics).all()
        np.linalg.inv(frame.intrinsics)


def read_queries(msg: Any) -> None:
    ids, uv = queries_from(msg)
    assert uv.shape == (len(ids), 2)


def read_odometry(msg: Any) -> None:
    pose = pose_of(msg.pose.pose.position, msg.pose.pose.orientation)
    buffer = OdometryBuffer()
    if pose is not None and buffer.add(stamp_ns(msg.header.stamp), pose):
        np.linalg.inv(pose)


def read_transforms(msg: Any) -> None:
    tree = TfCache()
    tree.add(WHOLE["transforms"].transforms, is_static=True)
    tree.add(msg.transforms, is_static=False)
    found = tree.lookup("odom", CAMERA, START)
    assert found is None or np.isfinite(found).all()


READ: dict[str, Callable[[Any], None]] = {
    "image": read_image,
    "jpeg": read_image,
    "png": read_image,
    "depth": read_depth,
    "cloud": read_cloud,
    "mask": read_mask,
    "camera_info": read_camera_info,
    "queries": read_queries,
    "odometry": read_odometry,
    "initial_pose": lambda msg: pose_of(msg.pose.pose.position, msg.pose.pose.orientation),
    "transforms": read_transforms,
}


def examples(count: int) -> settings:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    return settings(max_examples=count, derandomize=True, deadline=None, database=None,
                    suppress_health_check=checks)  # fmt: skip


def check(name: str, count: int) -> None:
    """Read that many damaged messages; whatever is raised is a sentence for the user."""

    @examples(count)
    @given(damaged(name))
    def each(msg: Any) -> None:
        try:
            READ[name](msg)
        except UserError as fault:
            assert 10 < len(said := printable(str(fault))) <= LONGEST and said.isprintable()

    each()


@pytest.mark.parametrize("name", READ)
def test_a_whole_message_is_read(name: str):
    READ[name](WHOLE[name])


@pytest.mark.parametrize("name", READ)
def test_a_damaged_message_is_read_or_refused_in_a_sentence(name: str):
    check(name, IN_A_TEST)


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.parametrize("name", READ)
def test_many_damaged_messages_are_read_or_refused(name: str):
    check(name, IN_A_LONG_ONE)


@examples(300)
@given(st.lists(damaged_bytes("transforms"), min_size=1, max_size=3))
def test_damaged_bytes_on_tf_cost_themselves(raws: list[bytes]):
    """They are read here without the middleware's own reader, so that each byte may be wrong."""
    reader, tree = Reader(TFMessage), TfCache()
    for raw in raws:
        tree.add_received(reader.read(raw), is_static=False)
    tree.add(WHOLE["transforms"].transforms, is_static=True)
    pose = tree.lookup("odom", CAMERA, START)
    assert pose is None or np.isfinite(pose).all()
