# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Launch file, parameters file and RViz view agree with the node's parameters and topics."""

import ast
import shlex
import sys
from collections.abc import Callable
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from launch_rig import LAUNCH, Action, vggt_launch

from vggt_ros.ros.parameters import Parameters, choices
from vggt_ros.ros.tf import tf_advice

pytestmark = pytest.mark.ros

ROOT = Path(__file__).resolve().parent.parent
ROWS = {row.name: row for row in fields(Parameters)}
DEFAULTS = {name: row.default for name, row in ROWS.items()}


def constant(name: str) -> ast.expr:
    """The right side of a constant of the launch file, which may not be importable here."""
    for node in ast.parse(LAUNCH.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return node.value
    raise AssertionError(f"{LAUNCH} has no {name}")


def view() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "config/vggt.rviz").read_text())["Visualization Manager"]


def test_launch_arguments_have_type_and_description_of_the_node_s_parameters():
    table = constant("PARAMETERS")
    assert isinstance(table, ast.Dict)
    for key, row in zip(table.keys, table.values, strict=True):
        assert isinstance(key, ast.Constant) and isinstance(row, ast.Tuple)
        kind, description = row.elts
        expected = ROWS[key.value]
        assert type(expected.default).__name__ == ast.unparse(kind)
        allowed = f"; one of: {', '.join(choices(expected))}" if choices(expected) else ""
        assert ast.literal_eval(description) == expected.metadata["about"] + allowed


def test_the_parameters_file_holds_the_defaults_of_the_node():
    written = yaml.safe_load((ROOT / "config/node.yaml").read_text())["/**"]["ros__parameters"]
    assert written == {name: DEFAULTS.get(name, "no such parameter") for name in written}


def test_comments_of_the_parameters_file_start_with_the_description_of_the_parameter():
    comment: list[str] = []
    for line in (ROOT / "config/node.yaml").read_text().split("ros__parameters:\n")[1].splitlines():
        name, _, _ = line.strip().partition(":")
        if line.strip().startswith("#"):
            comment.append(line.strip("# "))
        elif name:
            assert " ".join(comment).startswith(f"{ROWS[name].metadata['about']}."), name
            comment = []


def test_rviz_displays_topics_of_the_node_in_its_world_frame():
    displayed = [
        display["Topic"]["Value"].removeprefix("/vggt/")
        for display in view()["Displays"]
        if "Topic" in display
    ]
    assert displayed == list(ast.literal_eval(constant("RVIZ_TOPICS")))
    assert view()["Global Options"]["Fixed Frame"] == DEFAULTS["world_frame"]


def test_fast_dds_sends_the_largest_cloud_through_shared_memory():
    found = ElementTree.parse(ROOT / "config/fastdds.xml").findall(".//{*}segment_size")
    (segment,) = (int(size.text or 0) for size in found)
    largest = 1280 * 720 * 20  # bytes of ~/points at depth_resolution: input
    assert segment > largest


Start = Callable[..., list[Action]]


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> Start:
    """What the launch file starts for these arguments: each process with its keywords."""
    launch_file = vggt_launch(monkeypatch)

    def start(**arguments: str) -> list[Action]:
        declared = launch_file["generate_launch_description"]().positional[0]
        defaults = {d.positional[0]: d.default_value for d in declared if d.positional}
        values = {**defaults, "fastdds_profile": "none", **arguments}
        return launch_file["start"](SimpleNamespace(launch_configurations=values))

    return start


def test_the_parameters_file_is_used_for_all_that_is_not_given(launch: Start):
    (node,) = launch()
    file, overrides = node.parameters
    assert (file, overrides) == (str(ROOT / "config/node.yaml"), {})
    inputs = ["image", "camera_info", "odom", "imu", "scale_depth", "scale_depth_info"]
    more = ["scale_points", "baseline_image", "baseline_camera_info", "mask", "initialpose"]
    assert node.remappings == [(name, name) for name in (*inputs, *more)]


@pytest.mark.parametrize(("word", "value"), [("true", True), ("True", True), ("false", False)])
def test_use_sim_time_overrides_the_file_and_reaches_rviz(launch: Start, word: str, value: bool):
    node, rviz = launch(use_sim_time=word, rviz=word if value else "true")
    assert node.parameters[-1]["use_sim_time"] is value
    assert rviz.parameters == [{"use_sim_time": value}]


def test_rviz_uses_the_namespaces_and_the_world_frame_of_the_node(launch: Start):
    _, rviz = launch(rviz="true", namespace="left", ros_namespace="/robot", world_frame="room")
    assert ("/vggt/points", "/robot/left/vggt/points") in rviz.remappings
    assert len(rviz.remappings) == sum("Topic" in display for display in view()["Displays"])
    assert rviz.arguments == ["-d", str(ROOT / "config/vggt.rviz"), "-f", "room"]
    assert launch(rviz="true")[1].remappings == []


def test_rviz_shows_the_cameras_of_a_rig(launch: Start):
    _, rviz = launch(rviz="true", namespace="robot", cameras="[front, left]")
    assert ("/vggt/left/points", "/robot/vggt/left/points") in rviz.remappings
    written = yaml.safe_load(Path(rviz.arguments[1]).read_text())["Visualization Manager"]
    topics = {display["Topic"]["Value"] for display in written["Displays"] if "Topic" in display}
    assert "/vggt/front/points" in topics and "/vggt/points" not in topics
    assert topics <= {topic for topic, _ in rviz.remappings}


IN_A_FILE = {  # what params_file has for /robot/left/vggt: the fixed frame
    "/**": "room",
    "/robot/left/vggt": "room",
    "robot/left/vggt": "room",
    "/robot/**": "room",
    "/*/left/vggt": "room",
    "/left/vggt": None,
    "/vggt": None,
}


@pytest.mark.parametrize("key", IN_A_FILE)
@pytest.mark.parametrize("given", ["", "hall"])
def test_rviz_uses_the_world_frame_that_the_node_reads(
    launch: Start, tmp_path: Path, key: str, given: str
):
    file = tmp_path / "robot.yaml"
    file.write_text(f"{key}:\n  ros__parameters:\n    tf_mode: none\n    world_frame: /room\n")
    namespaces = {"namespace": "left", "ros_namespace": "/robot"}
    _, rviz = launch(rviz="true", params_file=str(file), world_frame=given, **namespaces)
    frame = given or IN_A_FILE[key]
    assert rviz.arguments[2:] == (["-f", frame] if frame else [])


@pytest.mark.parametrize("text", ["", "- 1\n", "{", "/**: 5\n", "/**:\n  ros__parameters:\n"])
def test_a_parameters_file_that_the_node_will_refuse_leaves_the_default_frame(
    launch: Start, tmp_path: Path, text: str
):
    file = tmp_path / "robot.yaml"
    file.write_text(text)
    assert launch(rviz="true", params_file=str(file))[1].arguments[2:] == []


def test_the_node_is_told_the_line_that_starts_it(launch: Start):
    (node,) = launch(
        image="/front/image raw", model="tiny", log_level="debug", namespace="left",
        ros_namespace="/robot",
    )  # fmt: skip
    option, line = node.arguments
    assert option == tf_advice.LAUNCH_LINE
    assert shlex.split(line) == [
        "ros2", "launch", "vggt_ros", "vggt.launch.py", "namespace:=/robot/left",
        "image:=/front/image raw", "model:=tiny", "log_level:=debug",
    ]  # fmt: skip


def test_the_cameras_of_a_rig_are_remapped_by_their_names(launch: Start, tmp_path: Path):
    remapped = {"front/image": "/cams/front", "left/camera_info": "/cams/info", "rear/image": "/x"}
    (node,) = launch(cameras="[front, left]", **remapped)
    assert node.parameters[-1]["cameras"].positional == ("[front, left]",)
    assert node.remappings[-2:] == [
        ("front/image", "/cams/front"),
        ("left/camera_info", "/cams/info"),
    ]
    assert shlex.split(node.arguments[1])[-3:] == [
        "cameras:=[front, left]", "front/image:=/cams/front", "left/camera_info:=/cams/info",
    ]  # fmt: skip
    file = tmp_path / "rig.yaml"
    file.write_text("/**:\n  ros__parameters:\n    cameras: [front, rear]\n")
    (node,) = launch(params_file=str(file), **remapped)
    assert node.remappings[-2:] == [("front/image", "/cams/front"), ("rear/image", "/x")]


def test_the_line_is_that_of_the_launch_file_that_includes_this_one(launch: Start):
    (node,) = launch(image="/front image", launch_line="ros2 launch vggt_ros nav2.launch.py")
    assert node.arguments[1] == "ros2 launch vggt_ros nav2.launch.py 'image:=/front image'"


def test_advice_is_the_line_that_started_the_node_with_other_parameters(
    monkeypatch: pytest.MonkeyPatch,
):
    line = "ros2 launch vggt_ros vggt.launch.py 'image:=/a b' tf_mode:=camera"
    program = "/opt/ws/lib/vggt_ros/vggt_node"
    monkeypatch.setattr(sys, "argv", [program, tf_advice.LAUNCH_LINE, line, "--ros-args"])
    assert tf_advice.restart_line(tf_mode="auto") == line.replace("mode:=camera", "mode:=auto")
    monkeypatch.setattr(sys, "argv", [program, "--ros-args", "-r", "image:=/front"])
    expected = "ros2 run vggt_ros vggt_node --ros-args -r image:=/front --ros-args -p tf_mode:=auto"
    assert tf_advice.restart_line(tf_mode="auto") == expected


@pytest.mark.parametrize("name", ["params_file", "fastdds_profile"])
def test_a_missing_file_is_an_error(launch: Start, name: str):
    with pytest.raises(RuntimeError, match=f"{name}:=/nowhere.x: there is no such file"):
        launch(**{name: "/nowhere.x"})


def test_the_fast_dds_profile_can_be_left_out(launch: Start):
    (node,) = launch()
    assert node.additional_env == {}
    file = str(ROOT / "config/fastdds.xml")
    (node,) = launch(fastdds_profile=file)
    assert node.additional_env == {
        "FASTDDS_DEFAULT_PROFILES_FILE": file,
        "FASTRTPS_DEFAULT_PROFILES_FILE": file,
    }


def test_the_fast_dds_profile_of_the_user_s_environment_comes_first(launch: Start):
    """In the variable of Fast DDS 3, else in that of Fast DDS 2; ours where neither is set."""
    description = run_path(str(LAUNCH))["generate_launch_description"]().positional[0]
    (argument,) = (entry for entry in description if entry.positional == ("fastdds_profile",))
    first = argument.default_value
    second = first.default_value
    assert first.positional == ("FASTDDS_DEFAULT_PROFILES_FILE",)
    assert second.positional == ("FASTRTPS_DEFAULT_PROFILES_FILE",)
    assert second.default_value == str(ROOT / "config/fastdds.xml")


def test_an_argument_that_nothing_reads_is_an_error(launch: Start, monkeypatch):
    """ros2 launch takes any name; another launch file's arguments are its own."""
    line = ["/opt/ros/jazzy/bin/ros2", "launch", "vggt_ros", "vggt.launch.py"]
    monkeypatch.setattr(sys, "argv", [*line, "image:=/x", "windw_size:=8"])
    with pytest.raises(RuntimeError, match="windw_size:=8: .* did you mean window_size"):
        launch(image="/x")
    monkeypatch.setattr(sys, "argv", [*line, "map_voxel:=0.02"])
    with pytest.raises(RuntimeError, match="go into a file for params_file"):
        launch()
    rig = ["cameras:=[front,left]", "front/image:=/f"]
    monkeypatch.setattr(sys, "argv", [*line, *rig, "left/mask:=/m"])
    launch(**dict(word.split(":=") for word in [*rig, "left/mask:=/m"]))
    monkeypatch.setattr(sys, "argv", [*line[:2], str(LAUNCH), "windw_size:=8"])
    with pytest.raises(RuntimeError, match="did you mean window_size"):
        launch()
    others = [["/ws/robot.launch.py"], ["/ws/vggt.launch.py"], ["my_robot", "vggt.launch.py"]]
    for other in others:
        monkeypatch.setattr(sys, "argv", [*line[:2], *other, "speed:=1"])
        launch()


def test_every_declared_argument_may_be_given(launch: Start, monkeypatch: pytest.MonkeyPatch):
    for file in ("vggt.launch.py", "nav2.launch.py"):
        described = run_path(str(LAUNCH.parent / file))["generate_launch_description"]()
        names = [entry.positional[0] for entry in described.positional[0][:-1]]
        words = [f"{name}:=x" for name in names]
        monkeypatch.setattr(sys, "argv", ["ros2", "launch", "vggt_ros", file, *words])
        launch()


def test_an_invalid_number_is_an_error(launch: Start):
    with pytest.raises(RuntimeError, match="window_size:=many: must be int"):
        launch(window_size="many")


def test_autostart_is_a_truth_value_and_as_in_the_file_where_it_is_not_given(launch: Start):
    (node,) = launch()
    assert "autostart" not in node.parameters[1]
    (node,) = launch(autostart="False")
    assert node.parameters[1]["autostart"] is False
    with pytest.raises(RuntimeError, match="autostart:=no: must be one of true, false"):
        launch(autostart="no")


@pytest.mark.skipif(not find_spec("launch_ros"), reason="needs launch_ros of apt ROS")
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
