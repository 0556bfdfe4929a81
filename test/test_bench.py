# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt bench`: alternating sides, formats of the output, options."""

import json
import sys
from types import SimpleNamespace

import pytest

from vggt_ros.errors import UserError
from vggt_ros.tools.bench import large_map
from vggt_ros.tools.bench import map as map_bench
from vggt_ros.tools.bench.main import Options, Row, bench, image_size, interleaved

OPTIONS = Options("tiny", (1,), 0, 0, 1, None, "float32")


def test_sides_alternate_after_a_warm_up_run():
    calls: list[str] = []
    ticks = iter(range(100))
    sides = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    assert interleaved(sides, 2, lambda: float(next(ticks))) == {"a": 1.0, "b": 1.0}
    assert calls == ["a", "b", "a", "b", "a", "b"]


def test_one_slow_run_does_not_change_the_median():
    ticks = iter([0.0, 1.0, 1.0, 2.0, 2.0, 99.0])
    assert interleaved({"a": lambda: None}, 3, lambda: next(ticks)) == {"a": 1.0}


@pytest.mark.parametrize("as_json", [False, True])
def test_rows_are_printed_as_a_table_or_as_one_object(as_json, capsys, monkeypatch):
    row = Row("stream_over_full/tiny/224x168/S4", 0.5, "ratio", "lower", "at most 0.7")
    module = SimpleNamespace(rows=lambda options: iter([row]))
    monkeypatch.setitem(sys.modules, "vggt_ros.tools.bench.stream", module)
    bench("stream", json=as_json)
    output = capsys.readouterr()
    if as_json:
        report = json.loads(output.out)
        assert report["machine"] and report["rows"] == [row._asdict()]
    else:
        assert "| `stream_over_full/tiny/224x168/S4` | 0.5 | ratio | at most 0.7 |" in output.out
    assert row.name in output.err  # as progress


def test_the_image_size_is_the_models_own_by_default():
    assert image_size(OPTIONS) == (168, 224)
    assert image_size(Options("vggt-1b", (1,), 518, 392, 1, None, "auto")) == (392, 518)
    with pytest.raises(UserError, match="multiples of 14"):
        image_size(Options("tiny", (1,), 100, 0, 1, None, "auto"))


def test_dispatch_is_measured_in_milliseconds(capsys):
    bench("dispatch", json=True, windows=(1,), repeats=2)
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["name"] == "dispatch_ms/tiny/S1" and row["better"] == "lower"
    assert 0 < row["value"] < 1000


def test_layouts_are_compared_with_the_joint_one(capsys):
    bench("layouts", json=True, windows=(4,), width=56, repeats=1)
    rows = {row["name"]: row["value"] for row in json.loads(capsys.readouterr().out)["rows"]}
    kinds, layouts = ("operations", "time", "memory"), ("landmark64", "memory32", "dual_stream")
    assert rows.keys() == {
        f"{kind}_over_joint/{layout}/tiny/56x42/S4"
        for kind in kinds for layout in (*layouts, "view_time")
    }  # fmt: skip
    assert all(value > 0 for value in rows.values())
    assert 2 < rows["operations_over_joint/dual_stream/tiny/56x42/S4"] < 2.1
    assert rows["operations_over_joint/memory32/tiny/56x42/S4"] > 1  # 17 tokens, 32 of memory


@pytest.mark.parametrize("wrong", [{"repeats": 0}, {"windows": (0,)}, {"model": "huge"}])
def test_invalid_options_are_refused(wrong):
    with pytest.raises(UserError):
        bench("dispatch", **wrong)


def test_the_rows_of_the_map_are_of_an_empty_and_of_a_full_one(monkeypatch):
    small = {"KEYFRAMES": 40, "LAP": 20, "STEPS": 14, "VOXELS": 4000, "FOLLOWED": 3}
    for name, value in small.items():
        monkeypatch.setattr(large_map, name, value)
    options = Options("tiny", (4,), 84, 56, 1, None, "float32")
    rows = {row.name: row for row in map_bench.rows(options)}
    assert [name.rsplit("/", maxsplit=name.count("/") - 1)[0] for name in rows] == [
        "map_ms/join", "map_ms/insert", "map_ms/agreement",
        "map_mb/keyframes", "map_ms/step", "map_ms/step_p99",
        "map_ms/loop_step", "map_s/graph_loop", "map_ms/occupancy_part", "map_ms/occupancy_p99",
        "map_ms/occupancy", "map_ms/follow", "map_ms/follow_p99", "map_ms/coarser_max",
    ]  # fmt: skip
    assert all(row.value > 0 for name, row in rows.items() if not name.startswith("map_mb"))
