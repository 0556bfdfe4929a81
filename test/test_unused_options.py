# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Options of `vggt` that nothing uses beside the others: refused, with what to do instead."""

import re
from collections.abc import Callable
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from fakes.planar_engine import planar_engine_of_a_run, write_frames

from vggt_ros.errors import UserError
from vggt_ros.tools.bench.main import USED, bench
from vggt_ros.tools.cli import COMMANDS
from vggt_ros.tools.fleet import fleet
from vggt_ros.tools.run import run

FILE = Path("there")  # of no meaning: options are checked before anything is read
RUN = {"run": FILE, "out": Path("out")}
SCORED = {"run": FILE, "truth": FILE}
WHOLE = {"source": FILE, "out": Path("out")}
GIVEN: dict[str, dict[str, dict[str, Any]]] = {
    # command: option: a call in which it has no effect
    "weights": {
        "dtype": {"source": "tiny", "dtype": "bfloat16"},
        "format": {"source": "tiny", "format": "npz"},
        "average": {"source": "tiny", "average": "small"},
        "share": {"source": "tiny", "to": FILE, "share": 0.3},
        "dense_share": {"source": "tiny", "to": FILE, "dense_share": 1.0},
        "partial": {"source": "tiny", "to": FILE, "average": "small", "partial": True},
    },
    "verify": {"tolerance": {"config": FILE, "weights": (FILE,), "tolerance": FILE}},
    "demo": {"port": {"headless": True, "port": 8081}},
    "colmap": {
        "camera": RUN | {"camera": "OPENCV"},
        "shared_camera": RUN | {"shared_camera": False},
        "cache_dir": RUN | {"cache_dir": FILE},
        "depth": RUN | {"depth": True, "adjust": True},
    },
    "export": {
        "max_points": RUN | {"to": "mesh", "max_points": 10},
        "images": RUN | {"to": "glb", "images": "copy"},
        "fuse": RUN | {"to": "kitti", "fuse": False},
        "voxel": RUN | {"to": "rosbag2", "voxel": 0.1},
    },
    "fleet": {"gpus": {"sources": [FILE], "out": FILE, "gpus": 0.5}},
    "eval": {
        **{name: SCORED | {name: value} for name, value in (
            ("windows", 3), ("lengths", (2,)), ("other", 1), ("width", 56), ("height", 42),
            ("depth_unit", 1000.0), ("depth", FILE),
        )},
        **{name: SCORED | {"truth": Path("rooms"), name: value} for name, value in (
            ("topic", "/pose"), ("max_difference", 0.1),
        )},
    },
    "bench": {
        name: {"name": "callbacks", name: value} for name, value in (
            ("model", "small"), ("windows", (2,)), ("width", 56), ("height", 42),
            ("dtype", "float32"), ("reference", FILE), ("plot", FILE), ("cameras", (2,)),
        )
    } | {"repeats": {"name": "load", "repeats": 2}},
    "run": {
        "mask_network": WHOLE | {"mask_network": "box"},
        "sync_tolerance": WHOLE | {"sync_tolerance": 0.1},
        "min_cameras": WHOLE | {"min_cameras": 2},
        **{name: WHOLE | {"cameras": "a,b", name: value} for name, value in (
            ("topic", "/image"), ("order", "time"), ("fit", "pad"), ("all", True),
        )},
    },
}  # fmt: skip
# Options that always have an effect, or of which a run says that they have none: by the tests of
# `vggt run` (notes on camera_height, fixed_scale, depth_frames and seed; --all refuses windows;
# rate is refused of bags and videos; intrinsics and rectify are refused without a calibration).
ALWAYS = {
    "weights": "source to heads config layout order strategy",
    "verify": "config weights case",
    "demo": "seconds headless model window_size min_confidence clip rate out",
    "colmap": "run out max_points images fuse adjust",
    "export": "run out to segment",
    "fleet": "sources out workers address overwrite quiet",
    "eval": "run truth out",
    "bench": "name json",
    "run": "source out model window_size stride depth_frames network_width dtype device intrinsics"
    " rectify min_confidence scale_source camera_height fixed_scale loops mono16_bits mono16_black"
    " mask_file mask_sky queries cameras camera_info rate every start stop max_frames max_points"
    " fuse picture overwrite resume cache_dir seed quiet engine",
    "view": "run port host every segment",
    "app": "model port host max_images max_megabytes keep_minutes dtype device cache_dir",
    "warm": "model window_size stride depth_frames network_width input_size track_queries cameras"
    " baseline layout dtype device cache_dir",
    "train": "config minutes out official cache",
}


def function(command: str) -> Callable[..., Any]:
    return getattr(import_module(COMMANDS[command].module), COMMANDS[command].function)


@pytest.mark.parametrize(
    ("command", "option"), [(c, option) for c, options in GIVEN.items() for option in options]
)
def test_an_option_that_nothing_uses_is_refused_by_its_name(command: str, option: str):
    with pytest.raises(UserError, match=f"^--(no-)?{option.replace('_', '-')} ") as refused:
        function(command)(**GIVEN[command][option])
    assert re.search("leave|give|add|name|write", str(refused.value)), "says what to do"


@pytest.mark.parametrize(
    ("command", "given", "wanted"),
    [
        ("run", WHOLE | {"max_points": -1}, "0 or more"),
        ("run", WHOLE | {"seed": -1}, "0 to 2147483647"),
        ("fleet", {"sources": [FILE], "out": FILE, "seed": -1}, "0 to 2147483647"),
        ("colmap", RUN | {"max_points": 0}, "1 or more"),
        ("export", RUN | {"to": "glb", "max_points": -5}, "1 or more"),
        ("export", RUN | {"to": "mesh", "voxel": float("nan")}, "0 or more"),
        ("eval", SCORED | {"max_difference": -1.0}, "0 or more"),
        ("view", {"run": FILE, "port": 70000}, "0 to 65535"),
        ("view", {"run": FILE, "every": -1}, "0 or more"),
        ("app", {"keep_minutes": 0}, "1 or more"),
        ("app", {"port": -1}, "0 to 65535"),
        ("demo", {"rate": 0.0}, "0.001 to 1000"),
        ("demo", {"seconds": -1.0}, "0 or more"),
    ],
)
def test_a_number_outside_of_its_limits_is_refused_before_anything_is_read(
    command: str, given: dict[str, Any], wanted: str
):
    *_, name = given
    option = re.escape(name.replace("_", "-"))
    with pytest.raises(UserError, match=f"^--{option} is .*; give {re.escape(wanted)}$"):
        function(command)(**given)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_every_command_is_accounted_for(command: str):
    """A new option is to be put into one of the two tables."""
    options = set(signature(function(command)).parameters)
    if command == "fleet":  # those of `vggt run` are checked by it
        options -= set(signature(run).parameters) - {"out", "overwrite", "quiet"}
    known = {*ALWAYS[command].split(), *GIVEN.get(command, {})}
    assert options == known


def test_the_options_of_each_benchmark_are_those_that_it_reads():
    folder = Path(import_module("vggt_ros.tools.bench.main").__file__ or "").parent
    read_by = {"image_size": {"model", "width", "height"}, "dispatch_rows": {"model", "windows"}}

    def read(module: str, seen: set[str]) -> set[str]:
        seen.add(module)
        text = (folder / f"{module}.py").read_text()
        found = set(re.findall(r"\boptions\.(\w+)", text))
        found |= set().union(*(names for word, names in read_by.items() if f"{word}(" in text))
        for other in re.findall(r"from vggt_ros\.tools\.bench\.(\w+) import", text):
            if other not in seen | {"main", "flops", "large_map"}:
                found |= read(other, seen)
        return found

    for name, used in USED.items():
        # Of another benchmark's module, as stream and train have it, some may be beside the matter.
        assert set(used) <= read(name, set()), name
        assert set(used) >= set(
            re.findall(r"\boptions\.(\w+)", (folder / f"{name}.py").read_text())
        )
    with pytest.raises(UserError, match="--cameras is of stream, and full does not use it"):
        bench("full", cameras=(2, 3))


def test_a_seed_of_trained_weights_is_said(tmp_path, capsys):
    engine = planar_engine_of_a_run()
    folder = write_frames(tmp_path / "images", 3)
    done = run(folder, tmp_path / "out", engine=engine, picture=False, seed=3)
    assert done.summary["notes"] == ["--seed 3 is not used: planar has trained weights"]
    engine.random_weights = True
    done = run(folder, tmp_path / "out", engine=engine, picture=False, seed=3)
    assert done.summary["notes"] == []


def test_images_without_a_calibration_cannot_be_rectified(tmp_path):
    folder = write_frames(tmp_path / "images", 3)
    engine = planar_engine_of_a_run()
    with pytest.raises(UserError, match="--rectify on, by camera_info, but there is none"):
        run(folder, tmp_path / "out", engine=engine, rectify="on")


def test_a_fleet_refuses_masks_that_are_not_given_before_it_begins(tmp_path):
    folder = write_frames(tmp_path / "images", 1)
    with pytest.raises(UserError, match="--mask-network is of what is masked"):
        fleet([folder], tmp_path / "out", mask_network="box")
