# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Folders of photos as people have them: formats, names, orders, and what is left out."""

import os
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image
from tagged_images import tagged_image, tags
from test_sources import save

from vggt_ros.errors import UserError
from vggt_ros.imaging.size import check_size
from vggt_ros.tools.runs.writer import RunWriter
from vggt_ros.tools.sources import image_files
from vggt_ros.tools.sources.images import natural, stamps_from_names
from vggt_ros.tools.sources.open import open_source

FORMATS = {
    ".heic": "HEIF", ".HEIC": "HEIF", ".avif": "AVIF", ".jfif": "JPEG", ".jp2": "JPEG2000",
    ".gif": "GIF", ".tga": "TGA", ".pbm": "PPM", ".mpo": "MPO", ".webp": "WEBP", ".jpe": "JPEG",
}  # fmt: skip


def test_every_format_of_a_folder_is_read(tmp_path):
    pillow_heif.register_heif_opener()
    grey = np.full((24, 32, 3), 90, np.uint8)
    for number, (suffix, form) in enumerate(FORMATS.items()):
        picture = Image.fromarray(grey).convert("1" if suffix == ".pbm" else "RGB")
        picture.save(tmp_path / f"{number}{suffix}", form)
    source = open_source(tmp_path)
    found = list(source)
    assert [frame.name for frame in found] == [f"{i}{s}" for i, s in enumerate(FORMATS)]
    assert not source.skipped
    for frame in found:
        assert frame.rgb.shape == (24, 32, 3)
        if not frame.name.endswith(".pbm"):
            assert abs(int(frame.rgb.mean()) - 90) <= 2, frame.name


def test_heic_without_its_library_is_named_and_counted(tmp_path, monkeypatch):
    save(tmp_path, "ab")
    pillow_heif.from_pillow(Image.new("RGB", (32, 24))).save(tmp_path / "c.heic")
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    source = open_source(tmp_path)
    assert tags(source) == [0, 1]
    (skipped,) = source.skipped
    assert skipped.name == "c.heic" and "[heif]" in skipped.reason


def test_what_is_left_out_of_a_folder_is_named_and_counted(tmp_path):
    save(tmp_path, ["1", "2"])
    save(tmp_path, ["1.depth", "2.depth", "1_mask", "sea_depth"])
    save(tmp_path / "more", "abc")
    for name in ("poses.txt", "b.json", "c.yaml", "d.md", "e.csv", "f.log", ".hidden"):
        (tmp_path / name).write_text("text")
    source = open_source(tmp_path)
    assert [frame.name for frame in source] == ["1.png", "2.png", "sea_depth.png"]
    assert source.notes == [
        "left out by their names (depth, mask of another image): 3 files: 1.depth.png, 1_mask.png,"
        " 2.depth.png",
        "left out, since they are no images: 6 files: b.json, c.yaml, d.md, e.csv and 2 more",
        f"images in sub-folders of {tmp_path} are not read: more (3); name the folders to read"
        " them",
    ]


def test_depth_beside_colour_is_left_out(tmp_path):
    save(tmp_path, ["frame-000000.color", "frame-000000.depth"])
    assert [frame.name for frame in open_source(tmp_path)] == ["frame-000000.color.png"]


# ---- order


def shell_order(folder: Path) -> list[Path]:
    return sorted(save(folder, [f"frame_{i}" for i in range(12)]).iterdir())


def test_files_in_the_order_of_a_shell_are_used_with_a_hint(tmp_path):
    source = open_source(shell_order(tmp_path / "in"))
    assert tags(source) == [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]
    (note,) = source.notes
    assert "frame_10.png before frame_2.png" in note and "--order natural" in note
    quiet = open_source(shell_order(tmp_path / "in"), order="given")
    assert tags(quiet) == [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9] and not quiet.notes
    assert tags(open_source(shell_order(tmp_path / "in"), order="natural")) == list(range(12))


def test_files_in_an_order_of_one_s_own_are_used_without_a_hint(tmp_path):
    files = shell_order(tmp_path / "in")[::-1]
    source = open_source(files)
    assert tags(source)[0] == 9 and not source.notes


def test_the_order_may_be_that_of_time(tmp_path):
    folder = save(tmp_path / "in", "abc")
    for name, second in zip("abc", (3, 1, 2), strict=True):
        os.utime(folder / f"{name}.png", (second, second))
    source = open_source(folder, order="time")
    assert tags(source) == [1, 2, 0] and "changed, since 3 of 3" in source.notes[0]
    for i, name in enumerate("abc"):
        exif = Image.Exif()
        exif[0x8769] = {0x9003: f"2024:05:01 10:00:0{2 - i // 2}", 0x9291: f"{90 - i}"}
        Image.fromarray(tagged_image(i)).save(folder / f"{name}.png", exif=exif)
    source = open_source(folder, order="time")
    assert tags(source) == [2, 1, 0] and "EXIF" in source.notes[0]


def test_an_order_is_refused_where_there_is_none_to_choose(tmp_path):
    (tmp_path / "a.mp4").touch()
    with pytest.raises(UserError, match="--order is for images"):
        open_source(tmp_path / "a.mp4", order="natural")


# ---- names


@pytest.mark.parametrize("name", ["1²2", "٣", "½", "a²", "²"])
def test_any_name_has_a_place_in_the_order(tmp_path, name):
    assert natural(name)
    assert len(list(open_source(save(tmp_path, ["0", name])))) == 2


def test_photos_that_a_phone_counts_are_not_times(tmp_path):
    assert stamps_from_names(["1000012345", "1000012346"]) is None
    assert stamps_from_names(["1300000000", "1300000001"]) is not None  # 2011
    source = open_source(save(tmp_path, ["1000012345", "1000012346"]))
    assert [frame.stamp_ns for frame in source] == [1, 100_000_001]


def test_a_run_is_no_source(tmp_path):
    with RunWriter(tmp_path / "run", {}):
        pass
    save(tmp_path / "run", ["picture"])
    with pytest.raises(UserError, match="result of a run.*vggt view"):
        open_source(tmp_path / "run")


# ---- sizes and samples


def test_floating_point_images_from_0_to_1_are_grey_and_others_are_refused(tmp_path):
    ramp = np.linspace(0, 1, 32 * 24, dtype=np.float32).reshape(24, 32)
    Image.fromarray(ramp).save(tmp_path / "a.tif")
    Image.fromarray(ramp * 255).save(tmp_path / "b.tif")
    source = open_source(tmp_path)
    (frame,) = source
    np.testing.assert_allclose(frame.rgb[..., 1], ramp * 255, atol=0.51)
    (skipped,) = source.skipped
    assert "from 0 to 255: only those from 0 to 1" in skipped.reason


def test_large_photos_and_wide_panoramas_are_read(tmp_path, monkeypatch):
    """Beyond what Pillow takes for an attack, as photos of 200 megapixels are."""
    check_size(16320, 12240)
    Image.new("L", (17000, 300), 7).save(tmp_path / "wide.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / "wide.png")
    assert image_files.shown_size(tmp_path / "wide.png") == (17000, 300)
    (frame,) = open_source([tmp_path / "wide.png"])
    assert frame.rgb.shape == (300, 17000, 3) and frame.rgb.max() == 7
    assert Image.MAX_IMAGE_PIXELS == 1_000_000


def test_a_size_beyond_all_is_refused_in_a_sentence_that_fits(tmp_path):
    Image.new("1", (20000, 20000)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="20000 x 20000 is invalid.*resize the file") as caught:
        list(open_source(tmp_path / "a.png"))
    assert "\n" not in str(caught.value)


def test_an_animation_is_a_video(tmp_path):
    frames = [Image.new("RGB", (32, 24), (i * 40, 0, 0)) for i in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    source = open_source(tmp_path / "a.gif")
    assert source.kind == "video" and len(list(source)) == 3


def test_of_a_file_of_several_images_the_first_is_used_and_it_is_said(tmp_path):
    images = [Image.new("RGB", (40, 30), (i, 0, 0)) for i in (10, 90, 170)]
    for name in ("a.png", "b.tif", "c.webp", "d.gif"):
        images[0].save(tmp_path / name, save_all=True, append_images=images[1:])
    images[0].save(tmp_path / "e.png")
    source = open_source(tmp_path)
    frames = list(source)
    assert [int(frame.rgb[0, 0, 0]) // 20 for frame in frames] == [0] * 5
    (note,) = [note for note in source.notes if "several images" in note]
    assert note.startswith("files that hold several images: of each the first one is used, as of a")


def test_a_folder_of_videos_and_a_pattern_in_quotes_are_refused_with_the_cure(tmp_path):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "b.MP4").touch()
    with pytest.raises(UserError, match="it has the video b.MP4: give .*films/b.MP4"):
        open_source(tmp_path / "films")
    with pytest.raises(UserError, match="leave out the quotes"):
        open_source(tmp_path / "*.jpg")


def test_turned_photos_with_a_calibration_are_said(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down: of the same size, so that K fits either way
    for name, options in (("a.jpg", {"exif": exif}), ("b.jpg", {})):
        Image.new("RGB", (32, 24)).save(tmp_path / name, **options)
    (tmp_path / "camera.yaml").write_text(
        "image_width: 32\nimage_height: 24\n"
        "camera_matrix: {data: [30, 0, 15, 0, 30, 11, 0, 0, 1]}\n"
        "distortion_coefficients: {data: [0, 0, 0, 0, 0]}\n"
    )
    source = open_source([tmp_path / "a.jpg", tmp_path / "b.jpg"])
    assert not source.notes
    files = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    source = open_source(files, camera_info=tmp_path / "camera.yaml")
    assert source.notes[0].startswith("1 of 2 images are stored turned (EXIF): --camera-info is")
    for frame in source:
        assert frame.intrinsics is not None and frame.intrinsics[0, 2] == 15
