# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One launch for nav2: our parameters over nav2's own, our node beside nav2's own launch file."""

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import pytest
import yaml
from launch_rig import fake_launch, fake_modules

from vggt_ros.ros.interface import OUTPUTS
from vggt_ros.ros.parameters import Parameters

pytestmark = pytest.mark.ros

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = ROOT / "launch/nav2.launch.py"
COSTMAP = yaml.safe_load((ROOT / "config/nav2_costmap.yaml").read_text())
ROBOT = yaml.safe_load((ROOT / "config/nav2_robot.yaml").read_text())["/**"]["ros__parameters"]
THEIRS = {
    "controller_server": {"ros__parameters": {"controller_frequency": 20.0}},
    "local_costmap": {
        "local_costmap": {
            "ros__parameters": {
                "update_frequency": 5.0,
                "plugins": ["obstacle_layer"],
                "voxel_layer": {"observation_sources": "scan", "publish_voxel_map": True},
            }
        }
    },
}


class NotFound(Exception):
    """What ament says of a package that is not installed."""


Done = list[list[tuple[str, ...]]]  # arguments of the actions before each launch file
Start = Callable[..., list[tuple[Path, dict[str, str]]]]


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """A nav2_bringup with parameters of its own."""
    (tmp_path / "params").mkdir()
    (tmp_path / "params/nav2_params.yaml").write_text(yaml.safe_dump(THEIRS))
    return tmp_path


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch, share: Path) -> Start:
    """The launch files that are included for these arguments, each with its own arguments."""
    fake_launch(monkeypatch)
    names = {"ament_index_python": "", "ament_index_python.packages": ""}
    modules = fake_modules(monkeypatch, names)

    def share_of(package: str) -> str:
        if package != "nav2_bringup" or not share.exists():
            raise NotFound
        return str(share)

    packages = vars(modules["ament_index_python.packages"])
    packages |= {"PackageNotFoundError": NotFound, "get_package_share_directory": share_of}
    launch_file = run_path(str(LAUNCH))

    def start(done: Done | None = None, **arguments: str) -> list[tuple[Path, dict[str, str]]]:
        done = [] if done is None else done
        declared = launch_file["generate_launch_description"]().positional[0]
        defaults = {d.positional[0]: d.default_value for d in declared if d.positional}
        context = SimpleNamespace(launch_configurations={**defaults, **arguments})
        found = []
        for group in launch_file["start"](context):
            assert group.scoped
            ((*before, include),) = group.positional
            done.append([action.positional for action in before])
            (source,) = include.positional
            found.append((Path(source.positional[0]), dict(include.launch_arguments)))
        return found

    return start


def test_the_node_and_nav2_s_own_launch_file_are_started(launch: Start, share: Path):
    (ours, arguments), (theirs, of_nav2) = launch(image="/camera/image_raw", use_sim_time="true")
    assert ours == ROOT / "launch/vggt.launch.py"
    assert arguments["image"] == "/camera/image_raw"
    assert arguments["params_file"] == str(ROOT / "config/nav2_robot.yaml")
    assert not {"nav2", "nav2_params_file"} & set(arguments)
    assert arguments["autostart"] == "", "as in params_file, whatever nav2's is"
    assert theirs == share / "launch/navigation_launch.py"
    assert (of_nav2["use_sim_time"], of_nav2["autostart"]) == ("true", "true")


def test_advice_starts_this_launch_file_again(launch: Start, tmp_path: Path):
    """The node shows the line with other parameters; see vggt.launch.py."""
    (_, plain), _ = launch()
    assert plain["launch_line"] == "ros2 launch vggt_ros nav2.launch.py"
    ((_, alone),) = launch(nav2="false", autostart="false")
    assert alone["launch_line"] == f"{plain['launch_line']} nav2:=false autostart:=false"


def test_our_parameters_lie_over_those_of_nav2(launch: Start):
    _, (_, of_nav2) = launch()
    found = yaml.safe_load(Path(of_nav2["params_file"]).read_text())
    assert found["controller_server"] == THEIRS["controller_server"]
    assert found["global_costmap"] == COSTMAP["global_costmap"]
    local = found["local_costmap"]["local_costmap"]["ros__parameters"]
    ours = COSTMAP["local_costmap"]["local_costmap"]["ros__parameters"]
    assert local["update_frequency"] == 5.0 and local["voxel_layer"]["publish_voxel_map"] is True
    assert local["plugins"] == ours["plugins"]
    assert local["voxel_layer"]["vggt"] == ours["voxel_layer"]["vggt"]


@pytest.mark.parametrize(
    ("outer", "own", "whole"),
    [(None, "robot", "/robot"), ("/fleet", "robot", "/fleet/robot"), ("/fleet", "", "/fleet")],
)
def test_in_a_namespace_both_are_in_it_with_tf(launch: Start, outer, own: str, whole: str):
    """nav2's file takes `namespace` for its parameters alone; its nodes must be put into it."""
    done: Done = []
    arguments = {"namespace": own} | ({"ros_namespace": outer} if outer else {})
    (_, ours), (_, of_nav2) = launch(done, **arguments)
    assert ours["namespace"] == own and of_nav2["namespace"] == whole.strip("/")
    assert done == [[("/tf", "tf"), ("/tf_static", "tf_static")], [(own,)] if own else []]
    found = yaml.safe_load(Path(of_nav2["params_file"]).read_text())
    topics = set(re.findall(r"'([\w/]*/vggt/[\w/]+)'", str(found)))
    assert topics == {f"{whole}/vggt/{name}" for name in ("points", "scan", "occupancy")}


def test_without_a_namespace_tf_is_global(launch: Start):
    done: Done = []
    _, (_, of_nav2) = launch(done)
    assert done == [[], []] and of_nav2["namespace"] == ""


def test_another_file_of_parameters_and_the_node_alone(launch: Start, tmp_path: Path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"planner_server": {"mine": 1}}))
    _, (_, of_nav2) = launch(nav2_params_file=str(tmp_path / "mine.yaml"))
    assert yaml.safe_load(Path(of_nav2["params_file"]).read_text())["planner_server"] == {"mine": 1}
    assert len(launch(nav2="false")) == 1
    with pytest.raises(RuntimeError, match="nav2_params_file:=/nowhere.yaml: there is no such"):
        launch(nav2_params_file="/nowhere.yaml")


def test_without_nav2_the_error_says_what_to_install(launch: Start, share: Path, monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda path: False)
    with pytest.raises(RuntimeError, match="ros-nav2-bringup|nav2-bringup.*nav2:=false"):
        launch()


def test_parameters_beside_nav2_are_valid_and_topics_exist():
    assert Parameters(**ROBOT).tf_mode == "map_to_odom"
    assert set(ROBOT) <= {row.name for row in fields(Parameters)}
    topics = re.findall(r"/vggt/([\w/]+)$", (ROOT / "config/nav2_costmap.yaml").read_text(), re.M)
    assert set(topics) == {"points", "scan", "occupancy"}
    assert {f"~/{topic}" for topic in topics} <= {row.name for row in OUTPUTS}
    assert (
        COSTMAP["global_costmap"]["global_costmap"]["ros__parameters"]["global_frame"]
        == (ROBOT["world_frame"])
    )


def test_every_source_of_a_costmap_names_the_heights_that_nav2_would_set_to_zero():
    """Of a source both are 0.0 in nav2: a point a little above z = 0 would neither mark nor clear.

    The layer's own are 0.0 and 2.0, and hold for its marks as well.
    """
    parameters = [
        COSTMAP[name][name]["ros__parameters"] for name in ("local_costmap", "global_costmap")
    ]
    layers = [
        layer
        for each in parameters
        for layer in each.values()
        if isinstance(layer, dict) and "observation_sources" in layer
    ]
    assert len(layers) == 2
    for layer in layers:
        low, high = layer.get("min_obstacle_height", 0.0), layer.get("max_obstacle_height", 2.0)
        for name in layer["observation_sources"].split():
            source = layer[name]
            assert low <= source["min_obstacle_height"] < source["max_obstacle_height"] <= high
            if source["data_type"] == "LaserScan":  # at z = 0 of base_link, which is not the map's
                assert source["min_obstacle_height"] < 0.0 < source["max_obstacle_height"]


def test_nav2_gets_a_transform_for_now():
    """As docs/consumers.md has it; else the controller finds map -> odom too old."""
    assert ROBOT["transform_tolerance"] > 0.1 and ROBOT["transform_rate_hz"] >= 10.0
    page = (ROOT / "docs/consumers.md").read_text()
    (block,) = re.findall(r"```yaml\n(/\*\*:.*?)```", page, re.DOTALL)
    shown = yaml.safe_load(block)["/**"]["ros__parameters"]
    assert {name: ROBOT[name] for name in shown} == shown
