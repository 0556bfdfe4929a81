# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt app` without its page: uploads, reconstructions, tracks, limits, and what is deleted."""

import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import trimesh
from fakes.planar_engine import DEPTH, STEP, WIDTH, PlanarEngine, frames, planar_engine_of_a_run
from PIL import Image
from run_frames import wall_frame

from vggt_ros.errors import UserError
from vggt_ros.tools.app import app
from vggt_ros.tools.app_images import NO_DEPTH, WIDEST, drawn_tracks, marked, reduced
from vggt_ros.tools.app_sessions import Limits, Sessions

COUNT = 6
LIMITS = Limits(images=COUNT, megabytes=1, minutes=60)


@pytest.fixture
def engine() -> PlanarEngine:
    return planar_engine_of_a_run()


@pytest.fixture
def sessions(tmp_path, engine) -> Iterator[Sessions]:
    made = Sessions(tmp_path / "sessions", engine, LIMITS)
    yield made
    made.close()


def uploads(folder: Path, count: int = COUNT) -> list[Path]:
    """Images as a server receives them: in a folder of its own."""
    folder.mkdir()
    paths = [folder / f"{frame.stamp_ns}.png" for frame in frames(count)]
    for path, frame in zip(paths, frames(count), strict=True):
        Image.fromarray(frame.rgb).save(path)
    return paths


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_uploads_become_a_scene_strips_and_downloads(sessions, tmp_path):
    received = uploads(tmp_path / "received")
    assert sessions.receive("me", received) == "received: 6 images, 0.0 MB"
    assert not any(path.exists() for path in received), "they are in the session's folder"
    shown = sessions.reconstruct("me")
    assert f"{COUNT} frames" in shown.text and "time: " in shown.text
    strips = (shown.depth, shown.confidence, shown.masks)
    assert [len(strip) for strip in strips] == [COUNT] * 3
    assert np.array_equal(pixels(shown.first), frames(1)[0].rgb)
    red = (pixels(shown.masks[0])[0] - 0.6 * np.array(NO_DEPTH)) <= 0.4 * 255 + 1
    assert red.all(), "the upper rows of this network have no depth"
    glb, colmap, npz = shown.downloads
    assert len(trimesh.load_scene(glb).geometry) > COUNT  # a cloud, and a camera each
    names = zipfile.ZipFile(colmap).namelist()
    assert "sparse/0/cameras.bin" in names
    assert sum(name.startswith("images/") and name.endswith(".png") for name in names) == COUNT
    with np.load(npz) as arrays:
        assert arrays["depth"].shape[0] == len(arrays["world_from_camera"]) == COUNT
        assert arrays["image"].shape == (*arrays["depth"].shape, 3)
        moved = np.linalg.norm(np.diff(arrays["world_from_camera"][:, :3, 3], axis=0), axis=1)
        assert moved / np.nanmedian(arrays["depth"]) == pytest.approx(STEP / DEPTH, rel=1e-3)


def test_points_are_tracked_through_all_frames(sessions, tmp_path):
    sessions.receive("me", uploads(tmp_path / "received"))
    first = pixels(sessions.reconstruct("me").first)
    start = (100.0, 60.0)
    assert (pixels(sessions.mark("me", [start])) != first).any(-1)[60, 100]
    assert np.array_equal(pixels(sessions.mark("me", [])), first)
    images = [pixels(path) for path in sessions.track("me", [start])]
    assert len(images) == COUNT
    moved = 2 * WIDTH * STEP / DEPTH  # input pixels a frame, to the left
    for index, image in enumerate(images):
        assert image.shape[1] == 2 * WIDTH
        red = (image[..., 0] > 200) & (image[..., 1:].max(-1) < 100)  # the first point's colour
        ys, xs = np.nonzero(red)
        assert xs.min() == pytest.approx(start[0] - index * moved, abs=7)
        assert ys.mean() == pytest.approx(start[1], abs=4)


def test_other_settings_apply_to_the_uploads_of_before(sessions, tmp_path):
    sessions.receive("me", uploads(tmp_path / "received"))
    before = sessions.reconstruct("me")
    again = sessions.reconstruct("me", frames=3)
    assert "3 frames" in again.text and len(again.depth) == 3
    assert not before.scene.exists() and before.scene != again.scene, "a browser loads it again"
    with pytest.raises(UserError, match="no depth has a confidence above 9: choose a lower one"):
        sessions.reconstruct("me", min_confidence=9.0)
    assert again.scene.exists()
    assert len(sessions.track("me", [(1.0, 1.0)])) == 3


def test_a_damaged_image_is_left_out_and_named(sessions, tmp_path):
    received = uploads(tmp_path / "received")
    received[2].write_bytes(b"no image")
    sessions.receive("me", received)
    text = sessions.reconstruct("me").text
    assert "5 frames" in text and "images left out: 1 unreadable" in text
    assert f"{received[2].name}: not an image that Pillow can read" in text
    assert str(sessions.root) not in text


def test_uploads_over_the_limits_are_refused_and_deleted(sessions, tmp_path):
    many = uploads(tmp_path / "many", COUNT + 1)
    with pytest.raises(UserError, match=f"{COUNT + 1} files are too many: upload at most {COUNT}"):
        sessions.receive("me", many)
    large = tmp_path / "large.png"
    large.write_bytes(bytes(1_600_000))
    with pytest.raises(UserError, match=r"1\.6 MB are too much: upload at most 1 MB"):
        sessions.receive("me", [large])
    mixed, film = uploads(tmp_path / "mixed", 1), tmp_path / "film.mp4"
    film.write_bytes(b"no film")
    with pytest.raises(UserError, match=r"film\.mp4 is no image: upload images, or one video"):
        sessions.receive("me", [*mixed, film])
    assert not any(path.exists() for path in [*many, large, *mixed, film])
    film.write_bytes(b"no film")
    with pytest.raises(UserError, match=r"^film\.mp4 is no image, video or bag that can be read"):
        sessions.receive("me", [film])
    with pytest.raises(UserError, match="nothing was uploaded"):
        sessions.receive("me", [])
    with pytest.raises(UserError, match="nothing to reconstruct: upload"):
        sessions.reconstruct("me")
    assert files_in(sessions.root) == []


def test_an_upload_that_is_refused_leaves_the_one_before(sessions, tmp_path):
    sessions.receive("me", uploads(tmp_path / "received", 3))
    with pytest.raises(UserError, match="too many"):
        sessions.receive("me", uploads(tmp_path / "many", COUNT + 1))
    assert "3 frames" in sessions.reconstruct("me").text


@pytest.mark.parametrize("name", ["film.m3u8", "film.mp4", "film.txt", "film"])
def test_a_playlist_is_no_film(sessions, tmp_path, name):
    film = tmp_path / name
    film.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/1.ts\n")
    with pytest.raises(UserError, match=f"^{name} is (neither an image nor|no image, video or)"):
        sessions.receive("me", [film])


def test_sessions_are_apart_and_leave_nothing(sessions, tmp_path):
    sessions.receive("me", uploads(tmp_path / "mine"))
    sessions.reconstruct("me")
    with pytest.raises(UserError, match="reconstruct first"):
        sessions.track("you", [(1.0, 1.0)])
    sessions.receive("you", uploads(tmp_path / "yours", 2))
    folders = list(sessions.root.iterdir())
    assert len(folders) == 2
    assert all(folder.stat().st_mode & 0o077 == 0 for folder in [sessions.root, *folders])
    sessions.forget("me")
    assert len(list(sessions.root.iterdir())) == 1
    with pytest.raises(UserError, match="reconstruct first"):
        sessions.track("me", [(1.0, 1.0)])
    sessions.close()
    assert not sessions.root.exists()


def test_sessions_without_use_are_deleted(tmp_path, engine):
    for minutes, left in ((0, []), (60, ["you"])):
        sessions = Sessions(tmp_path / "sessions", engine, LIMITS._replace(minutes=minutes))
        sessions.receive("you", uploads(tmp_path / f"yours{minutes}", 2))
        sessions.delete_unused()
        assert len(list(sessions.root.iterdir())) == len(left)
        sessions.close()


def test_a_page_that_is_closed_does_not_keep_the_network(sessions, engine, tmp_path):
    sessions.receive("me", uploads(tmp_path / "received"))
    engine.gate.clear()
    ended: list[BaseException] = []

    def reconstruct() -> None:
        try:
            sessions.reconstruct("me")
        except UserError as error:
            ended.append(error)

    working = threading.Thread(target=reconstruct)
    working.start()
    assert engine.inside.wait(60)
    leaving = threading.Thread(target=sessions.forget, args=("me",))
    leaving.start()
    while sessions.keys:
        time.sleep(0.01)
    engine.gate.set()
    working.join()
    leaving.join()
    assert str(ended[0]) == "the page was closed" and len(engine.inferences) <= 2
    assert files_in(sessions.root) == []


def test_points_and_hidden_tracks_are_drawn():
    frame = frames(1)[0]
    assert (marked(frame.rgb, [(50.0, 40.0)])[40, 50] != frame.rgb[40, 50]).any()
    wall = wall_frame()
    tracks = np.array([[[20.0, 10.0]], [[np.nan, np.nan]], [[25.0, 10.0]]], np.float32)
    hidden = drawn_tracks(wall, tracks, np.zeros(1, np.float32))
    shown = drawn_tracks(wall, tracks, np.ones(1, np.float32))
    assert (shown[22, 50] != 200).any() and (hidden[22, 50] == 200).all(), "a ring is empty"


def test_points_are_chosen_in_a_large_image_at_its_own_scale():
    image, scale = reduced(np.zeros((900, 2 * WIDEST, 3), np.uint8))
    assert image.shape == (450, WIDEST, 3) and scale == 2.0
    assert reduced(image) == (image, 1.0)


def test_options_without_meaning_and_a_missing_library_are_named(monkeypatch):
    with pytest.raises(UserError, match="--max-images is 0; give 1 or more"):
        app(max_images=0)
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match="the page needs Gradio; install it"):
        app()
