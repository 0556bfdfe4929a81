# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Images of an export: original names, sub-folders and sizes, and a K that fits them."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from fakes.planar_engine import frames, planar_engine_of_a_run
from PIL import Image
from tagged_images import EPOCH
from test_bags import K, bag, camera_info, image

from vggt_ros.errors import UserError
from vggt_ros.tools.colmap import colmap
from vggt_ros.tools.exports.images import export_images
from vggt_ros.tools.run import run
from vggt_ros.tools.runs.format import Run, open_run


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Runs a source with an exact network, whose grid is a quarter of the images."""
    engine = planar_engine_of_a_run()
    monkeypatch.setattr("vggt_ros.engine.engine.open_engine", lambda *_, **__: engine)

    def make(source, **options) -> Run:
        return run(source, tmp_path / "run", picture=False, quiet=True, **options)

    return make


def photos(folder: Path, names: list[str], **options) -> list[Path]:
    for frame, name in zip(frames(len(names)), names, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame.rgb).save(folder / name, **options)
    return [folder / name for name in names]


def cameras(sparse: Path) -> list[list[str]]:
    lines = (sparse / "cameras.txt").read_text().splitlines()
    return [line.split() for line in lines if line[0] != "#"]


def test_a_run_keeps_the_name_size_and_grid_of_each_image(made, tmp_path):
    photos(tmp_path / "in", ["b_2.png", "b_10.png", "a.png"])
    done = made(tmp_path / "in")
    assert [frame.name for frame in done.frames()] == ["a.png", "b_2.png", "b_10.png"]
    for frame in done.frames():
        height, width = frame.depth.shape
        assert frame.input_size.tolist() == [112, 84] and not frame.rectified
        corners = np.array([[-0.5, -0.5, 1], [width - 0.5, height - 0.5, 1]])
        found = corners @ frame.input_from_grid.T
        np.testing.assert_allclose(found[:, :2], [[-0.5, -0.5], [111.5, 83.5]], atol=1e-9)


def test_originals_keep_names_sub_folders_and_bytes_and_k_is_theirs(made, tmp_path):
    files = photos(tmp_path / "in", ["left/1.jpg", "left/2.jpg", "right/1.jpg", "right/x y.jpg"])
    made([tmp_path / "in" / "left", tmp_path / "in" / "right"])
    for how in ("link", "copy"):
        sparse = colmap(tmp_path / "run", tmp_path / how, images=how)
        found = sorted(p for p in (tmp_path / how / "images").rglob("*") if p.is_file())
        assert [p.relative_to(tmp_path / how / "images") for p in found] == [
            p.relative_to(tmp_path / "in") for p in files
        ]
        assert [p.read_bytes() for p in found] == [p.read_bytes() for p in files]
        assert [p.samefile(q) for p, q in zip(found, files, strict=True)] == [how == "link"] * 4
    frame = open_run(tmp_path / "run").frame(0)
    height, width = frame.depth.shape
    (_, _, w, h, fx, fy, cx, cy), *_ = cameras(sparse)
    assert (w, h) == ("112", "84")
    k = frame.intrinsics
    expected = [k[0, 0] * 112 / width, k[1, 1] * 84 / height,
                (k[0, 2] + 0.5) * 112 / width, (k[1, 2] + 0.5) * 84 / height]  # fmt: skip
    np.testing.assert_allclose([float(x) for x in (fx, fy, cx, cy)], expected, rtol=1e-6)


def test_names_stay_where_a_damaged_picture_is_left_out(made, tmp_path):
    photos(tmp_path / "in", ["1.png", "2.png", "3.png"])
    (tmp_path / "in" / "2.png").write_bytes(b"\x89PNG\r\n")
    made(tmp_path / "in")
    colmap(tmp_path / "run", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out/images").iterdir()) == ["1.png", "3.png"]


def test_photos_that_are_stored_turned_are_written_upright(made, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    (file,) = photos(tmp_path / "in", ["a.jpg"], exif=exif, quality=100)
    made(tmp_path / "in")
    colmap(tmp_path / "run", tmp_path / "out")
    with Image.open(tmp_path / "out/images/a.png") as found, Image.open(file) as stored:
        np.testing.assert_array_equal(np.asarray(found), np.rot90(np.asarray(stored), 2))


def test_frames_of_a_video_are_written_by_their_numbers(made, tmp_path):
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 112, 84, "bgr0"
        for i, frame in enumerate(frames(4)):
            picture = av.VideoFrame.from_ndarray(frame.rgb, format="rgb24")
            picture.pts, picture.time_base = i * 100, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    made(path, every=2)
    colmap(tmp_path / "run", tmp_path / "out")
    names = ["frame_000000.png", "frame_000002.png"]
    assert sorted(p.name for p in (tmp_path / "out/images").iterdir()) == names
    with Image.open(tmp_path / "out/images" / names[1]) as found:
        np.testing.assert_array_equal(np.asarray(found), frames(4)[2].rgb)


def test_images_of_a_bag_are_written_without_their_lens(made, tmp_path):
    info = camera_info()
    info.d = np.array([-0.3, 0.1, 0.0, 0.0, 0.0])
    info.p = np.concatenate([K.reshape(3, 3), np.zeros((3, 1))], 1).reshape(-1)
    stamps = [EPOCH + i * 10**8 for i in range(2)]
    messages = [image(i, stamp) for i, stamp in enumerate(stamps)]
    topics = {"/cam/image_raw": messages, "/cam/camera_info": [info]}
    done = made(bag(tmp_path / "bag", topics))
    assert all(frame.rectified for frame in done.frames())
    sparse = colmap(tmp_path / "run", tmp_path / "out")
    (_, _, w, h, *numbers), *_ = cameras(sparse)
    assert (int(w), int(h)) == (info.width, info.height)
    expected = [K[0], K[4], K[2] + 0.5, K[5] + 0.5]
    np.testing.assert_allclose([float(x) for x in numbers], expected, atol=1e-6)
    (first, _) = sorted((tmp_path / "out/images").iterdir())
    with Image.open(first) as found:  # the corners of a barrel's image are black once undone
        assert first.name == "image_000000.png" and found.size == (info.width, info.height)


def test_where_the_source_is_gone_images_are_those_of_the_grid_and_it_is_said(
    made, tmp_path, capsys
):
    photos(tmp_path / "in", ["a.jpg", "b.jpg"])
    done = made(tmp_path / "in")
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    sparse = colmap(tmp_path / "run", tmp_path / "out")
    assert "in is gone: images are those of the network" in capsys.readouterr().out
    height, width = done.frame(0).depth.shape
    assert cameras(sparse)[0][2:4] == [str(width), str(height)]
    assert sorted(p.name for p in (tmp_path / "out/images").iterdir()) == ["a.png", "b.png"]


def test_an_image_that_has_changed_or_is_gone_is_refused_in_one_sentence(made, tmp_path):
    a, b = photos(tmp_path / "in", ["a.png", "b.png"])
    done = made(tmp_path / "in")
    Image.new("RGB", (50, 40)).save(a)
    with pytest.raises(UserError, match="a.png has 50x40 pixels but had 112x84"):
        export_images(done, tmp_path / "out", "link")
    a.unlink()
    with pytest.raises(UserError, match="a.png is gone.*--images grid"):
        export_images(done, tmp_path / "out", "link")
    exported, note = export_images(done, tmp_path / "grid", "grid")
    assert [e.name for e in exported] == ["a.png", "b.png"] and not note and b.exists()


def test_a_photo_converted_never_overwrites_another_original(made, tmp_path):
    """A photo and its conversion: a.webp would be a.png, which is a link to the user's own file."""
    names = ["a.png", "a.png.png", "a.webp", "image 1.png", "image 1.webp", "image_000001.png"]
    files = photos(tmp_path / "in", names, lossless=True)
    before = {file.name: file.read_bytes() for file in files}
    done = made(tmp_path / "in")
    colmap(tmp_path / "run", tmp_path / "out")
    assert {file.name: file.read_bytes() for file in files} == before
    exported, _ = export_images(done, tmp_path / "again", "link")
    assert len({image.name for image in exported}) == len(names)
    for one, frame in zip(exported, done.frames(), strict=True):
        with Image.open(tmp_path / "again" / one.name) as found:
            pixels = np.asarray(found)
        with Image.open(tmp_path / "in" / frame.name) as original:
            np.testing.assert_array_equal(pixels, np.asarray(original))
    grid, _ = export_images(done, tmp_path / "grid", "grid")
    assert len({image.name for image in grid}) == len(names)


def test_files_that_other_programs_read_otherwise_are_converted(made, tmp_path):
    """16 bits of a 12-bit camera, CMYK and a palette, as they were seen; grey and RGBA stay."""
    (tmp_path / "in").mkdir()
    rgb = frames(1)[0].rgb
    picture = Image.fromarray(rgb)
    ramp = np.tile(np.arange(112, dtype=np.uint16) * 36, (84, 1))  # of 12 bits
    Image.fromarray(ramp).save(tmp_path / "in" / "a.png")
    picture.convert("CMYK").save(tmp_path / "in" / "b.jpg")
    picture.quantize(8).save(tmp_path / "in" / "c.png")
    picture.convert("L").save(tmp_path / "in" / "d.png")
    picture.convert("RGBA").save(tmp_path / "in" / "e.png")
    made(tmp_path / "in", mono16_bits=12)
    colmap(tmp_path / "run", tmp_path / "out")
    modes, pixels = {}, {}
    for file in sorted((tmp_path / "out/images").iterdir()):
        with Image.open(file) as found:
            modes[file.name], pixels[file.name] = found.mode, np.asarray(found).astype(int)
    assert modes == {
        "a.png": "RGB", "b.png": "RGB", "c.png": "RGB", "d.png": "L", "e.png": "RGBA"
    }  # fmt: skip
    np.testing.assert_array_equal(pixels["a.png"][..., 0], np.rint(ramp / 4095 * 255))
    assert np.abs(pixels["b.png"] - rgb).max() < 20
    linked = [(tmp_path / "in" / n).samefile(tmp_path / "out/images" / n) for n in modes if n > "c"]
    assert linked == [False, True, True]


def test_images_whose_depth_would_have_one_name_are_refused_with_the_cure(made, tmp_path):
    photos(tmp_path / "in", ["a.jpg", "a.png", "b.png"])
    made(tmp_path / "in")
    with pytest.raises(UserError, match="a.jpg and a.png would have one depth file.*grid"):
        colmap(tmp_path / "run", tmp_path / "out", depth=True)
    colmap(tmp_path / "run", tmp_path / "out", depth=True, images="grid")
    assert len(list((tmp_path / "out/depths").iterdir())) == 3


def test_a_file_given_twice_is_one_image(made, tmp_path, capsys):
    files = photos(tmp_path / "in", ["1.png", "2.png", "3.png"])
    done = made([tmp_path / "in", files[1], files[1]])
    assert [frame.name for frame in done.frames()] == ["1.png", "2.png", "3.png"]
    (note,) = done.summary["notes"]
    assert note == "given more than once, and used once: 1 file: 2.png (2 left out)"
    colmap(tmp_path / "run", tmp_path / "out")
    assert "3 of 3 images" in capsys.readouterr().out


def test_a_principal_point_that_3dgs_does_not_read_is_a_warning(made, tmp_path, capsys):
    photos(tmp_path / "in", ["1.png", "2.png", "3.png"])
    made(tmp_path / "in")
    colmap(tmp_path / "run", tmp_path / "out", depth=True, max_points=1)
    said = capsys.readouterr().out
    assert "3D Gaussian Splatting" not in said and "no points" not in said
    for path in (tmp_path / "run/frames").iterdir():
        with np.load(path) as file:
            arrays = dict(file)
        arrays["intrinsics"][0, 2] += 2.8  # of 56 pixels; it was half a pixel off
        np.savez(path, **arrays)
    colmap(tmp_path / "run", tmp_path / "out", depth=True)
    assert "principal points are up to 5.9 % of a side off the middle" in capsys.readouterr().out
