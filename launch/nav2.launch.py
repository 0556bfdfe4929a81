# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node and nav2 on one camera: `ros2 launch vggt_ros nav2.launch.py image:=/camera/image_raw`.

nav2 is started by its own navigation_launch.py of nav2_bringup. Its parameters are those of
nav2_params_file, with config/nav2_costmap.yaml laid over them: costmaps and collision monitor take
/vggt/points, /vggt/scan and /vggt/occupancy. No map server and no AMCL is needed. In a namespace
(namespace:=robot) both are in it, and so is /tf, as nav2 has it.
"""

import shlex
import tempfile
from pathlib import Path
from typing import Any

import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import PushROSNamespace, SetRemap
from launch_ros.utilities import make_namespace_absolute, prefix_namespace

HERE = Path(__file__).resolve().parent.parent  # share/vggt_ros, or a checkout
BOOLEANS = ["true", "false", "True", "False"]
OURS = {"nav2": "true", "nav2_params_file": "", "autostart": "true"}  # not the node's; defaults


def generate_launch_description() -> LaunchDescription:
    """Arguments of nav2; all others are those of vggt.launch.py."""

    def argument(name: str, about: str, default: str, **more):
        return DeclareLaunchArgument(name, default_value=default, description=about, **more)

    return LaunchDescription(
        [
            argument(
                "params_file",
                "Parameters of the node; arguments of vggt.launch.py override them",
                str(HERE / "config/nav2_robot.yaml"),
            ),
            argument(
                "nav2_params_file",
                "Parameters of nav2, under config/nav2_costmap.yaml; empty: nav2_bringup's own",
                OURS["nav2_params_file"],
            ),
            argument("use_sim_time", "Time from /clock, for both", "false", choices=BOOLEANS),
            argument(
                "autostart",
                "Whether nav2 becomes active at once",
                OURS["autostart"],
                choices=BOOLEANS,
            ),
            argument("nav2", "false: the node alone", OURS["nav2"], choices=BOOLEANS),
            OpaqueFunction(function=start),
        ]
    )


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The two launch files, with the values of the arguments."""
    arguments = dict(context.launch_configurations)
    ours = {name: value for name, value in arguments.items() if name not in OURS}
    ours["autostart"] = ""  # that of the node is as in params_file: nav2's manager leaves it alone
    changed = [f"{name}:={arguments[name]}" for name in OURS if arguments[name] != OURS[name]]
    ours["launch_line"] = shlex.join(["ros2", "launch", "vggt_ros", "nav2.launch.py", *changed])
    own = arguments.get("namespace", "")
    outer = arguments.get("ros_namespace")  # by a launch file that includes this one
    namespace = make_namespace_absolute(prefix_namespace(outer, own)).rstrip("/")
    # nav2 makes its /tf a relative name, which differs in a namespace alone.
    tf = [SetRemap(f"/{name}", name) for name in ("tf", "tf_static") if namespace]
    actions: list[LaunchDescriptionEntity] = [included(HERE / "launch/vggt.launch.py", ours, *tf)]
    if arguments["nav2"].lower() == "true":
        bringup = share_of("nav2_bringup")
        file = Path(arguments["nav2_params_file"] or bringup / "params/nav2_params.yaml")
        actions.append(
            included(
                bringup / "launch/navigation_launch.py",
                {
                    "params_file": str(written(with_ours(file.expanduser(), namespace))),
                    "use_sim_time": arguments["use_sim_time"],
                    "autostart": arguments["autostart"],
                    "namespace": namespace.strip("/"),  # of its parameters; its nodes have it so:
                },
                *([PushROSNamespace(own)] if own else []),
            )
        )
    return actions


def included(
    path: Path, arguments: dict[str, str], *before: LaunchDescriptionEntity
) -> GroupAction:
    """Another launch file, after actions for it; scoped: both have an argument params_file."""
    source = PythonLaunchDescriptionSource(str(path))
    include = IncludeLaunchDescription(source, launch_arguments=list(arguments.items()))
    return GroupAction([*before, include], scoped=True)


def share_of(package: str) -> Path:
    """Where a package is installed."""
    try:
        return Path(get_package_share_directory(package))
    except PackageNotFoundError:
        raise RuntimeError(
            f"{package} is not installed: `sudo apt install ros-$ROS_DISTRO-navigation2"
            " ros-$ROS_DISTRO-nav2-bringup`, or nav2:=false for the node alone"
        ) from None


def with_ours(file: Path, namespace: str) -> dict[str, Any]:
    """The parameters in a file of nav2, with those of config/nav2_costmap.yaml laid over them.

    The topics of the latter are those of the node in this namespace.
    """
    if not file.is_file():
        raise RuntimeError(f"nav2_params_file:={file}: there is no such file")
    ours = yaml.safe_load((HERE / "config/nav2_costmap.yaml").read_text())
    return merged(yaml.safe_load(file.read_text()), in_namespace(ours, namespace))


def in_namespace(tree: Any, namespace: str) -> Any:
    """Parameters, with topics of the node, /vggt/..., in its namespace."""
    if isinstance(tree, dict):
        return {key: in_namespace(value, namespace) for key, value in tree.items()}
    return f"{namespace}{tree}" if str(tree).startswith("/vggt/") else tree


def merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Two trees of parameters; where both have a value, that of the second."""
    both = {
        key: merged(under[key], over[key])
        for key in under.keys() & over.keys()
        if isinstance(under[key], dict) and isinstance(over[key], dict)
    }
    return {**under, **over, **both}


def written(parameters: dict[str, Any]) -> Path:
    """The parameters in a file of their own, which stays for as long as nav2 may read it."""
    with tempfile.NamedTemporaryFile("w", prefix="nav2_", suffix=".yaml", delete=False) as file:
        yaml.safe_dump(parameters, file)
    return Path(file.name)
