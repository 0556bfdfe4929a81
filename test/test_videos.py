# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Videos as people have them: damaged, joined, with covers, with pixels that are not square."""

import os
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from tagged_images import HEIGHT, WIDTH, tags
from test_sources import film

from vggt_ros.errors import UserError
from vggt_ros.tools.sources.open import open_source


def moving(path: Path, count: int, codec: str, *, pix_fmt: str, gop: int = 12) -> Path:
    """A pattern that moves, with a key frame every `gop` frames and no frame out of order."""
    noise = np.random.default_rng(0).integers(0, 256, (96, 128 + count, 3)).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options={"bf": "0"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 128, 96, pix_fmt
        stream.codec_context.gop_size = gop
        for i in range(count):
            picture = np.ascontiguousarray(noise[:, i : i + 128])
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def damaged(path: Path, packet_number: int) -> Path:
    """The same with one packet overwritten."""
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data, (at, size) = bytearray(path.read_bytes()), packets[packet_number]
    data[at : at + size] = bytes(size)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "least"),
    [
        ("a.avi", "mjpeg", "yuvj420p", 59),
        ("a.mp4", "mpeg4", "yuv420p", 45),
        ("a.mp4", "libx264", "yuv420p", 45),
    ],
)
def test_a_damaged_packet_costs_the_frames_that_need_it(tmp_path, name, codec, pix_fmt, least):
    path = damaged(moving(tmp_path / name, 60, codec, pix_fmt=pix_fmt), 15)
    source = open_source(path)
    frames = list(source)
    assert least <= len(frames) < 60
    assert frames[-1].stamp_ns > 1.9e9  # the last frame is among them
    assert sum("1 part of the video is damaged" in note for note in source.notes) == 1


@pytest.mark.parametrize(("codec", "pix_fmt"), [("mjpeg", "yuvj420p"), ("libx264", "yuv420p")])
def test_frames_that_a_container_drops_are_counted_by_their_times(tmp_path, codec, pix_fmt):
    path = damaged(moving(tmp_path / "a.mkv", 60, codec, pix_fmt=pix_fmt), 15)
    source = open_source(path)
    count = len(list(source))
    assert 45 <= count < 60
    assert (
        f"{60 - count} frames of the video are missing, by the times of the others" in source.notes
    )


def test_a_film_of_no_steady_rate_misses_nothing(tmp_path):
    times = np.cumsum(np.random.default_rng(0).choice([33, 66, 100, 400], 60))
    source = open_source(film(tmp_path / "a.mkv", times.tolist()))
    assert len(list(source)) == 60 and not source.notes


def test_a_name_with_a_colon_is_a_name(tmp_path, monkeypatch):
    film(tmp_path / "at 12:30 file:x.mkv", [0, 40])
    monkeypatch.chdir(tmp_path)
    assert tags(open_source(Path("at 12:30 file:x.mkv"))) == [0, 1]


@pytest.mark.parametrize(
    ("aspect", "size"), [("4/3", (128, 72)), ("3/4", (96, 96)), ("1/1", (96, 72))]
)
def test_pixels_become_square(tmp_path, aspect, size):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        options = {"x264-params": f"sar={aspect}"}
        stream = container.add_stream("libx264", rate=10, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 96, 72, "yuv420p"
        picture = np.full((72, 96, 3), 77, np.uint8)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        container.mux([*stream.encode(frame), *stream.encode()])
    source = open_source(path)
    (found,) = source
    assert found.rgb.shape == (size[1], size[0], 3) and np.ptp(found.rgb) <= 2
    assert any("not square" in note for note in source.notes) == (aspect != "1/1")


def test_a_cover_is_not_the_film(tmp_path):
    """An mp4 with a picture that players show beside it, larger than the film."""
    film(tmp_path / "film.mp4", range(0, 200, 40), codec="mpeg4", pix_fmt="yuv420p")
    Image.new("RGB", (640, 480), "red").save(tmp_path / "cover.png")
    with av.open(str(tmp_path / "a.mp4"), "w") as out, av.open(str(tmp_path / "film.mp4")) as video:
        with av.open(str(tmp_path / "cover.png")) as picture:
            cover = out.add_stream_from_template(picture.streams.video[0])
            cover.disposition = av.stream.Disposition.attached_pic
            main = out.add_stream_from_template(video.streams.video[0])
            for packet in picture.demux(video=0):
                if packet.size:
                    packet.stream = cover
                    packet.pts = packet.dts = 0
                    out.mux(packet)
            for packet in video.demux(video=0):
                if packet.size:
                    packet.stream = main
                    out.mux(packet)
    with av.open(str(tmp_path / "a.mp4")) as made:
        flag = av.stream.Disposition.attached_pic
        assert [s.width for s in made.streams.video if s.disposition & flag] == [640]
    frames = list(open_source(tmp_path / "a.mp4"))
    assert len(frames) == 5 and {frame.rgb.shape for frame in frames} == {(HEIGHT, WIDTH, 3)}


def test_all_frames_of_two_films_that_were_joined_are_used_in_order(tmp_path):
    parts = []
    for number in range(2):
        path = moving(tmp_path / f"{number}.ts", 30, "mpeg4", pix_fmt="yuv420p")
        parts.append(path.read_bytes())
    (tmp_path / "joined.ts").write_bytes(b"".join(parts))
    source = open_source(tmp_path / "joined.ts")
    stamps = [frame.stamp_ns for frame in source]
    assert len(stamps) == 60
    gaps = np.diff(stamps) * 1e-9
    assert (gaps > 0.03).all() and (gaps < 0.04).all(), gaps
    assert sum("go back" in note for note in source.notes) == 1


def live(folder: Path) -> tuple[Path, Path]:
    """A playlist that has no end, and one above it that names it."""
    moving(folder / "part.ts", 20, "mpeg2video", pix_fmt="yuv420p")
    lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:2", "#EXTINF:0.7,", "part.ts", ""]
    playlist, master = folder / "live.m3u8", folder / "master.m3u8"
    playlist.write_text("\n".join(lines))
    master.write_text("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1000\nlive.m3u8\n")
    return playlist, master


def test_a_live_playlist_is_refused_with_the_cure(tmp_path):
    playlist, _ = live(tmp_path)
    with pytest.raises(UserError, match=r"without an end \(live\): record a part of it"):
        open_source(playlist)
    playlist.write_text(playlist.read_text() + "#EXT-X-ENDLIST\n")
    assert len(list(open_source(playlist))) == 20


def test_a_video_that_waits_for_more_ends_with_what_there_is(tmp_path, monkeypatch):
    """FFmpeg asks for the next part of what is still written for ever."""
    monkeypatch.setattr("vggt_ros.tools.sources.video.PATIENCE", 1.0)
    _, master = live(tmp_path)
    source = open_source(master)
    assert len(list(source)) == 20
    assert any("nothing more of it came for 1 s" in note for note in source.notes)


def test_addresses_devices_and_pipes_are_refused_with_the_cure(tmp_path):
    with pytest.raises(UserError, match="is an address: only files are read; record it"):
        open_source(Path("rtsp://camera.local/stream"))
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(UserError, match="is a device or a pipe: only files are read"):
            open_source(path)
