# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Files of a run directory (`vggt run --out DIR`) and their readers, one frame at a time.

    DIR/summary.json        what was run, how long it took, whether units are metres, the map
    DIR/trajectory.tum      one line a frame: seconds tx ty tz qx qy qz qw, camera in world
    DIR/frames/000000.npz   one `RunFrame` a frame
    DIR/points.ply          the coloured cloud of the largest segment, in the world (z up)
    DIR/tracks.npz          `Tracks`, if query pixels were given
    DIR/picture.png         overview: cloud and cameras from two sides, images and depths

Of a rig (`vggt run --cameras`) the frames of an instant follow each other, in the cameras' order;
`rig` in the summary says where the cameras stand, and there are more files:
    DIR/trajectory_NAME.tum the lines of trajectory.tum that are a camera's, for each
    DIR/static_transforms.launch.py where cameras stand that /tf_static does not have

Each file but the trajectory is complete or absent; the trajectory grows by complete lines.

Frames of one segment of the map are tied to each other, those of two are not. In the summary,
`segments` lists the first frame of each stretch of frames that are of one segment, and
`segment_numbers` of which one: [0, 40, 60] and [0, 1, 0] say that the camera came back to the first
segment at frame 60; `segment_reasons` say why each segment began. The window of a frame in
`uncertain_frames` was refused (its pose is predicted) or fitted the map badly: its depth is in no
cloud. `keyframes` lists the frames that the map keeps, and `loops` the pairs of them that a closed
loop joins; `map` counts keyframes, loops, segments and refused windows; its `noise` is the usual
disagreement of a window's cameras with the map, as a share of the scene's depth, and its `graph` is
empty or says why no loop could be closed.
A run without these keys, of an earlier version, counts as one segment.
"""

import json
from collections.abc import Container, Iterator
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

from vggt_ros.errors import UserError
from vggt_ros.frames import View
from vggt_ros.geometry import rotation_from_quaternion

SUMMARY, TRAJECTORY, FRAMES = "summary.json", "trajectory.tum", "frames"
POINTS, TRACKS, OVERVIEW = "points.ply", "tracks.npz", "picture.png"
FORMAT = "vggt_ros run 1"


def trajectory_of(camera: str) -> str:
    """The file with the trajectory of one camera of a rig, by its name."""
    return f"trajectory_{camera}.tum"


NO_SIZE, SAME_GRID = np.zeros(2, np.int64), np.eye(3)  # of runs that did not keep them


class RunFrame(NamedTuple):
    """Result of one frame; the fields are the arrays of `frames/000000.npz`.

    Everything is on one pixel grid (pixel (0, 0) is the centre of the first pixel); world is z up,
    the camera frame optical (x right, y down, z ahead); lengths are metres if the summary states a
    metric scale, else arbitrary.
    """

    depth: Float32[np.ndarray, "h w"]  # z-depth, NaN where invalid
    confidence: Float32[np.ndarray, "h w"]  # 1 (no evidence) or more
    intrinsics: Float64[np.ndarray, "3 3"]
    world_from_camera: Float64[np.ndarray, "4 4"]
    stamp_ns: int
    image: UInt8[np.ndarray, "h w 3"]
    name: str = ""  # of the input image in its source: its path in the folder; empty: not known
    input_size: Int64[np.ndarray, "2"] = NO_SIZE  # its width and height; 0: not known
    input_from_grid: Float64[np.ndarray, "3 3"] = SAME_GRID  # pixels: those of this grid to its own
    camera: str = ""  # name of a rig's camera; empty: there is one camera
    rectified: bool = False  # whether its lens was undone: then its own are those without the lens

    @classmethod
    def of(cls, view: View, min_confidence: float, name: str) -> "RunFrame":
        """A view with depth; `name`: of its image in the source."""
        assert view.confidence is not None
        return cls(
            depth=view.masked_depth(min_confidence),
            confidence=view.confidence,
            intrinsics=np.asarray(view.intrinsics, np.float64),
            world_from_camera=np.asarray(view.world_from_camera, np.float64),
            stamp_ns=view.stamp_ns,
            image=view.rgb,
            name=name,
            camera=view.camera_name,
            input_size=np.array([view.grid.input_width, view.grid.input_height]),
            input_from_grid=view.grid.input_from_network,
            rectified=view.grid.rectification is not None,
        )


class Trajectory(NamedTuple):
    """Camera poses of all frames, oldest first."""

    stamps_ns: Int64[np.ndarray, " s"]
    world_from_camera: Float64[np.ndarray, "s 4 4"]


class Tracks(NamedTuple):
    """Positions of the query pixels of the first frame; NaN and 0 in frames without inference."""

    tracks: Float32[np.ndarray, "s n 2"]  # pixels of the input image
    visibility: Float32[np.ndarray, "s n"]
    confidence: Float32[np.ndarray, "s n"]


class Cloud(NamedTuple):
    """Coloured points of a run."""

    points: Float32[np.ndarray, "p 3"]  # world
    colours: UInt8[np.ndarray, "p 3"]
    confidence: Float32[np.ndarray, " p"]


class Run(NamedTuple):
    """An open run directory; frames are loaded on access."""

    path: Path
    summary: dict
    files: tuple[Path, ...]  # one a frame, oldest first

    def frame(self, index: int) -> RunFrame:
        """Load one frame; raises `UserError` if its file is damaged."""
        return RunFrame(**_arrays(self.files[index], RunFrame._fields, RunFrame._field_defaults))

    def frames(self, every: int = 1) -> Iterator[RunFrame]:
        """All frames (or each `every`-th), oldest first, one in memory at a time."""
        return (self.frame(index) for index in range(0, len(self.files), every))

    @property
    def reference(self) -> str:
        """Name of the camera whose poses are the rig's; empty: there is one camera."""
        return self.summary.get("rig", {}).get("reference", "")

    def body_frames(self) -> list[int]:
        """Frames of the rig's reference camera; of a single camera all."""
        every = range(len(self.files))
        if not self.reference:
            return list(every)
        own = ("camera",)
        return [i for i in every if _arrays(self.files[i], own)["camera"] == self.reference]

    def segments(self) -> tuple[list[int], ...]:
        """Frames of each segment of the map, uncertain ones left out; the largest segment first."""
        count = len(self.files)
        numbers = self.summary.get("segment_numbers")
        firsts = self.summary["segments"] if numbers else [0]
        edges = np.minimum([*firsts, count], count)
        segment = np.repeat(np.array(numbers or [0], np.int64), np.diff(edges))
        segment[self._uncertain()] = -1
        found = [
            np.flatnonzero(segment == key).tolist() for key in np.unique(segment[segment >= 0])
        ]
        return tuple(sorted(found, key=len, reverse=True))

    def placed_segments(self) -> tuple[list[int], ...]:
        """As `segments`; raises `UserError` for a run without any."""
        if not (found := self.segments()):
            raise UserError(
                f"{self.path} holds no frames; make some with: vggt run SOURCE --out {self.path}"
            )
        return found

    def segment(self, number: int) -> list[int]:
        """Frames of the n-th largest segment, from 0; raises `UserError` if it is not there."""
        segments = self.placed_segments()
        if not 0 <= number < len(segments):
            raise UserError(
                f"there is no segment {number}; {self.path} has 0 to {len(segments) - 1}"
            )
        return segments[number]

    def keyframes(self) -> list[int]:
        """Frames that the map keeps; none in a run of an earlier version."""
        return [key for key in self.summary.get("keyframes", ()) if key < len(self.files)]

    def loops(self) -> list[tuple[int, int]]:
        """Pairs of keyframes that a closed loop joins."""
        known = {*self.keyframes()}
        return [(a, b) for a, b in self.summary.get("loops", ()) if {a, b} <= known]

    def _uncertain(self) -> Int64[np.ndarray, " n"]:
        listed = np.array(self.summary.get("uncertain_frames", ()), np.int64)
        return listed[listed < len(self.files)]

    def trajectory(self) -> Trajectory:
        return read_trajectory(self.path / TRAJECTORY)

    def cloud(self) -> Cloud:
        return read_ply(self.path / POINTS)

    def tracks(self) -> Tracks | None:
        """Tracks of the query pixels; None if the run had none."""
        path = self.path / TRACKS
        return Tracks(**_arrays(path, Tracks._fields)) if path.exists() else None


def open_run(path: Path) -> Run:
    """Open a directory that `vggt run --out PATH` wrote, complete or interrupted."""
    if not is_run(path):
        raise UserError(f"{path} is not a run; make one with: vggt run SOURCE --out {path}")
    files = sorted((path / FRAMES).glob("[0-9]*.npz"), key=lambda file: int(file.stem))
    count = _text(path / TRAJECTORY).count("\n")  # a frame without its line is incomplete
    return Run(path, json.loads((path / SUMMARY).read_text()), tuple(files[:count]))


def is_run(path: Path) -> bool:
    """Whether `path` holds a summary in this format."""
    try:
        return json.loads((path / SUMMARY).read_text()).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False


def read_trajectory(path: Path) -> Trajectory:
    """Read a TUM file; stamps are parsed as integers, since a float would lose nanoseconds."""
    stamps, poses = [], []
    for number, line in enumerate(_text(path).splitlines(), 1):
        words = line.replace(",", " ").split()
        if not words or words[0].startswith("#"):
            continue
        try:
            stamps.append(_nanoseconds(words[0]))
            tx, ty, tz, qx, qy, qz, qw = map(float, words[1:])
        except ValueError:
            raise UserError(f"{path}:{number} is not `seconds tx ty tz qx qy qz qw`") from None
        pose = np.eye(4)
        pose[:3, :3] = rotation_from_quaternion(np.array([qx, qy, qz, qw]))
        pose[:3, 3] = tx, ty, tz
        poses.append(pose)
    return Trajectory(np.array(stamps, np.int64), np.array(poses).reshape(-1, 4, 4))


def _nanoseconds(seconds: str) -> int:
    whole, _, part = seconds.partition(".")
    if part and not part.isdigit():
        return round(float(seconds) * 1e9)  # exponents: a file of another program
    return int(whole) * 10**9 + int(part.ljust(9, "0")[:9])


_PLY_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1",
    "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip


def read_ply(path: Path) -> Cloud:
    """Vertices of a binary little-endian PLY; without colours grey, without confidence 1."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    head, found, body = data.partition(b"end_header\n")
    lines = [line.split() for line in head.decode("ascii", "replace").splitlines()]
    if not found or ["format", "binary_little_endian", "1.0"] not in lines:
        raise UserError(f"{path} is not a binary little-endian PLY file")
    count, layout = 0, []
    for words in lines:
        if words[:2] == ["element", "vertex"]:
            count = int(words[2])
        elif words[:1] == ["element"] and count:
            break  # faces and the like follow the vertices
        elif words[:1] == ["property"] and words[1] in _PLY_TYPES:
            layout.append((words[2], "<" + _PLY_TYPES[words[1]]))
    vertex = np.dtype(layout)
    if len(body) < count * vertex.itemsize:
        raise UserError(f"{path} is cut short; run `vggt run` again")
    vertices = np.frombuffer(body, vertex, count)
    colours = np.full((count, 3), 128, np.uint8)
    if {"red", "green", "blue"} <= set(vertex.names or ()):
        colours = np.stack([vertices[name] for name in ("red", "green", "blue")], -1)
    confidence = np.ones(count, np.float32)
    if "confidence" in (vertex.names or ()):
        confidence = vertices["confidence"].astype(np.float32)
    points = np.stack([vertices[name].astype(np.float32) for name in "xyz"], -1)
    return Cloud(points, colours, confidence)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None


def _arrays(path: Path, names: tuple[str, ...], optional: Container[str] = ()) -> dict:
    """The named arrays of an .npz; scalars as Python's own. Optional ones may be missing."""
    try:
        with path.open("rb") as data, np.load(data) as file:
            missing = {name for name in names if name in optional} - set(file.files)
            arrays = {name: file[name] for name in names if name not in missing}
    except (OSError, KeyError, ValueError, EOFError, BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}); run `vggt run` again") from None
    return {name: array if array.ndim else array.item() for name, array in arrays.items()}
