# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Figures come in one form, from sides that took turns."""

import json
import sys
from types import SimpleNamespace

import pytest

from vggt_ros.errors import UserError
from vggt_ros.tools.bench.main import Options, Row, bench, interleaved, picture_size

OPTIONS = Options("tiny", (1,), 0, 0, 1, None, "float32")


def test_sides_take_turns_after_one_run_that_is_not_counted():
    calls: list[str] = []
    ticks = iter(range(100))
    sides = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    assert interleaved(sides, 2, lambda: float(next(ticks))) == {"a": 1.0, "b": 1.0}
    assert calls == ["a", "b", "a", "b", "a", "b"]


def test_one_slow_run_does_not_move_the_figure():
    ticks = iter([0.0, 1.0, 1.0, 2.0, 2.0, 99.0])
    assert interleaved({"a": lambda: None}, 3, lambda: next(ticks)) == {"a": 1.0}


@pytest.mark.parametrize("as_json", [False, True])
def test_rows_come_as_a_table_or_as_one_object(as_json, capsys, monkeypatch):
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
    assert row.name in output.err  # as soon as it is known


def test_the_picture_is_the_models_own_unless_told():
    assert picture_size(OPTIONS) == (168, 224)
    assert picture_size(Options("vggt-1b", (1,), 518, 392, 1, None, "auto")) == (392, 518)
    with pytest.raises(UserError, match="multiples of 14"):
        picture_size(Options("tiny", (1,), 100, 0, 1, None, "auto"))


def test_dispatch_is_measured_in_milliseconds(capsys):
    bench("dispatch", json=True, windows=(1,), repeats=2)
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["name"] == "dispatch_ms/tiny/S1" and row["better"] == "lower"
    assert 0 < row["value"] < 1000


@pytest.mark.parametrize("wrong", [{"repeats": 0}, {"windows": (0,)}, {"model": "huge"}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(UserError):
        bench("dispatch", **wrong)
