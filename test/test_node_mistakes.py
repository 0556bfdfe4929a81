# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What was given amiss and can be used all the same is said: sizes, shapes, frames, encodings."""

from io import BytesIO

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from node_rig import CAMERA, PERIOD, START, Rig
from PIL import Image as PillowImage
from vggt_ros.msg import PointTracks, QueryPoints

from vggt_ros.imaging.reader import ImageReader
from vggt_ros.ros.messages import header, image_message

pytestmark = pytest.mark.ros


def test_an_image_size_that_no_image_has_is_a_lasting_warning(rig: Rig):
    rig.start(image_size="640x480")
    rig.infer(0)
    words = "image_size is 640x480, but images have 64x48"
    rig.wait_for_status("settings", lambda s: s.level == DiagnosticStatus.WARN)
    assert words in rig.status("settings").message


def test_a_query_for_another_camera_is_said_and_tracked(rig: Rig):
    rig.start()
    tracks = rig.subscribe_matched("/vggt/tracks", PointTracks)
    rig.infer(0)
    query = QueryPoints(header=header(0, "rear_optical"), ids=[5], u=[40.0], v=[20.0])
    rig.queries.publish(query)
    words = f"query_points is of another frame_id: 'rear_optical', and images of '{CAMERA}'"
    rig.wait_for_diagnostics(words)
    rig.infer(1, 2)
    rig.wait_until(lambda: tracks, "tracks")


def test_images_wider_than_any_that_was_trained_on_are_a_notice(rig: Rig):
    """As those of a stereo camera that sends both of its images side by side."""
    rig.start()
    wide = np.random.default_rng(0).integers(0, 256, (48, 168, 3), np.uint8)
    for i in range(2):
        rig.images.publish(image_message(header(START + i * PERIOD, CAMERA), wide))
    rig.wait_for_diagnostics("images of 168x48 are wider than those", "two images side by side")
    count = rig.node.health.snapshot().notices  # type: ignore[union-attr]
    assert [n for text, n in count.items() if text.startswith("images of")] == [1]


def test_a_compressed_image_that_names_no_colours_is_a_notice():
    """As of a depth camera whose compressed topic was taken for that of its colours."""
    notices: list[str] = []
    reader, file = ImageReader(notices=notices), BytesIO()
    PillowImage.fromarray(np.full((40, 60), 1500, np.uint16)).save(file, "PNG")
    for _ in range(2):
        reader.compressed(file.getvalue(), "16UC1; png compressed ")
    assert notices == [
        "encoding 16UC1 names no colours: read as mono16; set it in the driver if not"
    ]
