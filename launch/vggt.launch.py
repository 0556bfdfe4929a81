# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node, and RViz if asked: `ros2 launch vggt_ros vggt.launch.py image:=/camera/image_raw`."""

from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import EnvironmentVariable
from launch_ros.actions import Node, SetParameter
from launch_ros.parameter_descriptions import ParameterValue

HERE = Path(__file__).resolve().parent.parent  # share/vggt_ros, or a checkout

TOPICS = {
    "image": "sensor_msgs/Image to look at (with image_transport:=compressed: its base name)",
    "camera_info": "sensor_msgs/CameraInfo of that image; need not be there",
}
# What config/vggt.rviz shows, in a node without a namespace.
SHOWN = ("depth/image", "rgb/image_rect_color", "points", "window_points", "path")
# Given, they win over params_file; not given, the file decides.
PARAMETERS = {
    "model": (str, "Preset (random weights), Hugging Face id, file or folder"),
    "window_size": (int, "Frames that are looked at together"),
    "stride": (int, "New frames between two looks"),
    "network_width": (int, "Width of the network's picture in pixels, a multiple of 14"),
    "min_confidence": (float, "Pixels below it are masked; 1 is 'no evidence'"),
    "image_transport": (str, "raw or compressed"),
    "intrinsics": (str, "model: the network's own, camera_info: the driver's"),
    "tf_mode": (str, "auto, none, camera, odom_to_base or map_to_odom"),
    "world_frame": (str, "Frame of the map"),
}


def generate_launch_description() -> LaunchDescription:
    """Everything a robot changes often is an argument; the rest is in params_file."""

    def argument(name: str, about: str, default: str | EnvironmentVariable = "", **more):
        return DeclareLaunchArgument(name, default_value=default, description=about, **more)

    truth = {"choices": ["true", "false"]}
    profile = EnvironmentVariable(
        "FASTRTPS_DEFAULT_PROFILES_FILE", default_value=str(HERE / "config/fastdds.xml")
    )
    return LaunchDescription(
        [
            *(argument(name, about, name) for name, about in TOPICS.items()),
            argument("odom", "nav_msgs/Odometry for metric scale; need not be there", "odom"),
            argument(
                "baseline_image",
                "Second camera's image for scale_source baseline",
                "baseline_image",
            ),
            argument("namespace", "Namespace of the node, and so of its topics"),
            argument("params_file", "Parameters of the node", str(HERE / "config/node.yaml")),
            *(
                argument(name, f"{about}; empty: as in params_file")
                for name, (_, about) in PARAMETERS.items()
            ),
            argument("use_sim_time", "Time from /clock (bags, simulators)", "false", **truth),
            argument("rviz", "Start RViz with config/vggt.rviz", "false", **truth),
            argument("log_level", "debug, info, warn, error or fatal", "info"),
            argument("fastdds_profile", "Fast DDS profiles for the node; empty: none", profile),
            OpaqueFunction(function=start),
        ]
    )


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The processes, once the arguments have values."""
    given = context.launch_configurations
    namespace, profile = given["namespace"], given["fastdds_profile"]
    params_file = Path(given["params_file"]).expanduser()
    files = {"params_file": params_file, "fastdds_profile": Path(profile or params_file)}
    for name, path in files.items():
        if not path.exists():
            raise RuntimeError(f"{name}:={path}: there is no such file")
    overrides = {name: typed(name, given[name]) for name in PARAMETERS if given[name]}
    actions: list[LaunchDescriptionEntity] = [
        SetParameter("use_sim_time", given["use_sim_time"] == "true"),
        Node(
            package="vggt_ros",
            executable="vggt_node",
            name="vggt",
            namespace=namespace,
            parameters=[str(params_file), overrides],
            remappings=[(name, given[name]) for name in (*TOPICS, "odom", "baseline_image")],
            additional_env={"FASTRTPS_DEFAULT_PROFILES_FILE": profile} if profile else {},
            ros_arguments=["--log-level", given["log_level"]],
            output="screen",
        ),
    ]
    if given["rviz"] == "true":
        arguments = ["-d", str(HERE / "config/vggt.rviz")]
        if given["world_frame"]:
            arguments += ["-f", given["world_frame"]]
        prefix = f"/{namespace.strip('/')}" if namespace.strip("/") else ""
        moved = [(f"/vggt/{topic}", f"{prefix}/vggt/{topic}") for topic in SHOWN if prefix]
        actions.append(
            Node(package="rviz2", executable="rviz2", arguments=arguments, remappings=moved)
        )
    return actions


def typed(name: str, text: str) -> int | float | ParameterValue:
    """The value of a parameter, of its own type: 518 may be a model, and 1 a confidence."""
    kind, _ = PARAMETERS[name]
    if kind is str:
        return ParameterValue(text, value_type=str)
    try:
        return kind(text)
    except ValueError:
        raise RuntimeError(f"{name}:={text}: must be {kind.__name__}") from None
