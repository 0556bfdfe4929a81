# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Masks on live topics: by stamp, with a bounded wait, and a warning while one is missing."""

from pathlib import Path

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from fakes.planar_engine import SIZE
from node_rig import CAMERA, INPUT, PERIOD, START, Rig
from PIL import Image as Picture
from sensor_msgs.msg import Image, PointCloud2

from vggt_ros.errors import UserError
from vggt_ros.ros.messages import header

pytestmark = pytest.mark.ros

LEFT = np.s_[:, : INPUT[1] // 2]  # of the camera's image
MASKED = np.s_[:, : SIZE[1] // 2]  # of the network's
PATIENT = 60.0  # seconds of mask_wait: never over before the mask comes


class Segmentation:
    """A segmentation node: half of each image is to be ignored."""

    def __init__(self, rig: Rig, topic: str = "/mask"):
        self.rig, self.publisher = rig, rig.peer.create_publisher(Image, topic, 10)

    def publish(self, i: int, *, late_ns: int = 0, **changes) -> None:
        """The mask of frame `i`, and wait until the node has it; `changes` set fields."""
        mask = np.zeros(INPUT, np.uint8)
        mask[LEFT] = 7
        msg = Image(
            header=header(START + i * PERIOD + late_ns, CAMERA),
            height=INPUT[0], width=INPUT[1], step=INPUT[1], encoding="mono8",
        )  # fmt: skip
        msg.data.frombytes(mask.tobytes())
        for field, value in changes.items():
            setattr(msg, field, value)
        assert self.rig.node is not None
        masks = self.rig.node.robot.masks[""]
        self.rig.wait_until(self.publisher.get_subscription_count, "mask is matched")
        self.publisher.publish(msg)
        stamp = START + i * PERIOD + late_ns
        self.rig.wait_until(lambda: stamp in masks.stamps, "the mask arrives")


def pixels(msg) -> np.ndarray:
    return np.frombuffer(msg.data, "<f4").reshape(msg.height, msg.width, -1)[..., 0]


def test_what_is_masked_stands_in_a_status_of_its_own(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    # stamps are old here
    monkeypatch.setattr("vggt_ros.ros.health.input_health.MAX_STAMP_AGE", np.inf)
    rig.start(mask_wait=0.0, min_agreement=1, window_size=2)
    segmentation = Segmentation(rig)
    segmentation.publish(0)
    rig.infer(0)
    status = rig.wait_for_status("masks", lambda s: s.values)
    assert {pair.key: pair.value for pair in status.values} == {"masked pixels": "50.0%"}
    rig.infer(1)
    status = rig.wait_for_status("masks", lambda s: s.level == DiagnosticStatus.WARN)
    assert "1 of the last 2 images are used without their mask" in status.message
    assert rig.level("/vggt: input") == DiagnosticStatus.OK
    keys = {part: {pair.key for pair in rig.status(part).values} for part in ("input", "outputs")}
    assert "camera" in keys["input"] and keys["outputs"] == {"agreement", "map points", "occupancy"}


def test_masked_pixels_leave_depth_confidence_and_both_clouds(rig: Rig):
    rig.start(mask_wait=PATIENT)
    segmentation = Segmentation(rig)
    depths, confidences, points, maps = (
        rig.subscribe_matched(f"/vggt/{topic}", kind)
        for topic, kind in (
            ("depth/image", Image),
            ("depth/confidence", Image),
            ("points", PointCloud2),
            ("window_points", PointCloud2),
        )
    )
    for i in range(3):
        segmentation.publish(i)
        rig.infer(i)
    rig.wait_until(lambda: len(depths) == len(maps) == len(points) == 3, "all outputs")
    rig.wait_until(lambda: len(confidences) == 3, "all confidences")
    for depth, confidence, cloud in zip(depths, confidences, points, strict=True):
        assert np.isnan(pixels(depth)[MASKED]).all()
        assert np.isfinite(pixels(depth)[:, SIZE[1] // 2 :]).all()
        assert (pixels(confidence)[MASKED] == 0).all()
        assert np.isnan(pixels(cloud)[MASKED]).all()
    world = np.frombuffer(maps[0].data, "<f4").reshape(-1, 5)
    assert len(world) == len(range(0, SIZE[0], 3)) * len(range(30, SIZE[1], 3))  # of 28 columns


def test_a_mask_that_comes_after_its_image_is_waited_for(rig: Rig):
    rig.start(mask_wait=PATIENT)
    segmentation = Segmentation(rig)
    depths = rig.subscribe_matched("/vggt/depth/image", Image)
    segmentation.publish(0)  # from now on masks are expected
    rig.infer(0)
    rig.publish(1)
    segmentation.publish(1)
    rig.wait_until(lambda: len(depths) == 2, "depth of the second image")
    assert np.isnan(pixels(depths[1])[MASKED]).all()


def test_masks_of_other_stamps_are_a_warning_with_figures_until_they_match(rig: Rig):
    rig.start(mask_wait=0.0)
    segmentation = Segmentation(rig)
    depths = rig.subscribe_matched("/vggt/depth/image", Image)
    for i in range(2):
        segmentation.publish(i, late_ns=-40_000_000)
        rig.infer(i)
    rig.wait_for_diagnostics(
        "2 of the last 2 images are used without their mask", "2 messages came on '/mask'",
        "the nearest -40.0 ms from the image, 5 ms are allowed", "within mask_wait (0 s)",
    )  # fmt: skip
    rig.wait_until(lambda: len(depths) == 2, "depth")
    assert np.isfinite(pixels(depths[1])).all()
    for i in range(2, 12):
        segmentation.publish(i)
        rig.infer(i)
    rig.wait_until(lambda: "without their mask" not in str(rig.diagnostics()), "no warning")


def test_a_remapped_mask_on_which_nothing_comes_is_a_warning(rig: Rig):
    rig.start(arguments=("-r", "mask:=/people/mask"), mask_wait=0.0)
    rig.infer(0, 1)
    rig.wait_for_diagnostics("nothing came on '/people/mask'")


def test_without_a_mask_nothing_is_said(rig: Rig):
    rig.start(mask_wait=PATIENT)
    rig.infer(0, 1)
    report = rig.wait_for_diagnostics("ready")
    assert "mask" not in " ".join(report.values())


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"encoding": "rgb8"}, "has encoding rgb8; send mono8"),
        ({"height": INPUT[0] + 9}, "less data than its size needs"),
        ({"height": INPUT[0] // 2}, f"it has {INPUT[1]}x{INPUT[0] // 2} pixels, and the image"),
    ],
)
def test_a_mask_that_cannot_be_used_is_a_warning_that_names_the_fault(rig: Rig, changes, words):
    rig.start(mask_wait=0.0)
    segmentation = Segmentation(rig)
    depths = rig.subscribe_matched("/vggt/depth/image", Image)
    segmentation.publish(0, **changes)
    rig.infer(0)
    rig.wait_for_diagnostics(words)
    rig.wait_until(lambda: len(depths) == 1, "depth")
    assert np.isfinite(pixels(depths[0])).all(), "the image is used without it"


def test_the_robot_s_own_body_is_masked_by_a_file(rig: Rig, tmp_path: Path):
    body = np.zeros(INPUT, np.uint8)
    body[INPUT[0] // 2 :] = 255
    Picture.fromarray(body).save(tmp_path / "body.png")
    rig.start(mask_file=str(tmp_path / "body.png"))
    depths = rig.subscribe_matched("/vggt/depth/image", Image)
    rig.infer(0)
    rig.wait_until(lambda: len(depths) == 1, "depth")
    assert np.isnan(pixels(depths[0])[SIZE[0] // 2 :]).all()
    assert np.isfinite(pixels(depths[0])[: SIZE[0] // 2]).all()


def test_a_mask_file_that_is_missing_ends_the_start_and_one_of_another_shape_is_a_warning(
    rig: Rig, tmp_path: Path
):
    with pytest.raises(UserError, match=r"mask_file .*nowhere.png cannot be read"):
        rig.open(mask_file=str(tmp_path / "nowhere.png"))
    Picture.fromarray(np.zeros((48, 48), np.uint8)).save(tmp_path / "square.png")
    rig.start(mask_file=str(tmp_path / "square.png"))
    rig.infer(0)
    rig.wait_for_diagnostics("square.png is not used: it has 48x48 pixels, and the image 64x48")
