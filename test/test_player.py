# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The player of the demo: stamps and schedule of a bag that is played in laps."""

import numpy as np
import pytest
from PIL import Image as Pillow
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image
from test_bag_files import mcap
from test_bags import IMAGES
from test_encodings import compressed

from vggt_ros.errors import UserError
from vggt_ros.ros.harness.player import (
    STAMP,
    STAMP_AT,
    BagMessage,
    decompressed,
    header_stamp,
    read,
    scheduled,
    time_reversed,
    topics_of,
    with_stamp,
)

pytestmark = pytest.mark.ros


def recorded(time_ns: int, stamp_ns: int) -> BagMessage:
    raw = bytearray(20)
    STAMP.pack_into(raw, STAMP_AT, *divmod(stamp_ns, 10**9))
    return BagMessage("/image", time_ns, bytes(raw), True)


def test_a_restamped_message_keeps_every_other_byte():
    raw = bytes(range(32))
    moved = with_stamp(raw, 1_700_000_000_123_456_789)
    assert header_stamp(moved) == 1_700_000_000_123_456_789
    assert moved[:4] == raw[:4] and moved[12:] == raw[12:]


@pytest.mark.parametrize("rate", [1.0, 2.0])
def test_stamps_keep_their_spacing_over_all_laps(rate):
    clip = [recorded(5_000 + 100_000_000 * i, 7_000 + 100_000_000 * i) for i in range(4)]
    played = list(scheduled([clip] * 3, 10**18, rate))
    stamps = np.array([header_stamp(message.raw) for message in played])
    assert np.allclose(np.diff(stamps), 100_000_000 / rate)
    assert (stamps == [message.time_ns for message in played]).all() and stamps[0] == 10**18


def test_the_delay_between_stamp_and_recording_is_kept():
    clip = [recorded(0, 0), recorded(100, 100), recorded(200, 190)]
    clip = [message._replace(time_ns=message.time_ns + 10**9) for message in clip]
    clip[0] = recorded(10**9, 50)
    lags = [m.time_ns - header_stamp(m.raw) for m in scheduled([clip], 10**18)]
    assert lags == [0, 50, 60]


def test_there_and_back_the_camera_does_not_jump():
    """Image and camera_info of a frame share their stamp on the way back too."""
    frames = [
        recorded(10**9 + 100 * i + late, 10**9 + 100 * i - 7)._replace(topic=topic)
        for i in range(3)
        for late, topic in ((0, f"/image/{i}"), (3, f"/camera_info/{i}"))
    ]
    played = list(scheduled([frames, time_reversed(frames), frames], 10**18))
    assert [m.topic[-1] for m in played] == list("001122221100001122")
    stamps = np.array([header_stamp(message.raw) for message in played])
    assert (stamps[::2] == stamps[1::2]).all() and (np.diff(stamps[::2]) > 50).all()
    assert (np.diff([message.time_ns for message in played]) > 0).all()
    assert not list(time_reversed([]))


def test_an_empty_bag_is_refused():
    with pytest.raises(UserError, match="holds no messages"):
        list(scheduled([[]], 0))


def test_foreign_channels_beside_the_camera_are_left_out_and_said(tmp_path):
    path, notes = mcap(tmp_path / "robot.mcap", indexed=True), []
    messages = list(read(path, notes))
    assert topics_of(path) == {"/odd": "a_robot/msg/Odd", "/image": "sensor_msgs/msg/Image"}
    assert [deserialize_message(m.raw, Image).data[0] for m in messages] == [
        message.data[0] for message in IMAGES
    ]
    assert all(m.stamped and m.topic == "/image" for m in messages)
    for topic in ("/log", "/thing", "/fb"):
        assert f"{topic} is not played: its messages are not CDR" in notes
    (tmp_path / "torn.mcap").write_bytes(path.read_bytes()[:-400])
    assert len(list(read(tmp_path / "torn.mcap", notes))) > 0
    assert any("truncated" in note for note in notes)
    (tmp_path / "none.mcap").write_bytes(b"no bag at all, of any kind")
    with pytest.raises(UserError, match="none.mcap cannot be read as a bag"):
        topics_of(tmp_path / "none.mcap")


def test_a_compressed_camera_is_played_with_its_bits_and_its_mosaic():
    grey = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    data = compressed(Pillow.fromarray(grey), "PNG")
    sent = CompressedImage(format="bayer_gbrg16; png compressed ", data=data)
    sent.header.frame_id = "optical"
    played = decompressed(serialize_message(sent))
    assert (played.header, played.encoding) == (sent.header, "bayer_gbrg16")
    assert (played.height, played.width, played.step) == (32, 32, 64)
    np.testing.assert_array_equal(np.frombuffer(played.data, "<u2").reshape(32, 32), grey)
