# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt fleet`: what is done is kept, and what cannot be read is named and passed over."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from fakes.planar_engine import PlanarEngine, frames, planar_engine_of_a_run
from PIL import Image

from vggt_ros.errors import UserError
from vggt_ros.tools import fleet as command
from vggt_ros.tools.cli import call
from vggt_ros.tools.fleet import fleet, open_once
from vggt_ros.tools.fleet_workers import TRIES, ray_tasks
from vggt_ros.tools.option_sets import descriptions
from vggt_ros.tools.run import run
from vggt_ros.tools.runs.batch import STATE, Entry
from vggt_ros.tools.runs.format import is_run, open_run


@pytest.fixture
def opened(monkeypatch) -> Iterator[list[str]]:
    """Names of the networks that were opened; every one is exact."""
    names: list[str] = []

    def open_engine(model: str, **_: Any) -> PlanarEngine:
        names.append(model)
        if model == "missing":
            raise UserError("there is no model 'missing'; use small")
        return planar_engine_of_a_run()

    monkeypatch.setattr("vggt_ros.engine.engine.open_engine", open_engine)
    open_once.cache_clear()
    yield names
    open_once.cache_clear()


@pytest.fixture
def sources(tmp_path) -> list[Path]:
    """Three folders of four images, and after the first of them a file that is nothing."""
    folders = [tmp_path / "in" / name for name in ("a", "b", "c")]
    for folder in folders:
        folder.mkdir(parents=True)
        for frame in frames(4):
            Image.fromarray(frame.rgb).save(folder / f"{frame.stamp_ns}.png")
    torn = tmp_path / "in" / "torn.mcap"
    torn.write_bytes(b"\x89MCAP0\r\n")
    return [folders[0], torn, *folders[1:]]


def state(out: Path) -> dict:
    return json.loads((out / STATE).read_text())


def states(out: Path) -> dict[str, str]:
    return {Path(entry["source"]).name: entry["state"] for entry in state(out)["sources"]}


def all_go(sources: Sequence[Path], out: Path, **options: Any) -> int:
    return fleet(sources, out, **{"picture": False, "quiet": True, **options})


def test_one_bad_source_is_named_and_passed_over(sources, opened, tmp_path, capsys):
    out = tmp_path / "out"
    assert all_go(sources, out, quiet=False) == 1
    assert states(out) == {"a": "done", "torn.mcap": "failed", "b": "done", "c": "done"}
    assert [len(open_run(out / name).files) for name in "abc"] == [4, 4, 4]
    assert opened == ["small"], "once for all"
    found = state(out)
    assert (found["done"], found["failed"], found["waiting"]) == (3, 1, 0)
    assert found["frames"] == 12 and found["interrupted"] is False
    torn = found["sources"][1]
    assert "torn.mcap" in torn["reason"] and torn["frames"] == 0
    printed = capsys.readouterr()
    rows = printed.out.splitlines()
    assert [row.split()[:3] for row in rows[:3]] == [
        ["source", "state", "frames"], ["a", "done", "4"], ["torn.mcap", "failed", "-"],
    ]  # fmt: skip
    assert rows[2].endswith(torn["reason"])
    assert rows[-1] == "3 of 4 sources done, 1 failed; 12 frames"
    assert printed.err.count(f"failed: {sources[1]}") == 1


def test_the_same_command_goes_on_after_ctrl_c(sources, opened, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"

    def interrupted(source: Path, folder: Path, **options: Any) -> Any:
        if source.name == "b":
            raise KeyboardInterrupt
        return run(source, folder, **options)

    monkeypatch.setattr(command, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        all_go(sources, out)
    expected = {"a": "done", "torn.mcap": "failed", "b": "waiting", "c": "waiting"}
    assert states(out) == expected and state(out)["interrupted"] is True
    done = (out / "a" / "summary.json").stat().st_mtime_ns
    monkeypatch.setattr(command, "run", run)
    sources[1].unlink()
    Image.fromarray(frames(1)[0].rgb).save(sources[1].with_suffix(".png"))
    assert all_go([*sources, sources[1].with_suffix(".png")], out, quiet=False) == 1
    assert (out / "a" / "summary.json").stat().st_mtime_ns == done, "what is done is kept"
    assert "1 of 5 sources are done already" in capsys.readouterr().err
    assert states(out) == {"a": "done", "torn.mcap": "failed", "b": "done", "c": "done",
                           "torn.png": "done"}  # fmt: skip
    assert "does not exist" in state(out)["sources"][1]["reason"], "it was tried again"


def test_a_run_that_was_interrupted_amid_a_source_goes_on(sources, opened, tmp_path, monkeypatch):
    out, whole, engines = tmp_path / "out", tmp_path / "whole", []
    infer = PlanarEngine.infer

    def counted(self, frame_ids, images, **options):
        if not engines or engines[-1] is not self:
            engines.append(self)
            self.vary_scale = False  # an engine that was opened anew has the unit of before
        if len(engines) == 2 and len(self.inferences) == 6:
            raise KeyboardInterrupt  # at the third image of the second source
        return infer(self, frame_ids, images, **options)

    monkeypatch.setattr(PlanarEngine, "infer", counted)
    good = [sources[0], *sources[2:]]
    assert all_go(good, whole) == 0
    open_once.cache_clear()
    with pytest.raises(KeyboardInterrupt):
        all_go(good, out)
    assert states(out) == {"a": "done", "b": "waiting", "c": "waiting"}
    assert open_run(out / "b").summary["interrupted"] and len(open_run(out / "b").files) == 2
    open_once.cache_clear()
    assert all_go(good, out) == 0
    assert len(engines[2].inferences) == 2 + 4, "two images of b, and c: the rest was recorded"
    for name in "abc":
        assert (out / name / "points.ply").read_bytes() == (
            whole / name / "points.ply"
        ).read_bytes()
        assert not (out / name / ".record").exists()


def test_a_source_that_changed_and_a_run_that_is_gone_are_done_again(sources, opened, tmp_path):
    out, (a, _, b, c) = tmp_path / "out", sources
    assert all_go([a, b, c], out) == 0
    kept = (out / "c" / "summary.json").stat().st_mtime_ns
    max(a.iterdir()).unlink()
    (out / "b" / "summary.json").unlink()
    for file in (out / "b" / "frames").iterdir():
        file.unlink()
    (out / "b" / "trajectory.tum").unlink()
    for name in (
        "frames",
        ".",
    ):
        [file.unlink() for file in (out / "b" / name).iterdir() if file.is_file()]
    (out / "b" / "frames").rmdir()
    assert all_go([a, b, c], out) == 0
    assert [len(open_run(out / name).files) for name in "abc"] == [3, 4, 4]
    assert (out / "c" / "summary.json").stat().st_mtime_ns == kept


def test_other_options_and_other_folders_are_refused(sources, opened, tmp_path):
    out = tmp_path / "out"
    all_go(sources[:1], out, max_frames=2)
    with pytest.raises(UserError, match=r"other options \(max_frames was 2, is 3\)"):
        all_go(sources[:1], out, max_frames=3)
    assert all_go(sources[:1], out, max_frames=3, overwrite=True) == 0
    assert len(open_run(out / "a").files) == 3
    (tmp_path / "mine").mkdir()
    note = tmp_path / "mine" / "note.txt"
    note.write_text("text")
    with pytest.raises(UserError, match="holds no batch"):
        all_go(sources[:1], tmp_path / "mine")
    with pytest.raises(UserError, match="is a file"):
        all_go(sources[:1], note)
    (out / STATE).write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        all_go(sources[:1], out)
    assert note.read_text() == "text"


def test_sources_of_one_name_have_folders_of_their_own(sources, opened, tmp_path):
    other = tmp_path / "other" / "a"
    other.parent.mkdir()
    other.symlink_to(sources[2])  # resolves to b
    third = tmp_path / "third" / "a"
    third.mkdir(parents=True)
    Image.fromarray(frames(1)[0].rgb).save(third / "1.png")
    out = tmp_path / "out"
    assert all_go([sources[0], third, sources[2], other, sources[0]], out) == 0
    assert [entry["folder"] for entry in state(out)["sources"]] == ["a", "third_a", "b"]
    assert all(is_run(out / name) for name in ("a", "third_a", "b"))


def test_a_fault_of_the_program_costs_its_source_alone(sources, opened, tmp_path, monkeypatch):
    def broken(source: Path, folder: Path, **options: Any) -> Any:
        if source.name == "b":
            raise ValueError("three\nlines of\ntext")
        return run(source, folder, **options)

    monkeypatch.setattr(command, "run", broken)
    assert all_go(sources, tmp_path / "out") == 1
    assert state(tmp_path / "out")["sources"][2]["reason"] == "ValueError: three lines of text"
    assert states(tmp_path / "out")["c"] == "done"


def test_what_no_source_can_do_without_is_one_error(sources, opened, tmp_path):
    for options, message in (
        ({"model": "missing"}, "no model 'missing'"),
        ({"window_size": 0}, "window_size"),
        ({"scale_source": "odometry"}, "needs a robot"),
        ({"workers": 0}, "--workers"),
        ({"speed": 3}, "no option speed"),
    ):
        with pytest.raises(UserError, match=message):
            all_go(sources, tmp_path / "out", **options)
    with pytest.raises(UserError, match="no sources given"):
        all_go([], tmp_path / "out")
    assert opened == ["missing"]
    assert set(states(tmp_path / "out").values()) == {"waiting"}


def test_the_command_line_has_all_options_of_run(sources, opened, tmp_path, capsys):
    arguments = [str(sources[0]), "--out", str(tmp_path / "out"), "--max-frames", "2", "--quiet"]
    assert call(["fleet", *arguments, "--no-picture", "--model", "tiny"]) == 0
    assert opened == ["tiny"] and len(open_run(tmp_path / "out" / "a").files) == 2
    with pytest.raises(SystemExit):
        call(["fleet", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name, about in descriptions(run).items():
        if name not in ("source", "out", "overwrite", "quiet", "engine"):
            assert f"--{name.replace('_', '-')}" in text
            assert " ".join(about.partition(":")[2].split())[:40] in text


# ---- workers


class Lost(Exception):
    """What Ray raises where the machine of a task is gone."""


class Died(Lost):
    """And where its process is."""


class FakeRay(ModuleType):
    """Runs tasks one after another; a worker that has a source to die of does."""

    def __init__(self, deadly: dict[str, int]):
        super().__init__("ray")
        self.deadly, self.most, self.started = deadly, 0, {}
        self.faults: list[str] = []  # of the next starts
        self.fault: type[Exception] = Died
        self.exceptions = SimpleNamespace(
            RayTaskError=KeyError, RayError=Lost, WorkerCrashedError=Died, OutOfMemoryError=Died
        )

    def init(self, **options: Any) -> None:
        if self.faults:
            raise RuntimeError(self.faults.pop(0))
        self.started = options

    def shutdown(self) -> None:
        self.started = {}

    def remote(self, work: Any) -> Any:
        return SimpleNamespace(
            options=lambda **_: SimpleNamespace(remote=lambda entry: (object(), work, entry))
        )

    def wait(self, running: list, num_returns: int) -> tuple[list, list]:
        self.most = max(self.most, len(running))
        return running[:num_returns], running[num_returns:]

    def get(self, task: Any) -> Entry:
        _, work, entry = task
        if self.deadly.get(entry.source, 0):
            self.deadly[entry.source] -= 1
            raise self.fault("The worker died.\nA long story follows.")
        return work(entry)


def test_a_worker_that_dies_costs_a_try_and_three_cost_the_source(monkeypatch):
    ray = FakeRay({"b": 1, "c": TRIES})
    monkeypatch.setitem(sys.modules, "ray", ray)
    tasks = {row: Entry(name, name) for row, name in enumerate("abcd")}
    done = dict(ray_tasks(tasks, lambda entry: entry._replace(state="done"), 2, "", 0.0))
    assert sorted(done) == [0, 1, 2, 3] and ray.most == 2
    assert [done[row].state for row in range(4)] == ["done", "done", "failed", "done"]
    assert done[2].reason == f"its worker died {TRIES} times, the last time: The worker died."
    assert not ray.started, "it is shut down"


def test_machines_that_are_lost_cost_no_source_anything(monkeypatch):
    ray = FakeRay({"b": TRIES + 1})
    ray.fault = Lost
    monkeypatch.setitem(sys.modules, "ray", ray)
    tasks = {row: Entry(name, name) for row, name in enumerate("abcd")}
    done = dict(ray_tasks(tasks, lambda entry: entry._replace(state="done"), 2, "", 0.0))
    assert {entry.state for entry in done.values()} == {"done"}
    ray.deadly = dict.fromkeys("abcd", 99)
    with pytest.raises(UserError, match="Ray lost its workers: The worker died.; the same"):
        list(ray_tasks(tasks, lambda entry: entry, 2, "", 0.0))


def test_a_start_that_took_too_long_is_tried_again(monkeypatch):
    ray = FakeRay({})
    monkeypatch.setitem(sys.modules, "ray", ray)
    slow = "The current node timed out during startup.\nThe GCS is overloaded."
    for faults, message in (
        ([slow] * (TRIES - 1), ""),
        ([slow] * TRIES, "Ray does not start: The current node timed out during startup. The"),
        (["no free port"], "Ray does not start: no free port"),
    ):
        ray.faults = list(faults)
        tasks = ray_tasks({0: Entry("a", "a")}, lambda entry: entry, 2, "", 0.0)
        if message:
            with pytest.raises(UserError, match=message):
                list(tasks)
            assert not ray.faults
        else:
            assert len(list(tasks)) == 1


def test_several_workers_need_ray(sources, opened, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="several workers need Ray; install it"):
        all_go(sources, tmp_path / "out", workers=2)
