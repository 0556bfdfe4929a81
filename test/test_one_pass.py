# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt run --all`: one inference over all images, and the memory that it needs."""

from typing import Any

import jax
import numpy as np
import pytest
from engine_rig import compiled, golden
from fakes.planar_engine import DEPTH, STEP, planar_engine_of_a_run, write_frames
from test_run import run_quietly, write

from vggt_ros.engine.memory import needed
from vggt_ros.engine.shapes import WindowProgram
from vggt_ros.errors import UserError
from vggt_ros.tools.colmap import colmap
from vggt_ros.tools.export import export
from vggt_ros.tools.runs import one_pass
from vggt_ros.tools.runs.one_pass import Room, fitting, free_memory

GB = 10**9


@pytest.fixture
def folder(tmp_path):
    """Twelve images."""
    return write_frames(tmp_path / "images", 12)


@pytest.fixture
def planar_engine(monkeypatch):
    """The network that every `run` of the test opens."""
    engine = planar_engine_of_a_run()
    engine.vary_scale = False
    monkeypatch.setattr("vggt_ros.engine.engine.open_engine", lambda *_, **__: engine)
    return engine


@pytest.fixture
def room(monkeypatch):
    """As much free memory as the test says, on a device of its own."""

    def set_room(device: float, host: float = 64.0, *, shared: bool = False) -> None:
        found = Room(int(device * GB), int(host * GB), shared)
        monkeypatch.setattr(one_pass, "free_memory", lambda device: found)

    return set_room


def test_all_images_are_in_one_inference_and_the_run_is_as_any_other(
    folder,
    planar_engine,
    tmp_path,
    room,
    capsys,
):
    room(80)
    queries = write(tmp_path / "queries.json", [[60, 40]])
    done = run_quietly(folder, tmp_path / "out", all=True, queries=queries, quiet=False)
    assert planar_engine.inferences == [tuple(range(12))]
    assert done.summary["one_pass"] and done.summary["looks"] == 1
    assert done.summary["settings"]["window_size"] == 12 and not done.summary["notes"]
    assert done.segments() == (list(range(12)),)
    poses = done.trajectory().world_from_camera
    np.testing.assert_allclose(poses[1:, 1, 3] - poses[:-1, 1, 3], -STEP, atol=1e-5)
    for i in range(12):
        frame = done.frame(i)
        np.testing.assert_allclose(frame.depth[7:], DEPTH, rtol=1e-5)
        assert frame.image[0, 0, 0] == i and (frame.input_size == [112, 84]).all()
    assert np.isfinite(done.tracks().tracks).all() and done.tracks().tracks.shape == (12, 1, 2)
    said = " ".join(capsys.readouterr().err.split())
    assert "one pass over 12 frames of 56x42: about 13.00 GB on none (weights 1.00, tokens" in said
    assert "80 frames would fit" not in said and "76 frames would fit" in said
    assert colmap(tmp_path / "out", tmp_path / "colmap").name == "0"
    assert export(tmp_path / "out", tmp_path / "kitti", to="kitti").is_dir()


def test_more_images_than_fit_are_refused_with_the_number_that_does(
    folder,
    planar_engine,
    tmp_path,
    room,
):
    room(6)
    words = (
        r"12 frames of 56x42 needs about 13.0 GB on none, of which 6.0 GB are free.*largest number"
        r" that fits is 5: use --max-frames 5, --every 3"
    )
    with pytest.raises(UserError, match=words):
        run_quietly(folder, tmp_path / "out", all=True)
    assert not planar_engine.inferences and not (tmp_path / "out" / "summary.json").exists()
    assert len(run_quietly(folder, tmp_path / "out", all=True, max_frames=5).files) == 5
    # Where only the stamps say how many there are, it is known once they are read.
    with pytest.raises(UserError, match="at least 6 frames.*that fits is 5"):
        run_quietly(folder, tmp_path / "out", all=True, stop=1e6)
    with pytest.raises(UserError, match="--window-size is of windows"):
        run_quietly(folder, tmp_path / "out", all=True, window_size=8)
    planar_engine.max_frames = 3
    with pytest.raises(UserError, match="one pass over 4 frames does not run here"):
        run_quietly(folder, tmp_path / "out", all=True, max_frames=4)


def test_a_pass_needs_what_is_planned_for_it():
    """The estimate against XLA's own plan of the temporary memory, on a CPU."""
    config, weights, _ = golden()
    for frames in (4, 12):
        shape = WindowProgram((56, 56), 13, frames, frames, 0)
        program: Any = compiled()(shape)
        planned = program.memory_analysis().temp_size_in_bytes
        need = needed(config, weights, np.dtype("float32"), (56, 56), frames, jax.devices()[0])
        assert 0.6 < (need.tokens + need.scratch) / planned < 1.6
    assert need.weights == sum(leaf.nbytes for leaf in jax.tree.leaves(weights))


def test_the_largest_number_that_fits_fits_and_one_more_does_not():
    class Engine:
        device, selection = "x", None

        def memory(self, size, frames):
            config, weights, _ = golden()
            dtype = np.dtype("float32")
            return needed(config, weights, dtype, size, frames, jax.devices()[0])

    size, loaded = (392, 518), Engine().memory((392, 518), 1).weights
    for room in (Room(2 * GB, 64 * GB, False), Room(64 * GB, GB, False), Room(GB, GB, True)):
        found = fitting(Engine(), size, room)
        assert found.most > 1
        for count, fits in ((found.most, True), (found.most + 1, False)):
            device, host = found.bytes(count)
            device -= loaded
            if room.shared:
                assert (device + host <= 0.95 * room.host) == fits
            else:
                assert (device <= 0.95 * room.device and host <= 0.95 * room.host) == fits


def test_free_memory_is_the_smaller_of_machine_and_container():
    files = {"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   4000 kB\n"}

    def read(name):
        if name not in files:
            raise FileNotFoundError(name)
        return files[name]

    assert free_memory(None, read) == Room(4_096_000, 4_096_000, True)
    files |= {"/sys/fs/cgroup/memory.max": "3000000\n", "/sys/fs/cgroup/memory.current": "1000000"}
    assert free_memory(None, read).host == 2_000_000
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert free_memory(None, read).host == 4_096_000

    class Card:
        platform = "gpu"

        def memory_stats(self):
            return {"bytes_limit": 80, "bytes_in_use": 30}

    assert free_memory(Card(), read) == Room(50, 4_096_000, False)


def test_one_pass_has_a_limit_beside_memory():
    endless = Room(10**18, 10**18, shared=False)
    found = fitting(planar_engine_of_a_run(), (42, 56), endless)
    found.check(one_pass.MOST)
    with pytest.raises(UserError, match=r"at most 10,000 frames, and there are 10,001: use"):
        found.check(one_pass.MOST + 1)
