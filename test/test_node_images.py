# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Encodings, compressed images and images of 16 bits, as cameras send them on topics."""

from typing import Any

import numpy as np
import pytest
from node_rig import CAMERA, INPUT, PERIOD, START, Rig, log_of_warnings
from PIL import Image as PillowImage
from sensor_msgs.msg import CompressedImage, Image
from test_encodings import MOSAICS, compressed, mosaic, yuv_of
from tf2_msgs.msg import TFMessage

from vggt_ros.frames import Frame
from vggt_ros.imaging.sixteen_bits import WATCHED
from vggt_ros.ros.health.source_health import Warnings
from vggt_ros.ros.messages import header, image_message, rgb_from_image, transform_message
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.sensors.second_camera import SecondCamera
from vggt_ros.ros.subscriptions.input_topics import InputTopics
from vggt_ros.ros.tf.tf_cache import Frames

pytestmark = pytest.mark.ros

COLOUR = 200, 90, 13
FLAT = np.broadcast_to(np.array(COLOUR, np.uint8), (*INPUT, 3))
JPEG = compressed(PillowImage.fromarray(np.ascontiguousarray(FLAT)), "JPEG", quality=95)


class Camera:
    """A camera that publishes compressed images, and what the node makes of them."""

    def __init__(self, rig: Rig, **parameters: Any):
        self.rig = rig
        self.sender = rig.peer.create_publisher(CompressedImage, "/image/compressed", 10)
        rig.open(image_transport="compressed", **parameters)
        rig.wait_until(self.sender.get_subscription_count, "the node subscribes")
        self.seen = rig.subscribe_matched("/vggt/rgb/image_rect_color", Image)

    def send(self, i: int, data: bytes, format: str) -> None:
        head = header(START + i * PERIOD, CAMERA)
        self.sender.publish(CompressedImage(header=head, format=format, data=data))

    def colour(self, i: int, data: bytes, format: str) -> np.ndarray:
        """Mean colour that the network sees of frame `i`, the next one."""
        before = len(self.seen)
        self.send(i, data, format)
        self.rig.wait_until(lambda: len(self.seen) > before, f"the image of frame {i}")
        return rgb_from_image(self.seen[-1]).mean((0, 1))


DRIVERS = {  # encoding: a pixel's samples, or those of a mosaic
    "rgb16": (0, 1, 2), "bgr16": (2, 1, 0), "rgba16": (0, 1, 2, 0), "bgra16": (2, 1, 0, 0),
}  # fmt: skip


def test_encodings_of_drivers_are_seen_in_their_colours(rig: Rig):
    rig.start()
    seen = rig.subscribe_matched("/vggt/rgb/image_rect_color", Image)
    height, width = INPUT
    y, u, v = yuv_of(*COLOUR).tolist()
    chroma = {"nv12": [u, v], "nv21": [v, u]}
    octets = {
        name: (FLAT[..., order].astype("<u2") * 257).tobytes() for name, order in DRIVERS.items()
    }
    for order, red in MOSAICS.items():
        octets[f"bayer_{order}16"] = (mosaic(FLAT, *red).astype("<u2") * 257).tobytes()
    for name, pair in chroma.items():
        octets[name] = bytes([y] * (height * width) + pair * (height * width // 4))
    octets["nv24"] = bytes([y] * (height * width) + [u, v] * (height * width))
    for name in ("i420", "yuv420"):
        quarter = height * width // 4
        octets[name] = bytes([y] * (height * width) + [u] * quarter + [v] * quarter)
    octets["yvyu"] = bytes([y, v, y, u] * (height * width // 2))
    for i, (encoding, data) in enumerate(octets.items()):
        planar = encoding[:2] in ("nv", "i4") or encoding == "yuv420"
        rig.images.publish(
            Image(
                header=header(START + i * PERIOD, CAMERA), height=height, width=width,
                encoding=encoding, step=width if planar else len(data) // height, data=data,
            )
        )  # fmt: skip
        rig.wait_until(lambda n=i: len(seen) > n, f"the image in {encoding}")
        colour = rgb_from_image(seen[-1]).mean((0, 1))
        np.testing.assert_allclose(colour, COLOUR, atol=2, err_msg=encoding)
    assert rig.refused == 0


def test_a_compressed_mosaic_is_seen_in_its_colours(rig: Rig):
    camera = Camera(rig)
    raw = mosaic(FLAT, 0, 0)
    eight = compressed(PillowImage.fromarray(raw), "PNG")
    sixteen = compressed(PillowImage.fromarray(raw.astype(np.uint16) * 257), "PNG")
    jpeg = compressed(PillowImage.fromarray(raw), "JPEG", quality=100)
    for i, (data, format) in enumerate(
        [
            (eight, "bayer_rggb8; png compressed "),
            (sixteen, "bayer_rggb16; png compressed "),
            (jpeg, "bayer_rggb8; jpeg compressed bayer_rggb8"),
        ]
    ):
        np.testing.assert_allclose(camera.colour(i, data, format), COLOUR, atol=2)
    grey = camera.colour(3, jpeg, "bayer_rggb8; jpeg compressed mono8")
    assert np.ptp(grey) < 1
    assert rig.refused == 0


def test_jpeg_without_its_end_marker_and_tiff_are_used(rig: Rig):
    camera = Camera(rig)
    whole = camera.colour(0, JPEG, "jpeg")
    np.testing.assert_array_equal(camera.colour(1, JPEG[:-2], "jpeg"), whole)
    tiff = compressed(PillowImage.fromarray(FLAT[..., ::-1].copy()), "TIFF")
    found = camera.colour(2, tiff, "rgb8; tiff compressed ")  # as the transport writes it
    np.testing.assert_array_equal(found, COLOUR)
    assert rig.refused == 0


def test_a_jpeg_that_ends_early_is_refused_and_the_next_one_used(rig: Rig):
    camera = Camera(rig)
    noise = np.random.default_rng(0).integers(0, 256, (*INPUT, 3), np.uint8)
    data = compressed(PillowImage.fromarray(noise), "JPEG")
    camera.colour(0, data, "jpeg")
    camera.send(1, data[: len(data) // 2], "jpeg")
    rig.wait_for_diagnostics("the JPEG ends before its last rows", refused="1")
    camera.colour(2, data, "jpeg")


@pytest.mark.parametrize("format", ["h264", "hevc", "avif"])
def test_a_format_that_is_not_read_is_named_with_the_cure(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, format: str
):
    warnings = log_of_warnings(monkeypatch)
    camera = Camera(rig)
    camera.send(0, b"\0\0\0\1\x67" + bytes(500), format)
    report = rig.wait_for_diagnostics(f"format '{format}'", refused="1")
    assert "ros2 run image_transport republish" in report["/vggt: input"]
    assert any(f"format '{format}'" in line for line in warnings)
    camera.colour(1, JPEG, "jpeg")


def grey16(i: int, samples: np.ndarray) -> Image:
    return Image(
        header=header(START + i * PERIOD, CAMERA),
        height=samples.shape[0], width=samples.shape[1], step=2 * samples.shape[1],
        encoding="mono16", data=samples.astype("<u2").tobytes(),
    )  # fmt: skip


TWELVE = np.linspace(0, 4095, INPUT[0] * INPUT[1]).reshape(INPUT).round()  # of a 12-bit camera


def brightness_of(rig: Rig, count: int) -> float:
    """The mean that the network sees of the last of so many 12-bit images."""
    seen = rig.subscribe_matched("/vggt/rgb/image_rect_color", Image)
    for i in range(count):
        done = rig.count("inferences")
        rig.images.publish(grey16(i, TWELVE))
        rig.wait_until(lambda n=done: rig.count("inferences") > n, f"inference {i}")
    rig.wait_until(lambda: len(seen) == count, "as many images")
    return float(rgb_from_image(seen[-1]).mean())


def test_a_dark_16_bit_camera_is_a_notice(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    warnings = log_of_warnings(monkeypatch)
    rig.start()
    assert brightness_of(rig, WATCHED + 3) == pytest.approx(255 / 32, abs=1)
    rig.wait_for_diagnostics("images of 16 bits stay dark", "set mono16_bits")
    assert sum("mono16_bits" in line for line in warnings) == 1


def test_the_bits_of_the_camera_are_a_parameter(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    warnings = log_of_warnings(monkeypatch)
    rig.start(mono16_bits=12)
    assert brightness_of(rig, WATCHED + 3) == pytest.approx(255 / 2, abs=1)
    assert not any("mono16_bits" in line for line in warnings)


def test_samples_beyond_the_given_bits_are_a_notice(rig: Rig):
    rig.start(mono16_bits=10)
    brightness_of(rig, 2)
    rig.wait_for_diagnostics("mono16_bits and mono16_black do not fit the images")


def test_images_of_the_second_camera_are_read_alike(rig: Rig):
    notices: list[str] = []
    frames = Frames(rig.peer, TFMessage, wait=0.0)
    beside = np.eye(4)
    beside[0, 3] = 0.2
    mount = transform_message(header(START, CAMERA), "right", beside)
    frames.tree.add([mount], is_static=True)
    parameters = Parameters(scale_source="baseline", mono16_bits=12)
    inputs = InputTopics(rig.peer, parameters, lambda subject, text: None)
    warnings = Warnings(lambda subject, text: None, notices.append)
    second = SecondCamera(inputs, parameters, frames, warnings)
    sender = rig.peer.create_publisher(Image, second.topic, 10)
    rig.wait_until(sender.get_subscription_count, "the topic is matched")
    dim = grey16(0, TWELVE)
    unnamed = image_message(header(START + PERIOD, "right"), FLAT)
    unnamed.encoding = "8UC3"
    seen = []
    for msg in (dim, unnamed):
        msg.header.frame_id = "right"
        sender.publish(msg)
        ns = START + len(seen) * PERIOD
        rig.wait_until(lambda ns=ns: ns in second.stamps, "the image arrives")
        found = second.view_at(Frame(FLAT, ns, CAMERA))
        assert found is not None
        seen.append(found.rgb)
    assert seen[0].max() == 255, "its bits are those of the parameter"
    np.testing.assert_array_equal(seen[1], FLAT[..., ::-1])
    (notice,) = notices
    assert notice.startswith("baseline_image, encoding 8UC3 names no colours: read as bgr8")
