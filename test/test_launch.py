# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Launch file, parameters file and RViz view say of the node what the node says of itself."""

import ast
import re
import sys
from collections.abc import Callable
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from types import ModuleType, SimpleNamespace
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


def test_rviz_asks_for_what_each_topic_offers():
    """Reliable publishers serve both kinds; who latches is asked for what was latched."""
    outputs = (ROOT / "vggt_ros/ros/outputs.py").read_text()
    latched = re.findall(r'"~/([\w/]+)", lambda', outputs)
    assert latched == ["path", "map_points"]
    for display in view()["Displays"]:
        if topic := display.get("Topic"):
            latches = topic["Value"].removeprefix("/vggt/") in latched
            wanted = "Transient Local" if latches else "Volatile"
            assert (topic["Reliability Policy"], topic["Durability Policy"]) == ("Reliable", wanted)


# A launch that only writes down what it is told: launch itself comes with apt ROS, not with pip.


class Noted(SimpleNamespace):
    """Anything of launch: its arguments, kept."""

    def __init__(self, *positional: Any, **named: Any):
        super().__init__(positional=positional, **named)


Given = Callable[..., list[Noted]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Given:
    """What the launch file starts for these arguments: each process with its keywords."""
    words = {
        "launch": "LaunchContext LaunchDescription LaunchDescriptionEntity",
        "launch.actions": "DeclareLaunchArgument OpaqueFunction",
        "launch.substitutions": "EnvironmentVariable",
        "launch_ros": "",
        "launch_ros.actions": "Node",
        "launch_ros.parameter_descriptions": "ParameterValue",
        "launch_ros.utilities": "",
    }
    modules = {name: ModuleType(name) for name in words}
    for name, module in modules.items():
        vars(module).update(dict.fromkeys(words[name].split(), Noted))
        monkeypatch.setitem(sys.modules, name, module)
    joined = vars(modules["launch_ros.utilities"])
    joined["prefix_namespace"] = lambda base, inner: f"{base or ''}/{inner.strip('/')}"
    joined["make_namespace_absolute"] = lambda name: f"/{name.strip('/')}"
    launch_file = run_path(str(LAUNCH))

    def start(**arguments: str) -> list[Noted]:
        declared = launch_file["generate_launch_description"]().positional[0]
        defaults = {d.positional[0]: d.default_value for d in declared if d.positional}
        given = {**defaults, "fastdds_profile": "none", **arguments}
        return launch_file["start"](SimpleNamespace(launch_configurations=given))

    return start


def test_the_file_decides_whatever_is_not_given(started: Given):
    (node,) = started()
    file, overrides = node.parameters
    assert (file, overrides) == (str(ROOT / "config/node.yaml"), {})
    inputs = ["image", "camera_info", "odom", "imu", "scale_depth", "scale_points"]
    assert node.remappings == [(name, name) for name in (*inputs, "baseline_image")]


@pytest.mark.parametrize(("word", "value"), [("true", True), ("True", True), ("false", False)])
def test_the_clock_that_is_given_wins_over_the_file_and_reaches_rviz(
    started: Given, word: str, value: bool
):
    node, rviz = started(use_sim_time=word, rviz=word if value else "true")
    assert node.parameters[-1]["use_sim_time"] is value
    assert rviz.parameters == [{"use_sim_time": value}]


def test_rviz_follows_the_node_into_its_namespaces_and_its_world(started: Given):
    _, rviz = started(rviz="true", namespace="left", ros_namespace="/robot", world_frame="room")
    assert ("/vggt/points", "/robot/left/vggt/points") in rviz.remappings
    assert len(rviz.remappings) == sum("Topic" in display for display in view()["Displays"])
    assert rviz.arguments == ["-d", str(ROOT / "config/vggt.rviz"), "-f", "room"]
    assert started(rviz="true")[1].remappings == []


@pytest.mark.parametrize("name", ["params_file", "fastdds_profile"])
def test_a_file_that_is_not_there_is_named(started: Given, name: str):
    with pytest.raises(RuntimeError, match=f"{name}:=/nowhere.x: there is no such file"):
        started(**{name: "/nowhere.x"})


def test_the_fast_dds_profile_can_be_left_out(started: Given):
    (node,) = started()
    assert node.additional_env == {}
    file = str(ROOT / "config/fastdds.xml")
    (node,) = started(fastdds_profile=file)
    assert node.additional_env == {"FASTRTPS_DEFAULT_PROFILES_FILE": file}


def test_a_number_that_is_none_is_named(started: Given):
    with pytest.raises(RuntimeError, match="window_size:=many: must be int"):
        started(window_size="many")


@pytest.mark.skipif(not find_spec("launch_ros"), reason="launch_ros is not here: apt ROS has it")
def test_the_launch_description_is_accepted_by_launch():
    from launch import LaunchContext

    description = run_path(str(LAUNCH))["generate_launch_description"]()
    arguments = {argument.name: argument for argument in description.get_launch_arguments()}
    promised = {"image", "camera_info", "namespace", "params_file", "rviz", "use_sim_time"}
    assert promised <= set(arguments)
    assert all(argument.description for argument in arguments.values())
    context = LaunchContext()
    context.launch_configurations.update(rviz="true", use_sim_time="true", namespace="left")
    for argument in arguments.values():
        argument.visit(context)
    node, rviz = description.entities[-1].execute(context)
    assert (node.node_package, rviz.node_package) == ("vggt_ros", "rviz2")
