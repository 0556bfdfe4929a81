# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Launch file, parameters file and RViz view say of the node what the node says of itself."""

import ast
import re
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from vggt_ros.ros.parameters import Parameters

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = ROOT / "launch/vggt.launch.py"
DEFAULTS = {row.name: row.default for row in fields(Parameters)}


def constant(name: str) -> ast.expr:
    """The right side of a constant of the launch file, which may not be importable here."""
    for node in ast.parse(LAUNCH.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return node.value
    raise AssertionError(f"{LAUNCH} has no {name}")


def view() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "config/vggt.rviz").read_text())["Visualization Manager"]


def test_launch_arguments_are_parameters_of_the_node_and_of_their_type():
    table = constant("PARAMETERS")
    assert isinstance(table, ast.Dict)
    for key, row in zip(table.keys, table.values, strict=True):
        assert isinstance(key, ast.Constant) and isinstance(row, ast.Tuple)
        assert type(DEFAULTS[key.value]).__name__ == ast.unparse(row.elts[0])


def test_the_parameters_file_holds_the_defaults_of_the_node():
    written = yaml.safe_load((ROOT / "config/node.yaml").read_text())["/**"]["ros__parameters"]
    assert written == {name: DEFAULTS.get(name, "no such parameter") for name in written}


def test_every_parameter_in_the_file_has_its_reason():
    lines = (ROOT / "config/node.yaml").read_text().splitlines()
    for above, line in zip(lines, lines[1:], strict=False):
        if line.startswith("    ") and not line.strip().startswith("#"):
            assert above.strip().startswith("#") or "world_frame" in line, line


def test_rviz_shows_topics_of_the_node_in_its_world():
    shown = [
        display["Topic"]["Value"].removeprefix("/vggt/")
        for display in view()["Displays"]
        if "Topic" in display
    ]
    assert shown == list(ast.literal_eval(constant("SHOWN")))
    outputs = (ROOT / "vggt_ros/ros/outputs.py").read_text()
    assert set(shown) <= set(re.findall(r'"~/([\w/]+)"', outputs))
    assert view()["Global Options"]["Fixed Frame"] == DEFAULTS["world_frame"]


def test_fast_dds_sends_the_largest_cloud_through_shared_memory():
    found = ElementTree.parse(ROOT / "config/fastdds.xml").findall(".//{*}segment_size")
    (segment,) = (int(size.text or 0) for size in found)
    largest = 1280 * 720 * 20  # bytes of ~/points at depth_resolution: input
    assert segment > largest


@pytest.mark.skipif(not find_spec("launch_ros"), reason="launch_ros is not here: apt ROS has it")
def test_the_launch_description_is_accepted_by_launch():
    description = run_path(str(LAUNCH))["generate_launch_description"]()
    arguments = {argument.name: argument for argument in description.get_launch_arguments()}
    promised = {"image", "camera_info", "namespace", "params_file", "rviz", "use_sim_time"}
    assert promised <= set(arguments)
    assert all(argument.description for argument in arguments.values())
