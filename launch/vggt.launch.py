# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node, and RViz if asked: `ros2 launch vggt_ros vggt.launch.py image:=/camera/image_raw`."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# (launch comes with ROS of apt alone)

import re
import shlex
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import yaml
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import EnvironmentVariable
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.utilities import make_namespace_absolute, prefix_namespace

HERE = Path(__file__).resolve().parent.parent  # share/vggt_ros, or a checkout

TOPICS = {
    "image": "sensor_msgs/Image of the camera (with image_transport:=compressed: its base name)",
    "camera_info": "sensor_msgs/CameraInfo of image; optional: the one beside image is read too",
    "odom": "nav_msgs/Odometry, for metric scale and map_to_odom; optional",
    "imu": "sensor_msgs/Imu, for the direction of gravity; optional",
    "scale_depth": "sensor_msgs/Image, metric depth of another sensor, for scale_source depth",
    "scale_depth_info": "CameraInfo of scale_depth, if it has a view of its own; optional",
    "scale_points": "sensor_msgs/PointCloud2 of a LiDAR, for scale_source depth",
    "baseline_image": "Image of a second camera, transported like image, for scale_source baseline",
    "baseline_camera_info": "CameraInfo of baseline_image, to undo its lens; optional",
    "mask": "sensor_msgs/Image mono8 of a segmentation node, not zero: ignored; optional",
    "initialpose": "PoseWithCovarianceStamped: where the robot is in a saved map; optional",
}
# Of each camera of a rig, as NAME/image, in place of those above: front/image:=/front/image_raw.
CAMERA_TOPICS = ("image", "camera_info", "mask")
# Topics in config/vggt.rviz, of a node without a namespace.
RVIZ_TOPICS = (
    "depth/image",
    "depth/confidence",
    "rgb/image_rect_color",
    "points",
    "window_points",
    "map_points",
    "path",
    "pose",
    "odometry",
    "keyframes",
    "scan",
    "occupancy",
)
# They override params_file where they are given. Types and descriptions as in the table of the
# parameters (vggt_ros/ros/parameters.py), which may not be importable where launch is.
PARAMETERS = {
    "autostart": (
        bool,
        "Configure and activate at the start; false: when a manager asks (ros2 lifecycle, nav2)",
    ),
    "model": (str, "Preset, Hugging Face id, file or folder"),
    "window_size": (int, "Frames in one inference; its cost grows faster than linearly"),
    "stride": (int, "New frames between two inferences"),
    "network_width": (
        int,
        "Width of the network's image in pixels; 0: what the model was made for",
    ),
    "min_confidence": (float, "Pixels below it are masked; 1 is 'no evidence'"),
    "image_transport": (
        str,
        "compressed: subscribe to <image>/compressed instead; a rig's camera that has nothing in"
        " the transport is read in the other; one of: raw, compressed",
    ),
    "image_reliability": (
        str,
        "Reliability of the subscriptions to images; auto: as their publishers offer it; one of: "
        "auto, best_effort, reliable",
    ),
    "intrinsics": (
        str,
        "Whose K is used and published: the network's, or camera_info's; auto: camera_info's "
        "wherever it comes and fits the image; one of: auto, model, camera_info",
    ),
    "rectify": (
        str,
        "Undo the lens by camera_info's D, R and P; auto: unless the image's topic has 'rect' or "
        "'rectified' in its name; off: images are rectified already; one of: auto, on, off",
    ),
    "cameras": (
        str,
        "Names of a rig's cameras, commas between: NAME/image and NAME/camera_info of each are "
        "read; empty: image, of one camera",
    ),
    "sync_tolerance": (
        float,
        "Seconds by which the stamps of a rig's images differ at most in one instant",
    ),
    "min_cameras": (
        int,
        "Cameras of a rig that an instant has at least; with fewer nothing is inferred",
    ),
    "scale_source": (
        str,
        "Sources of metric scale, most trusted first, commas between: fixed, baseline (a "
        "second camera on baseline_image), depth, odometry, height; none: units are arbitrary",
    ),
    "map": (
        str,
        "Folder of a saved map to start in: the camera is sought in it; empty: none. ~/load_map "
        "loads it at run time",
    ),
    "tf_mode": (
        str,
        "Transform on /tf; auto: camera, or where that has a parent, the root of its tree; one "
        "of: auto, none, camera, odom_to_base, map_to_odom",
    ),
    "tf_when_lost": (
        str,
        "Transform and ~/pose while the camera is not located: none, the last one, or predicted; "
        "one of: withhold, freeze, predict",
    ),
    "transform_tolerance": (
        float,
        "Seconds by which a transform above odometry is post-dated, as AMCL's is; 0: not",
    ),
    "transform_rate_hz": (
        float,
        "How often that transform is re-sent between images; 0: never",
    ),
    "tf_wait": (float, "Longest wait in seconds for a transform at an image's stamp"),
    "world_frame": (str, "Frame of the map: z up, x ahead of the first camera"),
    "base_frame": (str, "Frame of the robot's base, for odom_to_base and map_to_odom"),
    "odom_frame": (str, "Frame of the robot's odometry, for odom_to_base and map_to_odom"),
    "visual_odom_frame": (
        str,
        "Frame of ~/odometry, which no correction of the map moves; with odom_to_base: odom_frame",
    ),
    "camera_frame": (str, "Child of tf_mode camera; empty: the image's own frame_id"),
}
# Of Fast DDS 3 (Kilted and later), and of Fast DDS 2.
PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
BOOLEANS = ["true", "false", "True", "False"]
AS_IN_FILE = "empty: as in params_file"
OTHERS = ("namespace", "params_file", "use_sim_time", "rviz", "log_level", "fastdds_profile")
# Launch files whose arguments these are, and those that each has besides.
FILES = {"vggt.launch.py": (), "nav2.launch.py": ("nav2", "nav2_params_file")}


def generate_launch_description() -> LaunchDescription:
    """Arguments for what is often changed; the rest is in params_file."""

    def argument(name: str, about: str, default: str | EnvironmentVariable = "", **more):
        return DeclareLaunchArgument(name, default_value=default, description=about, **more)

    profile: str | EnvironmentVariable = str(HERE / "config/fastdds.xml")
    for name in reversed(PROFILE_VARIABLES):  # the first one that is set
        profile = EnvironmentVariable(name, default_value=profile)
    levels = ["debug", "info", "warn", "error", "fatal"]
    return LaunchDescription(
        [
            *(argument(name, about, name) for name, about in TOPICS.items()),
            argument("namespace", "Namespace of the node, and so of its topics"),
            argument("params_file", "Parameters of the node", str(HERE / "config/node.yaml")),
            *(argument(name, f"{about}; {AS_IN_FILE}") for name, (_, about) in PARAMETERS.items()),
            argument(
                "use_sim_time",
                f"Time from /clock (bags, simulators), for RViz too; {AS_IN_FILE}",
                choices=["", *BOOLEANS],
            ),
            argument(
                "rviz",
                "Start RViz with config/vggt.rviz",
                "false",
                choices=BOOLEANS,
            ),
            argument("log_level", "Log level of the node", "info", choices=levels),
            argument("fastdds_profile", "Fast DDS profiles for the node, or none", profile),
            OpaqueFunction(function=start),
        ]
    )


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The processes to start, with the values of the arguments."""
    arguments = context.launch_configurations
    params_file = Path(arguments["params_file"]).expanduser()
    profile = "" if arguments["fastdds_profile"] == "none" else arguments["fastdds_profile"]
    for name, path in {"params_file": str(params_file), "fastdds_profile": profile}.items():
        if path and not Path(path).is_file():
            raise RuntimeError(f"{name}:={path}: there is no such file")
    overrides = {name: typed(name, arguments[name]) for name in PARAMETERS if arguments[name]}
    # Set for each node: SetParameter would also affect the launch file that includes this one.
    clock = {"use_sim_time": arguments["use_sim_time"].lower() == "true"}
    clock = clock if arguments["use_sim_time"] else {}
    outer = arguments.get("ros_namespace")  # by a launch file that includes this one
    namespace = make_namespace_absolute(prefix_namespace(outer, arguments["namespace"])).rstrip("/")
    check_given(sys.argv, of_cameras(arguments, params_file, f"{namespace}/vggt"))
    actions: list[LaunchDescriptionEntity] = [
        Node(
            package="vggt_ros",
            executable="vggt_node",
            name="vggt",
            namespace=arguments["namespace"],
            parameters=[str(params_file), overrides | clock],
            remappings=[
                *((name, arguments[name]) for name in TOPICS),
                *of_cameras(arguments, params_file, f"{namespace}/vggt").items(),
            ],
            # For advice with a line to paste: the node shows it with other arguments.
            arguments=["--launch-line", launch_line(arguments, namespace)],
            additional_env=dict.fromkeys(PROFILE_VARIABLES, profile) if profile else {},
            ros_arguments=["--log-level", arguments["log_level"]],
            output="screen",
        ),
    ]
    if arguments["rviz"].lower() == "true":
        in_file = parameters_in(params_file, f"{namespace}/vggt").get("world_frame", "")
        cameras = camera_names(arguments, params_file, f"{namespace}/vggt")
        actions.append(rviz(arguments["world_frame"] or str(in_file), namespace, clock, cameras))
    return actions


def check_given(words: list[str], cameras: dict[str, str]) -> None:
    """Raises for an argument on the command line that nothing reads: launch itself says nothing.

    `words` are those of the command line, `cameras` the arguments of a rig's cameras. What another
    launch file is given that includes this one is its own, even if it has the same name.
    """
    pairs = zip(words, words[1:], strict=False)
    package, given = next((pair for pair in pairs if pair[1].endswith(".launch.py")), ("", ""))
    file, is_ours = Path(given).name, package == "vggt_ros" and "/" not in given
    if file not in FILES or not (is_ours or Path(given).resolve().parent == HERE / "launch"):
        return
    known = {*TOPICS, *PARAMETERS, *OTHERS, *FILES[file], *cameras}
    for word in words:
        name, is_given, _ = word.partition(":=")
        if is_given and name not in known:
            near = get_close_matches(name, known, 1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise RuntimeError(
                f"{word}: {file} has no such argument; {meant}--show-args lists them, and"
                " parameters of the node that are none go into a file for params_file, as in"
                f" {HERE / 'config/node.yaml'}"
            )


def camera_names(arguments: dict[str, str], params_file: Path, node: str) -> list[str]:
    """The cameras of a rig; none of a single one."""
    given = arguments["cameras"] or parameters_in(params_file, node).get("cameras", "")
    names = given.strip("[]").split(",") if isinstance(given, str) else map(str, given)
    return [stripped for name in names if (stripped := name.strip(" '\""))]


def of_cameras(arguments: dict[str, str], params_file: Path, node: str) -> dict[str, str]:
    """Remapped topics of a rig's cameras: front/image:=/front/image_raw, which no list declares."""
    names = camera_names(arguments, params_file, node)
    topics = (f"{name}/{topic}" for name in names for topic in CAMERA_TOPICS)
    return {topic: arguments[topic] for topic in topics if topic in arguments}


def rviz(world: str, prefix: str, clock: dict[str, bool], cameras: list[str]) -> Node:
    """RViz on the topics of the node in its namespace; `world` is empty for the default.

    Of a rig it shows what each of its cameras has.
    """
    config, shown = HERE / "config/vggt.rviz", list(RVIZ_TOPICS)
    if cameras:
        from vggt_ros.ros.rig.view_files import OWN, write_rviz

        config = write_rviz(HERE / "config", cameras, Path(mkdtemp(prefix="vggt_")) / "vggt.rviz")
        own = [topic for topic in shown if topic in OWN]
        shown += [f"{camera}/{topic}" for camera in cameras for topic in own]
    options = ["-d", str(config)]
    if world:
        options += ["-f", world.lstrip("/")]
    remappings = [(f"/vggt/{topic}", f"{prefix}/vggt/{topic}") for topic in shown if prefix]
    return Node(
        package="rviz2",
        executable="rviz2",
        arguments=options,
        parameters=[clock] if clock else [],
        remappings=remappings,
    )


def launch_line(arguments: dict[str, str], namespace: str) -> str:
    """The line that starts the same, with the arguments that differ from their defaults."""
    defaults = {name: name for name in TOPICS} | dict.fromkeys(PARAMETERS, "")
    defaults |= {"params_file": str(HERE / "config/node.yaml"), "use_sim_time": ""}
    defaults |= {"rviz": "false", "log_level": "info"}
    given = [f"namespace:={namespace}"] if namespace else []
    for name, default in defaults.items():
        if arguments[name] != default:
            given.append(f"{name}:={arguments[name]}")
    cameras = of_cameras(arguments, Path(arguments["params_file"]), f"{namespace}/vggt")
    given += [f"{topic}:={remapped}" for topic, remapped in cameras.items()]
    line = arguments.get("launch_line", "ros2 launch vggt_ros vggt.launch.py")  # or as included
    return " ".join([line, *map(shlex.quote, given)])


def parameters_in(file: Path, node: str) -> dict[str, Any]:
    """What a file of parameters has for a node, such as /left/vggt; of equal names the last."""
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, UnicodeError, yaml.YAMLError):  # the node says what is wrong with it
        return {}
    found: dict[str, Any] = {}
    for key, values in sections(content):
        if matches(key, node):
            found |= values
    return found


def sections(content: Any, outer: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Keys of nodes, such as /** or /left/vggt, and their parameters."""
    for name, inner in content.items() if isinstance(content, dict) else ():
        if name == "ros__parameters" and isinstance(inner, dict):
            yield outer, inner
        else:
            yield from sections(inner, f"{outer}/{str(name).strip('/')}")


def matches(key: str, node: str) -> bool:
    """As rcl does it: * stands for one part of a name, ** for any number of them."""
    wild = {"**": r"(/\w+)*", "*": r"/\w+"}
    parts = [wild.get(part, f"/{re.escape(part)}") for part in key.strip("/").split("/")]
    return re.fullmatch("".join(parts), node) is not None


def typed(name: str, text: str) -> bool | int | float | ParameterValue:
    """The value of a parameter in its own type: 518 may be a string, and 1 a float."""
    kind, _ = PARAMETERS[name]
    if kind is bool:
        if text not in BOOLEANS:
            raise RuntimeError(f"{name}:={text}: must be one of {', '.join(BOOLEANS)}")
        return text.lower() == "true"
    if kind is str:
        return ParameterValue(text, value_type=str)
    try:
        return kind(text)
    except ValueError:
        raise RuntimeError(f"{name}:={text}: must be {kind.__name__}") from None
