# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Names of files that are not UTF-8, in the files that a run, a fleet and an export write."""

import json
import os
import subprocess
import sys
from pathlib import Path

from fakes.planar_engine import planar_engine_of_a_run, write_frames
from run_frames import wall_frame

from vggt_ros.tools.colmap import colmap
from vggt_ros.tools.fleet import fleet
from vggt_ros.tools.run import run
from vggt_ros.tools.runs.writer import RunWriter


def test_names_of_files_may_be_of_any_bytes(tmp_path, monkeypatch):
    """Of an old disk or archive, as ISO 8859-1 has them; in Python they are lone surrogates."""
    engine = planar_engine_of_a_run()
    monkeypatch.setattr("vggt_ros.engine.engine.open_engine", lambda *_, **__: engine)
    source = write_frames(tmp_path / os.fsdecode(b"fr\xfch"), 3)
    for number, image in enumerate(sorted(source.iterdir())):
        image.rename(source / os.fsdecode(b"0\xfc%d.png" % number))
    (source / os.fsdecode(b"3\xfc.png")).write_bytes(b"no image")
    out = tmp_path / os.fsdecode(b"gr\xfcn")
    done = run(source, out)
    assert Path(done.summary["source"]["path"]) == source and done.summary["unreadable"] == 1
    model = colmap(out, tmp_path / "colmap")
    name = b"0\xfc0.png"
    assert name + b"\n" in (model / "images.txt").read_bytes()
    assert name + b"\0" in (model / "images.bin").read_bytes()
    assert (tmp_path / "colmap" / "images" / os.fsdecode(name)).samefile(source / os.fsdecode(name))
    assert fleet([source], tmp_path / "fleet") == 0
    (entry,) = json.loads((tmp_path / "fleet" / "fleet.json").read_text())["sources"]
    assert Path(entry["source"]) == source


def test_such_a_name_is_printed(tmp_path):
    """A command that has done its work must not end with an error of the terminal's."""
    with RunWriter(tmp_path / "run", {}) as writer:
        writer.add(wall_frame(0.0))
        writer.summarise({"segments": [0], "segment_numbers": [0]})
    out = tmp_path / os.fsdecode(b"gr\xfcn")
    line = ["export", str(tmp_path / "run"), "--to", "kitti", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "vggt_ros.tools.cli", *line],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"},
    )
    assert done.returncode == 0, done.stderr
    assert b"1 poses: " in done.stdout and b"gr\\udcfcn" in done.stdout
