# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt run --cameras` on the videos of a rig."""

from pathlib import Path

import av
import numpy as np
import pytest
from fakes.rig_ride import THREE
from fakes.room import HEIGHT, WIDTH, numbered_image
from test_run_rig import of, reconstruct

from vggt_ros.errors import UserError


def film(path: Path, name: str, count: int = 6, rate: int = 10) -> Path:
    """What a camera of the oracle's rig sees, without loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "bgr0"
        for i in range(count):
            pixels = np.ascontiguousarray(numbered_image(i * 10 // rate, THREE[name]))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("place", "cameras"),
    [
        ("{}.mkv", "front,left"),
        ("{}/clip.mkv", "front,left"),
        ("of_{}.mkv", "front=of_front.mkv,left=of_left.mkv"),
    ],
    ids=["by name", "one in a folder of that name", "as said"],
)
def test_videos_are_joined_by_their_times(tmp_path, place, cameras):
    """The second has three times as many images: those of the first's moments are used."""
    film(tmp_path / "rig" / place.format("front"), "front")
    film(tmp_path / "rig" / place.format("left"), "left", 18, rate=30)
    (tmp_path / "rig" / "front.yaml").touch()  # no video
    done, engine = reconstruct(tmp_path / "rig", tmp_path / "out", cameras)
    assert done.summary["frames"] == 12 and done.summary["refused"] == 0
    assert engine.inferences[-1][-2:] == [(5, THREE["front"]), (5, THREE["left"])]
    stamps, _ = done.trajectory()
    assert stamps[::2].tolist() == stamps[1::2].tolist()
    assert of(done, "left")["optical_frame"] == "left_optical"
    assert done.summary["source"]["cameras"]["left"] == place.format("left")
    assert any("are taken to begin at one moment" in note for note in done.summary["notes"])


def test_places_that_hold_no_camera_are_told_with_those_that_do(tmp_path):
    path = film(tmp_path / "rig/cam0.mkv", "front").parent
    film(path / "cam1.mkv", "left")
    with pytest.raises(UserError, match=r"--cameras front=PLACE,\.\.\. from: cam0.mkv, cam1.mkv$"):
        reconstruct(path, tmp_path / "out", "front,left")
    with pytest.raises(UserError, match=r"cam0.mkv is one file: with --cameras give a bag, or"):
        reconstruct(path / "cam0.mkv", tmp_path / "out", "front,left")
