# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the node promises to others: topics, services, frames and keys of diagnostics.

Parameters are declared in `parameters.py`. docs/interface.md and the SROS2 policy are made from
these tables, and a running node is compared with them.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Topic(NamedTuple):
    """A topic by the name that the node uses for it: ~/ is the node's own, / is absolute."""

    name: str
    kind: str  # type, such as sensor_msgs/msg/Image
    reliability: str  # reliable, best_effort, or auto: as the publishers offer it
    depth: int  # messages in the queue
    about: str
    kept: bool = False  # transient local: a late subscriber gets the last message too
    needs: str = ""  # when the topic exists; empty: always


class Service(NamedTuple):
    """A service that the node offers."""

    name: str
    kind: str
    about: str


class Transform(NamedTuple):
    """A transform on /tf; `parent` and `child` are parameters that name frames."""

    mode: str  # of tf_mode; auto is as camera
    parent: str
    child: str
    about: str


class Status(NamedTuple):
    """A status of /diagnostics, named `<node>: <part>`; the one without a part sums up.

    `sometimes` are keys of some settings or events; capitals in them stand for any text.
    """

    part: str
    about: str
    keys: Sequence[str]  # once there was an inference
    sometimes: Sequence[str] = ()


IMAGE, INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo"
CLOUD, TF = "sensor_msgs/msg/PointCloud2", "tf2_msgs/msg/TFMessage"
TRIGGER = "std_srvs/srv/Trigger"


def _output(name: str, kind: str, about: str, *, kept: bool = False) -> Topic:
    return Topic(f"~/{name}", kind, "reliable", 1 if kept else 5, about, kept)


BASELINE = "scale_source has baseline"
DEPTH = "scale_source has depth"
COMPRESSED = (
    "with image_transport compressed: sensor_msgs/msg/CompressedImage on <topic>/compressed"
)
BOND = Topic(
    "bond", "bond/msg/Status", "reliable", 100, "Heartbeats of node and manager",
    needs="autostart is false, bond_timeout above 0, and bond is installed",
)  # fmt: skip
INPUTS = (
    Topic(
        "image", IMAGE, "auto", 5,
        f"The camera, {COMPRESSED}; raw images of 4 MB and more have a queue of 1",
    ),
    Topic(
        "camera_info", INFO, "best_effort", 1,
        "Its calibration, of a latched topic too; not remapped and without publisher: camera_info"
        " beside image",
    ),
    Topic("odom", "nav_msgs/msg/Odometry", "best_effort", 50, "For metres, bridging and TF"),
    Topic("imu", "sensor_msgs/msg/Imu", "best_effort", 50, "Direction of gravity"),
    Topic("mask", IMAGE, "auto", 5, "Not zero: ignored in the image of its stamp"),
    Topic(
        "initialpose", "geometry_msgs/msg/PoseWithCovarianceStamped", "reliable", 10,
        "Where base_frame is in world_frame, to find the camera faster in a saved map",
    ),
    Topic("~/query_points", "vggt_ros/msg/QueryPoints", "reliable", 10, "Pixels to track"),
    Topic("scale_depth", IMAGE, "auto", 5, "Metric depth of another sensor", needs=DEPTH),
    Topic("scale_points", CLOUD, "auto", 5, "Points of a LiDAR", needs=DEPTH),
    Topic(
        "scale_depth_info", INFO, "auto", 10,
        "Calibration of scale_depth; camera_info beside scale_depth is read too", needs=DEPTH,
    ),
    Topic(
        "baseline_image", IMAGE, "auto", 5, f"The second camera, {COMPRESSED}", needs=BASELINE
    ),
    Topic(
        "baseline_camera_info", INFO, "auto", 10,
        "Its calibration; camera_info beside baseline_image is read too", needs=BASELINE,
    ),
    Topic("/tf", TF, "reliable", 2000, "The robot's frames", needs="tf2_msgs is installed"),
    Topic(
        "/tf_static", TF, "reliable", 100, "The robot's fixed frames", kept=True,
        needs="tf2_msgs is installed",
    ),
    BOND,
    Topic(
        "/clock", "rosgraph_msgs/msg/Clock", "best_effort", 1, "Simulated time",
        needs="use_sim_time",
    ),
)  # fmt: skip
OUTPUTS = (
    _output("depth/image", IMAGE, "32FC1: z in world units, NaN where not trusted"),
    _output("depth/camera_info", INFO, "Of the pixel grid of ~/depth/image"),
    _output("depth/confidence", IMAGE, "32FC1 of that grid, from 1 (no evidence) upwards"),
    _output("rgb/image_rect_color", IMAGE, "rgb8 of that grid"),
    _output("rgb/camera_info", INFO, "Of the pixel grid of ~/rgb/image_rect_color"),
    _output("points", CLOUD, "Organised; x y z rgb confidence, in the camera's frame"),
    _output("window_points", CLOUD, "The trusted points of the window, in world_frame"),
    _output("map_points", CLOUD, "The voxels of the map, in world_frame", kept=True),
    _output("pose", "geometry_msgs/msg/PoseStamped", "The newest camera, in world_frame"),
    _output("path", "nav_msgs/msg/Path", "Every registered camera, corrected", kept=True),
    _output(
        "odometry", "nav_msgs/msg/Odometry", "Pose and velocity in visual_odom_frame; never jumps"
    ),
    _output("scan", "sensor_msgs/msg/LaserScan", "Obstacles by their height, from above"),
    _output("occupancy", "nav_msgs/msg/OccupancyGrid", "The map from above", kept=True),
    _output("tracks", "vggt_ros/msg/PointTracks", "Queried points in pixels of the input image"),
    _output("status", "vggt_ros/msg/MapStatus", "State of the map, and why", kept=True),
    _output(
        "keyframes", "visualization_msgs/msg/MarkerArray",
        "Keyframes, loops, and the state as text", kept=True,
    ),
    Topic("/tf", TF, "reliable", 100, "By tf_mode", needs="tf_mode is not none"),
    Topic(
        "/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", "reliable", 10, "Every second"
    ),
    BOND._replace(depth=5),
)  # fmt: skip
# One for each camera of a rig, in place of the node's own of that name.
OF_A_CAMERA = (
    "image", "camera_info", "mask", "~/depth/image", "~/depth/camera_info", "~/depth/confidence",
    "~/rgb/image_rect_color", "~/rgb/camera_info", "~/points",
)  # fmt: skip


def of_rig(topics: Sequence[Topic], cameras: Sequence[str]) -> tuple[Topic, ...]:
    """The topics of a node with these cameras, none for a single one, of those of a single one."""
    if not cameras:
        return tuple(topics)
    shared = tuple(t for t in topics if t.name not in OF_A_CAMERA and t.needs != BASELINE)
    own = (t for t in topics if t.name in OF_A_CAMERA)
    return (*shared, *(t._replace(name=of_camera(t.name, name)) for t in own for name in cameras))


def of_camera(topic: str, camera: str) -> str:
    """The name of a camera's own topic."""
    return f"~/{camera}/{topic[2:]}" if topic.startswith("~/") else f"{camera}/{topic}"


# Of every managed node of rclpy; a security policy must allow them too.
RCLPY_OUTPUTS = (
    Topic(
        "~/transition_event",
        "lifecycle_msgs/msg/TransitionEvent",
        "reliable",
        10,
        "Every change of the life cycle's state",
    ),
    Topic("/parameter_events", "rcl_interfaces/msg/ParameterEvent", "reliable", 1000, "Changes"),
    Topic("/rosout", "rcl_interfaces/msg/Log", "reliable", 1000, "The log", kept=True),
)

SERVICES = (
    Service("~/reset", TRIGGER, "Empties window, tracks, path and map; the network stays"),
    Service("~/save_map", TRIGGER, "Writes the map to map_path"),
    Service("~/load_map", TRIGGER, "Starts again in the map that parameter map names"),
)
_PARAMETERS = (
    "DescribeParameters", "GetParameterTypes", "GetParameters", "ListParameters", "SetParameters",
    "SetParametersAtomically",
)  # fmt: skip
RCLPY_SERVICES = (
    *(
        Service(
            "~/" + "".join(f"_{c.lower()}" if c.isupper() else c for c in kind).strip("_"),
            f"rcl_interfaces/srv/{kind}",
            "Parameters",
        )
        for kind in _PARAMETERS
    ),
    Service(
        "~/get_type_description",
        "type_description_interfaces/srv/GetTypeDescription",
        "Types of messages",
    ),
    *(
        Service(f"~/{name}", f"lifecycle_msgs/srv/{kind}", "Life cycle")
        for name, kind in (
            ("change_state", "ChangeState"),
            ("get_state", "GetState"),
            ("get_available_states", "GetAvailableStates"),
            ("get_available_transitions", "GetAvailableTransitions"),
            ("get_transition_graph", "GetAvailableTransitions"),
        )
    ),
)

TRANSFORMS = (
    Transform(
        "camera", "world_frame", "camera_frame",
        "camera_frame empty: the image's frame_id; with auto, if that has a parent, its rigid"
        " tree's top, or world_frame below the robot's root",
    ),
    Transform("camera", "world_frame", "visual_odom_frame", "Frame of ~/odometry"),
    Transform("odom_to_base", "odom_frame", "base_frame", "Never jumps"),
    Transform("odom_to_base", "odom_frame", "world_frame", "Jumps where the map is corrected"),
    Transform("map_to_odom", "world_frame", "odom_frame", "Jumps where the map is corrected"),
    Transform("map_to_odom", "world_frame", "visual_odom_frame", "Frame of ~/odometry"),
)  # fmt: skip

_MAP_KEYS = (
    "map state", "segment", "segments", "keyframes", "loops closed", "loops tried", "loop closure",
    "registration residual", "registration noise", "registration inlier share", "registration",
    "map reason", "windows refused", "windows refused lately", "windows doubtful",
)  # fmt: skip
STATUSES = (
    Status(
        "", "Sums up; its message names every problem",
        (
            "state", "image rate [Hz]", "inference rate [Hz]", "latency mean [ms]", "map state",
            "scale", "tf", "last problem",
        ),
    ),
    Status(
        "input", "What arrives",
        (
            "images received", "image rate [Hz]", "stamp age [s]", "images used", "dropped",
            "dropped lately", "left in the middleware", "skipped by max_rate_hz",
            "waiting for a program", "images refused", "discarded by a reset", "refused", "camera",
        ),
        ("camera NAME", "images of NAME", "instants"),
    ),
    Status(
        "topics", "Rate and age of what is read, by the node's names of its inputs",
        (), ("INPUT rate [Hz]", "INPUT age [s]"),
    ),
    Status("settings", "What is not used as it was given", ()),
    Status(
        "network", "Model, device and what is compiled",
        (
            "model", "layout", "device", "dtype", "weights", "tracks", "lifecycle", "state",
            "compiling", "inferences", "inference rate [Hz]", "window", "memory",
        ),
        ("windows as one sequence", "windows as one sequence lately", "as one sequence"),
    ),
    Status(
        "timing", "Of the last inference, by part and by topic",
        (
            "latency mean [ms]", "latency p99 [ms]", "latency max [ms]", "resize [ms]",
            "network [ms]", "geometry [ms]",
            *(f"{topic.name[2:]} [ms]" for topic in OUTPUTS if topic.name.startswith("~/")),
        ),
        ("NAME/TOPIC [ms]",),
    ),
    Status("map", "State of the map and of the newest window", _MAP_KEYS),
    Status(
        "scale", "Whether units are metres",
        (
            "scale", "scale source", "network's focal length against camera_info",
            "world levelled by",
        ),
        (
            "scale correction due", "scale sigma", "scale age [s]", "scale conflict",
            "second camera",
        ),
    ),
    Status("tf", "What is sent to /tf, and where a rig's cameras stand", ("tf",), ("rig NAME",)),
    Status("masks", "What is ignored", ("masked pixels",)),
    Status("outputs", "What is published", ("agreement", "map points", "occupancy")),
    Status(
        "events", "Refusals and notices, counted since the start",
        ("last error", "last notice"),
        (
            "last error age [s]", "second last error", "second last error age [s]",
            "third last error", "third last error age [s]", "last notice age [s]",
            "second last notice", "second last notice age [s]", "third last notice",
            "third last notice age [s]", "refused: KIND", "noticed: KIND",
        ),
    ),
)  # fmt: skip
