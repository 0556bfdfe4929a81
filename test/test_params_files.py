# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Files of parameters that do not reach the node are said; examples reach it everywhere."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from launch_rig import vggt_launch
from node_rig import Rig
from rclpy.node import Node

from vggt_ros.ros.live_parameters import LiveParameters
from vggt_ros.ros.params_files import files_in, matches, sections, undeclared, unreached

pytestmark = pytest.mark.ros

KEYS = [
    "/**", "/robot/vggt", "robot/vggt", "/robot/*", "/*/vggt", "/robot/**", "/**/vggt", "vggt",
    "/vggt", "/*", "/other/vggt", "/robot/vggt_2",
]  # fmt: skip


def written(path: Path, key: str, **values) -> Path:
    file = path / "robot.yaml"
    file.write_text(yaml.safe_dump({key: {"ros__parameters": values}}))
    return file


@pytest.mark.parametrize("key", KEYS)
def test_a_file_reaches_the_node_as_rcl_has_it(rig: Rig, tmp_path: Path, key: str):
    file = written(tmp_path, key, seed=7)
    node = rig.open(arguments=("-r", "__ns:=/robot", "--params-file", str(file)))
    reached = node.parameters.now.seed == 7
    assert (unreached(file, "/robot/vggt") == "") == reached


FILES = {  # text of a file: the seed that /robot/vggt starts with
    "/**: {ros__parameters: {seed: 1}}": 1,
    "/robot: {vggt: {ros__parameters: {seed: 2}}}": 2,
    "robot: {'*': {ros__parameters: {seed: 5}}}": 5,
    "'**': {vggt: {ros__parameters: {seed: 6}}}": 6,
    "/robot/left/vggt: {ros__parameters: {seed: 7}}": 0,
    "/vgg: {ros__parameters: {seed: 8}}": 0,
    "/robot/vggt: {ros__parameters: {}}": 0,
    "/**: {ros__parameters: {seed: 9}}\n/robot/vggt: {ros__parameters: {seed: 10}}": 10,
    "/robot/vggt: {ros__parameters: {seed: 11}}\n/**: {ros__parameters: {seed: 12}}": 12,
    "/robot/*: {ros__parameters: {seed: 13}}\n/robot: {vggt: {ros__parameters: {seed: 14}}}": 14,
}


@pytest.mark.parametrize("text", FILES)
def test_launch_file_and_node_read_a_file_as_rcl_does(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
):
    """The launch file runs where the package cannot be imported, and has the rules a second time.

    rcl, which starts the node, is the judge of both.
    """
    file = tmp_path / "robot.yaml"
    file.write_text(text)
    launch = vggt_launch(monkeypatch)
    content, name = yaml.safe_load(text), "/robot/vggt"
    keys = [key for key, _ in sections(content)]
    assert list(launch["sections"](content)) == list(sections(content))
    for key in [*keys, *KEYS]:
        for node in (name, "/vggt", "/robot/left/vggt", "/robot/vggt_2"):
            assert launch["matches"](key, node) == matches(key, node), (key, node)
    node = rig.open(arguments=("-r", "__ns:=/robot", "--params-file", str(file)))
    seed = node.parameters.now.seed
    assert seed == FILES[text]
    assert launch["parameters_in"](file, name).get("seed", 0) == seed
    assert unreached(file, name) == "" or seed == 0


def test_what_ros2_param_dump_writes_of_a_node_starts_another_one_alike(rig: Rig, tmp_path: Path):
    """All parameters under the node's own name, nested at the dots of their names."""
    given = {"min_confidence": 2.5, "network_width": 56, "map_path": "/tmp/x", "tf_mode": "none"}
    first = rig.start(arguments=("-p", "rectify:=off", "-r", "image:=/image"), **given)
    content: dict[str, Any] = {}
    for name in first.get_parameters_by_prefix(""):
        *outer, last = name.split(".")
        level = content
        for part in outer:
            level = level.setdefault(part, {})
        level[last] = first.get_parameter(name).value
    assert content["qos_overrides"]["/image"]["subscription"]["reliability"] == "reliable"
    file = tmp_path / "dump.yaml"
    file.write_text(yaml.safe_dump({"/vggt": {"ros__parameters": content}}))
    assert unreached(file, "/vggt") == ""
    second = Node("vggt", context=rig.context, cli_args=["--ros-args", "--params-file", str(file)])
    try:
        assert LiveParameters(second).now == first.parameters.now
        assert first.parameters.now.rectify == "off"
    finally:
        second.destroy_node()


def test_a_file_that_does_not_reach_the_node_is_a_lasting_warning(rig: Rig, tmp_path: Path):
    file = written(tmp_path, "/vggt", tf_mode="none")
    rig.open(arguments=("-r", "__ns:=/robot", "--params-file", str(file)))
    words = f"no parameter of {file} reaches this node", "/robot/vggt", "/vggt", "write /**"
    report = rig.wait_for_diagnostics(*words)
    assert any(words[0] in status.message for status in rig.received["/diagnostics"][-1].status)
    assert any(all(word in text for word in words) for text in report.values())


def test_a_name_that_the_node_does_not_have_is_said(tmp_path: Path):
    known = {"seed": 1, "use_sim_time": True, "qos_overrides./vggt/points.publisher.depth": 1}
    assert unreached(written(tmp_path, "/vggt", **known), "/vggt") == ""
    file = written(tmp_path, "/vggt", tf_mod="none", **known)
    assert unreached(file, "/vggt") == (
        f"{file} sets what this node does not have: tf_mod (did you mean tf_mode?)"
    )
    # A section for all nodes may be about others.
    shared = written(tmp_path, "/**", tf_mod="none")
    assert unreached(shared, "/vggt") == ""
    # But launch writes such a file for one node alone.
    own = shared.rename(tmp_path / "launch_params_x7b2")
    assert unreached(own, "/vggt").startswith("the launch file sets what this node does not have")


def test_a_parameter_on_the_command_line_that_there_is_not_is_a_lasting_warning(rig: Rig):
    rig.open(arguments=("-p", "windw_size:=8", "-p", "other:speed:=1", "-p", "vggt:seed:=1"))
    words = "windw_size (did you mean window_size?)"
    rig.wait_for_diagnostics(f"the command line sets what this node does not have: {words}")
    assert "speed" not in rig.status("settings").message


def test_an_option_of_the_program_that_holds_the_node_is_no_parameter():
    own = ["serve.py", "-p", "8080", "-p"]
    assert undeclared(own, "/vggt") == ""
    assert "windw_size" in undeclared([*own, "--ros-args", "-p", "windw_size:=8"], "/vggt")


def test_files_are_those_of_the_command_line():
    line = ["vggt_node", "--ros-args", "--params-file", "a", "-p", "x:=1", "--params-file", "b"]
    assert files_in(line) == [Path("a"), Path("b")]
    assert files_in(["--params-file"]) == []


def test_every_example_of_parameters_reaches_the_node_in_any_namespace(root: Path, tmp_path: Path):
    texts = [path.read_text() for path in sorted((root / "config").glob("*.yaml"))]
    for page in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        texts += re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    count = 0
    for text in texts:
        content = yaml.safe_load(text)
        if "ros__parameters" not in text or "nav2_costmap_2d" in text:
            continue
        count += 1
        file = tmp_path / "example.yaml"
        file.write_text(yaml.safe_dump(content))
        assert unreached(file, "/any/name/vggt") == "", text
    assert count >= 2
