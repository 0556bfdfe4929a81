# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A map on disk: a folder that is written as a whole, and refused as a whole if any of it changed.

    map.json               what it is, of which network, and the SHA-256 of each file below
    keyframes/000123.npz   one keyframe each, by frame id
    graph.npz              the edges between them
    cloud.ply              for people and other programs; each point has its keyframe's id

Arrays are NumPy's own files without pickles: loading a map runs no code of it.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from vggt_ros.errors import UserError
from vggt_ros.files import atomic_folder, json_bytes, read_ply, restore_folder
from vggt_ros.geometry import Similarity
from vggt_ros.mapping.cloud.voxels import OwnedCloud
from vggt_ros.mapping.pose_graph.edges import Edge
from vggt_ros.mapping.pose_graph.keyframe import Keyframe
from vggt_ros.mapping.pose_graph.keyframes import KeyframeStore
from vggt_ros.mapping.rig.report import LAUNCH_FILE

FORMAT, VERSION = "vggt_ros map", 1
INDEX, GRAPH, CLOUD, KEYFRAMES = "map.json", "graph.npz", "cloud.ply", "keyframes"
AGAIN = "restore the folder from a copy, or make the map again"


class LoadedMap(NamedTuple):
    """A map as it was saved; frame ids are those of then."""

    store: KeyframeStore
    segment: int  # of the newest window
    metric: bool  # are world units metres?
    scale_sigma: float  # relative; infinite: unknown
    grid: tuple[int, int]  # height and width of the images, in network pixels
    model: str  # its name, for messages
    cloud: OwnedCloud | None = None  # None: it was saved without one


def save_map(
    folder: Path,
    store: KeyframeStore,
    *,
    fingerprint: str,
    model: str,
    grid: tuple[int, int],
    segment: int,
    metric: bool,
    scale_sigma: float,
    write_cloud: Callable[[Path], None] | None = None,
) -> None:
    """Write a map, in place of the one that the folder may hold; see `LoadedMap` for its fields.

    `write_cloud` is given the path of the PLY file to write. Whatever fails or interrupts it, the
    old map stays whole. Raises UserError for a folder that holds anything but a map, or that
    cannot be written; and what `write_cloud` raises.
    """
    folder = folder.expanduser().resolve()
    with _saving(folder):
        restore_folder(folder)
        _check_replaceable(folder)
        with atomic_folder(folder) as new:
            hashes = {}
            (new / KEYFRAMES).mkdir()
            for frame_id in store.ids.tolist():
                name = f"{KEYFRAMES}/{frame_id:06d}.npz"
                hashes[name] = _write_arrays(new / name, _keyframe_arrays(store.get(frame_id)))
            hashes[GRAPH] = _write_arrays(new / GRAPH, _edge_arrays(store.edges))
            if write_cloud is not None:
                write_cloud(new / CLOUD)
                hashes[CLOUD] = hashlib.sha256((new / CLOUD).read_bytes()).hexdigest()
            index = {
                "format": FORMAT,
                "version": VERSION,
                "model": model,
                "fingerprint": fingerprint,
                "metric": bool(metric),
                "scale_sigma": float(scale_sigma) if math.isfinite(scale_sigma) else None,
                "segment": int(segment),
                "grid": {"height": int(grid[0]), "width": int(grid[1])},
                "keyframes": len(store),
                "edges": len(store.edges),
                "sha256": hashes,
            }
            index["sha256"][INDEX] = _index_hash(index)
            (new / INDEX).write_bytes(json_bytes(index, indent=1))


def load_map(folder: Path, *, fingerprint: str, limit: int = 2000) -> LoadedMap:
    """Read a map that was made with this very network; the files stay as they are.

    `limit` is that of the store. Raises UserError for a folder that is no map, of another version
    or network, or of which a file is missing or not as it was written.
    """
    folder = folder.expanduser().resolve()
    try:
        restore_folder(folder)
    except OSError:
        pass  # a disk for reading only: said below, since then there is no such folder
    index = _read_index(folder)
    if index["fingerprint"] != fingerprint:
        raise UserError(
            f"{folder} was made with another network ({index['model']}, weights"
            f" {index['fingerprint'][:8]}; these are {fingerprint[:8]}): its keyframes mean nothing"
            " to this one; choose that model, or make the map again"
        )
    store, hashes = KeyframeStore(limit), index["sha256"]
    for name in sorted(name for name in hashes if name.startswith(f"{KEYFRAMES}/")):
        with _reading(folder, name):
            store.add(_keyframe(_read_arrays(folder / name, hashes[name])))
    with _reading(folder, GRAPH):
        for edge in _edges(_read_arrays(folder / GRAPH, hashes[GRAPH])):
            store.add_edge(edge)
    sigma, grid = index["scale_sigma"], index["grid"]
    return LoadedMap(
        store,
        index["segment"],
        index["metric"],
        math.inf if sigma is None else sigma,
        (grid["height"], grid["width"]),
        index["model"],
        _read_cloud(folder, hashes[CLOUD]) if CLOUD in hashes else None,
    )


# ---- the folder -------------------------------------------------------------------------------


def _check_replaceable(folder: Path) -> None:
    """Raise UserError where something else than a map would be lost."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder for the map")
    if not folder.exists() or not any(folder.iterdir()):
        return
    try:
        ours = json.loads((folder / INDEX).read_text(encoding="utf-8"))["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise UserError(f"{folder} is not empty and not a map; name another folder")
    known = {INDEX, GRAPH, CLOUD, KEYFRAMES, LAUNCH_FILE}
    if strange := sorted(file.name for file in folder.iterdir() if file.name not in known):
        raise UserError(
            f"{folder} holds {strange[0]}, which is not part of a map and would be lost; move it"
            " away, or name another folder"
        )


@contextmanager
def _saving(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        raise UserError(
            f"the map cannot be saved in {folder}: {fault.strerror or fault}; name a folder whose"
            " parent can be written and has room"
        ) from fault


# ---- map.json ---------------------------------------------------------------------------------


def _index_hash(index: dict[str, Any]) -> str:
    """Of all its fields, with the hashes of the other files."""
    others = {name: value for name, value in index["sha256"].items() if name != INDEX}
    text = json.dumps(index | {"sha256": others}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _read_index(folder: Path) -> dict[str, Any]:
    """The content of map.json, as it was written."""
    with _reading(folder, INDEX):
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}; name one in which a map was saved")
        if not (folder / INDEX).is_file():
            raise UserError(f"{folder} holds no {INDEX}; name a folder in which a map was saved")
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if index["format"] != FORMAT:
            raise UserError(f"{folder}: {INDEX} is of another program; name a folder with a map")
        version = index["version"]
        if version != VERSION:
            cure = "update vggt_ros" if version > VERSION else "make the map again"
            raise UserError(
                f"{folder} has version {version} of the format of maps; this vggt_ros reads"
                f" version {VERSION}: {cure}"
            )
        if index["sha256"][INDEX] != _index_hash(index):
            raise ValueError("its fields are not those that were written")
    return index


@contextmanager
def _reading(folder: Path, name: str) -> Iterator[None]:
    """Whatever reading a damaged file raises, as a sentence that names it."""
    try:
        yield
    except FileNotFoundError as fault:
        raise UserError(f"{folder} is damaged: {name} is missing; {AGAIN}") from fault
    except OSError as fault:
        raise UserError(f"{folder / name} cannot be read: {fault.strerror or fault}") from fault
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, BadZipFile) as fault:
        raise UserError(f"{folder} is damaged: {name} is not as it was saved; {AGAIN}") from fault


# ---- arrays -----------------------------------------------------------------------------------


def _write_arrays(path: Path, arrays: dict[str, Any]) -> str:
    """The SHA-256 of the file."""
    content = BytesIO()
    np.savez(content, **arrays)
    path.write_bytes(content.getbuffer())
    return hashlib.sha256(content.getbuffer()).hexdigest()


def _read(path: Path, sha256: str) -> bytes:
    """Raises ValueError where it is another file than was written."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError("another checksum")
    return content


def _read_cloud(folder: Path, sha256: str) -> OwnedCloud | None:
    """None where points have no keyframes: it is for people alone."""
    with _reading(folder, CLOUD):
        content = _read(folder / CLOUD, sha256)
    try:
        columns = read_ply(content)
        points = np.stack([columns[axis] for axis in "xyz"], axis=-1)
        colours = np.stack([columns[name] for name in ("red", "green", "blue")], axis=-1)
        return OwnedCloud(points, colours, columns["confidence"], columns["keyframe"])
    except (KeyError, ValueError):
        return None


def _read_arrays(path: Path, sha256: str) -> dict[str, np.ndarray]:
    content = _read(path, sha256)
    with np.load(BytesIO(content), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _keyframe_arrays(keyframe: Keyframe) -> dict[str, Any]:
    """Depth and descriptor are left out where there are none."""
    fields = keyframe._asdict() | keyframe.world_from_keyframe._asdict()
    del fields["world_from_keyframe"]
    fields["image"] = np.frombuffer(keyframe.image, np.uint8)
    return {name: value for name, value in fields.items() if value is not None}


def _keyframe(arrays: dict[str, np.ndarray]) -> Keyframe:
    return Keyframe(
        frame_id=int(arrays["frame_id"]),
        stamp_ns=int(arrays["stamp_ns"]),
        camera=str(arrays["camera"]),
        segment=int(arrays["segment"]),
        world_from_keyframe=Similarity(
            float(arrays["scale"]), arrays["rotation"], arrays["translation"]
        ),
        intrinsics=arrays["intrinsics"],
        depth=arrays.get("depth"),
        descriptor=arrays.get("descriptor"),
        image=arrays["image"].tobytes(),
    )


def _edge_arrays(edges: tuple[Edge, ...]) -> dict[str, Any]:
    """One row an edge."""
    poses = [edge.first_from_second for edge in edges]
    return {
        "pairs": np.array([edge[:2] for edge in edges], np.int64).reshape(-1, 2),
        "scale": np.array([float(pose.scale) for pose in poses], np.float64),
        "rotation": np.array([pose.rotation for pose in poses], np.float64).reshape(-1, 3, 3),
        "translation": np.array([pose.translation for pose in poses], np.float64).reshape(-1, 3),
        "sigma": np.array([edge.sigma for edge in edges], np.float64).reshape(-1, 3),
        "kind": np.array([edge.kind for edge in edges], np.str_),
    }


def _edges(arrays: dict[str, np.ndarray]) -> Iterator[Edge]:
    names = ("pairs", "scale", "rotation", "translation", "sigma", "kind")
    for pair, scale, rotation, translation, sigma, kind in zip(
        *(arrays[name] for name in names), strict=True
    ):
        first, second = pair.tolist()
        turn, shift, grow = sigma.tolist()
        relative = Similarity(float(scale), rotation, translation)
        yield Edge(first, second, relative, (turn, shift, grow), str(kind))
