# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node, and RViz if asked: `ros2 launch vggt_ros vggt.launch.py image:=/camera/image_raw`."""

from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import EnvironmentVariable
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.utilities import make_namespace_absolute, prefix_namespace

HERE = Path(__file__).resolve().parent.parent  # share/vggt_ros, or a checkout

TOPICS = {
    "image": "sensor_msgs/Image to look at (with image_transport:=compressed: its base name)",
    "camera_info": "sensor_msgs/CameraInfo of that image; need not be there",
    "odom": "nav_msgs/Odometry for metres and map_to_odom; need not be there",
    "imu": "sensor_msgs/Imu, which knows where up is; need not be there",
    "scale_depth": "sensor_msgs/Image, metric depth of the same picture, for scale_source depth",
    "scale_points": "sensor_msgs/PointCloud2 of a LiDAR, for scale_source depth",
    "baseline_image": "The rig's second camera, transported as image, for scale_source baseline",
}
# What config/vggt.rviz shows, in a node without a namespace.
SHOWN = (
    "depth/image",
    "depth/confidence",
    "rgb/image_rect_color",
    "points",
    "window_points",
    "map_points",
    "path",
    "pose",
    "odometry",
)
# Given, they win over params_file; not given, the file decides.
PARAMETERS = {
    "model": (str, "Preset, Hugging Face id, file or folder"),
    "window_size": (int, "Frames that are looked at together"),
    "stride": (int, "New frames between two looks"),
    "network_width": (int, "Width of the network's picture in pixels, a multiple of 14"),
    "min_confidence": (float, "Pixels below it are masked; 1 is 'no evidence'"),
    "image_transport": (str, "raw or compressed"),
    "intrinsics": (str, "model: the network's own, camera_info: the driver's"),
    "scale_source": (str, "none, or what makes metres: fixed, baseline, depth, odometry, height"),
    "tf_mode": (str, "auto, none, camera, odom_to_base or map_to_odom"),
    "world_frame": (str, "Frame of the map"),
}
YES_OR_NO = ["true", "false", "True", "False"]
AS_IN_FILE = "empty: as in params_file"


def generate_launch_description() -> LaunchDescription:
    """Everything a robot changes often is an argument; the rest is in params_file."""

    def argument(name: str, about: str, default: str | EnvironmentVariable = "", **more):
        return DeclareLaunchArgument(name, default_value=default, description=about, **more)

    profile = EnvironmentVariable(
        "FASTRTPS_DEFAULT_PROFILES_FILE", default_value=str(HERE / "config/fastdds.xml")
    )
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
                choices=["", *YES_OR_NO],
            ),
            argument("rviz", "Start RViz with config/vggt.rviz", "false", choices=YES_OR_NO),
            argument("log_level", "How much the node says", "info", choices=levels),
            argument("fastdds_profile", "Fast DDS profiles for the node, or none", profile),
            OpaqueFunction(function=start),
        ]
    )


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The processes, once the arguments have values."""
    given = context.launch_configurations
    params_file = Path(given["params_file"]).expanduser()
    profile = "" if given["fastdds_profile"] == "none" else given["fastdds_profile"]
    for name, path in {"params_file": str(params_file), "fastdds_profile": profile}.items():
        if path and not Path(path).is_file():
            raise RuntimeError(f"{name}:={path}: there is no such file")
    overrides = {name: typed(name, given[name]) for name in PARAMETERS if given[name]}
    # Handed to each node: SetParameter would reach the nodes of whoever includes this file.
    clock = {"use_sim_time": given["use_sim_time"].lower() == "true"}
    clock = clock if given["use_sim_time"] else {}
    actions: list[LaunchDescriptionEntity] = [
        Node(
            package="vggt_ros",
            executable="vggt_node",
            name="vggt",
            namespace=given["namespace"],
            parameters=[str(params_file), overrides | clock],
            remappings=[(name, given[name]) for name in TOPICS],
            additional_env={"FASTRTPS_DEFAULT_PROFILES_FILE": profile} if profile else {},
            ros_arguments=["--log-level", given["log_level"]],
            output="screen",
        ),
    ]
    if given["rviz"].lower() == "true":
        actions.append(rviz(given, clock))
    return actions


def rviz(given: dict[str, str], clock: dict[str, bool]) -> Node:
    """RViz on the topics of this node, wherever its namespace puts them."""
    arguments = ["-d", str(HERE / "config/vggt.rviz")]
    if given["world_frame"]:
        arguments += ["-f", given["world_frame"]]
    pushed = given.get("ros_namespace")  # by a launch file that includes this one
    prefix = make_namespace_absolute(prefix_namespace(pushed, given["namespace"])).rstrip("/")
    moved = [(f"/vggt/{topic}", f"{prefix}/vggt/{topic}") for topic in SHOWN if prefix]
    return Node(
        package="rviz2",
        executable="rviz2",
        arguments=arguments,
        parameters=[clock] if clock else [],
        remappings=moved,
    )


def typed(name: str, text: str) -> int | float | ParameterValue:
    """The value of a parameter, of its own type: 518 may be a model, and 1 a confidence."""
    kind, _ = PARAMETERS[name]
    if kind is str:
        return ParameterValue(text, value_type=str)
    try:
        return kind(text)
    except ValueError:
        raise RuntimeError(f"{name}:={text}: must be {kind.__name__}") from None
