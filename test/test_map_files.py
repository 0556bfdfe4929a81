# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A map on disk: the same to the last bit, whole or not there, and refused with a reason."""

import errno
import hashlib
import json
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fakes.room import turn

from vggt_ros.errors import UserError
from vggt_ros.files import write_ply
from vggt_ros.geometry import Similarity
from vggt_ros.mapping.cloud.voxels import OwnedCloud
from vggt_ros.mapping.map_files import load_map, save_map
from vggt_ros.mapping.pose_graph.edges import BRIDGE, LOOP, SEQUENCE, Edge
from vggt_ros.mapping.pose_graph.keyframe import Keyframe
from vggt_ros.mapping.pose_graph.keyframes import KeyframeStore

NETWORK = "0123456789abcdef"
STAMP = 1_700_000_000_123_456_789  # more digits than a float has


def similarity(random: np.random.Generator) -> Similarity:
    scale = float(np.exp(random.standard_normal()))
    return Similarity(scale, turn(random.standard_normal(3)), random.standard_normal(3) / 3)


def filled(count: int = 5, seed: int = 0) -> KeyframeStore:
    """Keyframes with and without depth, image and descriptor, of two segments."""
    random = np.random.default_rng(seed)
    store = KeyframeStore()
    for i in range(count):
        depth = random.uniform(0.5, 4.0, (14, 28)).astype([np.float32, np.float16][i % 2])
        depth[random.random(depth.shape) < 0.1] = np.nan
        bare = i == 3
        store.add(
            Keyframe(
                frame_id=7 * i + 2,
                stamp_ns=STAMP + i,
                camera="vorne/größe",
                segment=i // 3,
                world_from_keyframe=similarity(random),
                intrinsics=np.diag([30.0 + random.random(), 31.0, 1.0]),
                depth=None if bare else depth,
                descriptor=None if bare else random.standard_normal(8).astype(np.float32),
                image=b"" if bare else random.bytes(100 + i),
            )
        )
    for i, kind in zip(range(count - 1), (SEQUENCE, LOOP, BRIDGE, SEQUENCE), strict=False):
        sigma = (random.random(), random.random() / 3, math.inf if kind == BRIDGE else 0.1)
        store.add_edge(Edge(7 * i + 9, 7 * i + 2, similarity(random), sigma, kind))
    return store


def save(folder: Path, store: KeyframeStore | None = None, **changes) -> KeyframeStore:
    store = filled() if store is None else store
    given = {
        "fingerprint": NETWORK, "model": "small", "grid": (168, 224), "segment": 1,
        "metric": True, "scale_sigma": 0.1 / 3,
    }  # fmt: skip
    save_map(folder, store, **(given | changes))
    return store


def content(folder: Path) -> dict[str, str]:
    """Hash of every file, hidden ones included, and of what stands beside the folder."""
    files = [file for file in folder.parent.rglob("*") if file.is_file()]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def same(a, b) -> bool:
    """To the last bit, and of one type."""
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b and type(a) is type(b)


def assert_same(found: KeyframeStore, saved: KeyframeStore) -> None:
    assert same(found.ids, saved.ids) and len(found) == len(saved)
    for key in saved.ids.tolist():
        for name, value in saved.get(key)._asdict().items():
            assert same(getattr(found.get(key), name), value), (key, name)
    assert same(found.edges, saved.edges)
    assert same(found.snapshot()[:7], saved.snapshot()[:7])


# ---- there and back -----------------------------------------------------------------------------


def test_a_map_comes_back_to_the_last_bit(tmp_path):
    folder = tmp_path / "maps" / "office"
    saved = save(folder, write_cloud=lambda path: path.write_text("ply"))
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    assert names == [
        "cloud.ply", "graph.npz", *(f"keyframes/{7 * i + 2:06d}.npz" for i in range(5)), "map.json"
    ]  # fmt: skip
    before = content(folder)
    found = load_map(folder, fingerprint=NETWORK, limit=77)
    assert_same(found.store, saved)
    assert found.store.limit == 77 and found.model == "small" and found.grid == (168, 224)
    assert (found.segment, found.metric, found.scale_sigma) == (1, True, 0.1 / 3)
    assert content(folder) == before
    assert [file.name for file in folder.parent.iterdir()] == ["office"]


def test_the_cloud_comes_back_with_its_owners_and_is_checked(tmp_path):
    cloud = OwnedCloud(
        np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32),
        np.array([[1, 2, 3], [4, 5, 6]], np.uint8), np.float32([1.5, 2.5]), np.int32([9, -1]),
    )  # fmt: skip
    save(tmp_path / "map", write_cloud=lambda path: write_ply(path, *cloud))
    found = load_map(tmp_path / "map", fingerprint=NETWORK).cloud
    assert found is not None and same(tuple(found), tuple(cloud))
    content = bytearray((tmp_path / "map" / "cloud.ply").read_bytes())
    content[-1] ^= 1
    (tmp_path / "map" / "cloud.ply").write_bytes(content)
    with pytest.raises(UserError, match="cloud.ply is not as it was saved"):
        load_map(tmp_path / "map", fingerprint=NETWORK)
    (tmp_path / "map" / "cloud.ply").unlink()
    with pytest.raises(UserError, match="cloud.ply is missing"):
        load_map(tmp_path / "map", fingerprint=NETWORK)


def test_an_unknown_scale_and_a_map_of_nothing_come_back(tmp_path):
    save(tmp_path / "map", KeyframeStore(), metric=False, scale_sigma=math.inf, segment=0)
    found = load_map(tmp_path / "map", fingerprint=NETWORK)
    assert len(found.store) == 0 and found.store.edges == ()
    assert (found.metric, found.scale_sigma) == (False, math.inf)


def test_map_json_is_for_people_and_other_programs(tmp_path):
    save(tmp_path / "map", scale_sigma=math.inf)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    index = json.loads((tmp_path / "map/map.json").read_text(), parse_constant=refuse)
    assert index["model"] == "small" and index["fingerprint"] == NETWORK
    assert (index["keyframes"], index["edges"]) == (5, 4)
    assert index["grid"] == {"height": 168, "width": 224}


def test_a_loaded_map_goes_on(tmp_path):
    """Moved, extended, saved over itself, loaded again."""
    save(tmp_path / "map")
    store = load_map(tmp_path / "map", fingerprint=NETWORK).store
    store.rescale(0, 1.7, np.zeros(3))
    store.add(store.get(2)._replace(frame_id=1000, image=b"new"))
    store.add_edge(Edge(1000, 2, Similarity.identity(), (0.1, 0.1, 0.1), LOOP))
    save(tmp_path / "map", store)
    assert_same(load_map(tmp_path / "map", fingerprint=NETWORK).store, store)
    save(tmp_path / "map", filled(2))  # fewer: nothing of before stays
    assert len(list((tmp_path / "map/keyframes").iterdir())) == 2


# ---- whole or not at all ------------------------------------------------------------------------


class Interrupted(BaseException):
    """As Ctrl-C."""


def raising(error: BaseException):
    def write_cloud(path: Path) -> None:
        path.write_text("half")
        raise error

    return write_cloud


@pytest.mark.parametrize("first", [True, False])
def test_an_interrupted_save_leaves_what_was_there(tmp_path, first):
    folder = tmp_path / "map"
    if not first:
        save(folder)
    before = content(folder)
    with pytest.raises(Interrupted):
        save(folder, filled(4, seed=1), write_cloud=raising(Interrupted()))
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(UserError, match="cannot be saved in .*map: No space left"):
        save(folder, filled(4, seed=1), write_cloud=raising(full))
    assert content(folder) == before
    assert {file.name for file in tmp_path.iterdir()} == (set() if first else {"map"})


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_map_files as rig
folder, where = Path(sys.argv[2]), sys.argv[3]
if where == "between the renames":
    rename = Path.rename
    def once(self, target):
        rename(self, target)
        os._exit(9)
    Path.rename = once
cloud = (lambda path: os._exit(9)) if where == "while it writes" else None
rig.save(folder, rig.filled(4, seed=1), write_cloud=cloud)
"""


@pytest.mark.parametrize("where", ["while it writes", "between the renames"])
def test_a_killed_save_leaves_the_old_map(tmp_path, where):
    folder = tmp_path / "map"
    old = save(folder)
    arguments = [str(Path(__file__).parent), str(folder), where]
    run = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
    assert run.returncode == 9
    assert [file.name for file in tmp_path.iterdir()] != ["map"]  # it was killed half-way
    assert_same(load_map(folder, fingerprint=NETWORK).store, old)
    new = save(folder, filled(4, seed=1))
    assert_same(load_map(folder, fingerprint=NETWORK).store, new)
    assert [file.name for file in tmp_path.iterdir()] == ["map"]  # and nothing is left of it


def test_a_rename_that_fails_leaves_the_old_map(tmp_path, monkeypatch):
    folder = tmp_path / "map"
    old = save(folder)
    rename = Path.rename

    def refuse(self, target):
        if self.name.endswith(".part"):
            raise OSError(errno.EBUSY, "Device or resource busy")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(UserError, match="busy; name a folder whose parent"):
        save(folder, filled(4, seed=1))
    assert_same(load_map(folder, fingerprint=NETWORK).store, old)
    assert [file.name for file in tmp_path.iterdir()] == ["map"]


# ---- where it may be saved ----------------------------------------------------------------------


def test_what_is_no_map_is_not_replaced(tmp_path):
    def refused(folder: Path, match: str) -> None:
        before = content(folder)
        with pytest.raises(UserError, match=match):
            save(folder)
        assert content(folder) == before

    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/holiday.jpg").write_text("")
    refused(tmp_path / "photos", "not empty and not a map; name another folder")
    for text in ("not JSON", "[1]", '{"format": "other"}'):
        (tmp_path / "photos/map.json").write_text(text)
        refused(tmp_path / "photos", "not empty and not a map; name another folder")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "is a file; name a folder")
    save(tmp_path / "map")
    (tmp_path / "map/notes.txt").write_text("mine")
    refused(tmp_path / "map", "holds notes.txt, .* would be lost; move it away")


def test_an_empty_folder_and_a_link_may_become_a_map(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    saved = save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert_same(load_map(tmp_path / "disk", fingerprint=NETWORK).store, saved)


@pytest.mark.parametrize("where", ["a file/map", "a read-only folder/map", "/proc/map"])
def test_a_place_that_cannot_be_written_is_named(tmp_path, where):
    (tmp_path / "a file").write_text("")
    (tmp_path / "a read-only folder").mkdir(mode=0o500)
    if "read-only" in where and os.geteuid() == 0:
        pytest.skip("root may write there")
    with pytest.raises(UserError, match=f"{where}: .*; name a folder whose parent can be written"):
        save(tmp_path / where)


def test_a_read_only_map_can_be_loaded(tmp_path):
    saved = save(tmp_path / "map")
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        assert_same(load_map(tmp_path / "map", fingerprint=NETWORK).store, saved)
    finally:
        for path in (tmp_path, *tmp_path.rglob("*")):
            path.chmod(path.stat().st_mode | 0o200)


# ---- what is refused ----------------------------------------------------------------------------


def refused(folder: Path, match: str, fingerprint: str = NETWORK) -> None:
    before = content(folder)
    with pytest.raises(UserError, match=match) as caught:
        load_map(folder, fingerprint=fingerprint)
    assert "\n" not in str(caught.value)
    assert content(folder) == before


def test_a_map_of_another_network_is_refused(tmp_path):
    save(tmp_path / "map")
    refused(
        tmp_path / "map",
        r"made with another network \(small, weights 01234567; these are fedcba98\).*choose that",
        "fedcba9876543210",
    )


def test_what_is_no_map_is_refused(tmp_path):
    refused(tmp_path / "nowhere", "no folder .*nowhere; name one in which a map was saved")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no map.json; name a folder")
    (tmp_path / "empty/map.json").write_text('{"format": "tiles"}')
    refused(tmp_path / "empty", "map.json is of another program; name")


def rewrite(folder: Path, **fields) -> None:
    """As an editor would: the other fields stay."""
    index = json.loads((folder / "map.json").read_text())
    (folder / "map.json").write_text(json.dumps(index | fields))


@pytest.mark.parametrize(
    "version, cure", [(2, "update vggt_ros"), (0, "make the map again"), ("1", "not as it was")]
)
def test_another_version_is_refused(tmp_path, version, cure):
    save(tmp_path / "map")
    rewrite(tmp_path / "map", version=version)
    refused(tmp_path / "map", cure)


def test_a_damaged_map_json_is_refused(tmp_path):
    folder = tmp_path / "map"
    save(folder)
    whole = (folder / "map.json").read_text()
    match = "map.json is not as it was saved; restore the folder from a copy"
    for text in ("", whole[:-20], "[1, 2]", "{}", "\xff"):
        (folder / "map.json").write_bytes(text.encode("latin-1", "replace"))
        refused(folder, match)
    for field in ({"scale_sigma": 0.2}, {"keyframes": 4}, {"sha256": {}}, {"extra": 1}):
        (folder / "map.json").write_text(whole)
        rewrite(folder, **field)
        refused(folder, match)
    (folder / "map.json").write_text(whole)
    load_map(folder, fingerprint=NETWORK)


FILES = ("keyframes/000009.npz", "graph.npz")


@pytest.mark.parametrize("name", FILES)
def test_damaged_arrays_are_named(tmp_path, name):
    folder = tmp_path / "map"
    save(folder)
    whole = (folder / name).read_bytes()
    for at in range(0, len(whole), len(whole) // 40):  # a bit anywhere, paddings included
        damaged = bytearray(whole)
        damaged[at] ^= 1
        (folder / name).write_bytes(damaged)
        refused(folder, f"map is damaged: {name} is not as it was saved; restore")
    for other in (b"", whole[:-1], whole[: len(whole) // 2], whole + b"0", pickle.dumps([1])):
        (folder / name).write_bytes(other)
        refused(folder, f"map is damaged: {name} is not as it was saved; restore")
    (folder / name).unlink()
    refused(folder, f"map is damaged: {name} is missing; restore")
    (folder / name).mkdir()
    refused(folder, f"{name} cannot be read: Is a directory")


def test_a_file_of_another_map_is_refused(tmp_path):
    """It is whole, and of the right name, but says something else."""
    for name, seed in (("map", 0), ("other", 1)):
        save(tmp_path / name, filled(seed=seed))
    for name in FILES:
        mine = (tmp_path / "map" / name).read_bytes()
        (tmp_path / "map" / name).write_bytes((tmp_path / "other" / name).read_bytes())
        refused(tmp_path / "map", f"{name} is not as it was saved")
        (tmp_path / "map" / name).write_bytes(mine)
    load_map(tmp_path / "map", fingerprint=NETWORK)
