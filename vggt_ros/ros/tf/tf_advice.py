# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Lines to paste into a terminal, for whom the tree of frames is not as the node needs it."""

import shlex
import sys
from pathlib import Path

from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.tf.tf_cache import TF_STATIC, TfCache

LAUNCH_LINE = "--launch-line"  # of vggt.launch.py: the line that starts this node follows


def restart_line(**parameters: str) -> str:
    """The line that started this node, with other parameters."""
    given = [f"{name}:={value}" for name, value in parameters.items()]
    program, *words = sys.argv
    if LAUNCH_LINE in words[:-1]:
        words = shlex.split(words[words.index(LAUNCH_LINE) + 1])
        kept = [word for word in words if word.partition(":=")[0] not in parameters]
        return shlex.join([*kept, *given])
    if Path(program).name != "vggt_node":
        words = []
    changes = [word for each in given for word in ("-p", each)]
    return shlex.join(["ros2", "run", "vggt_ros", "vggt_node", *words, "--ros-args", *changes])


def mount_line(tree: TfCache, parent: str, child: str) -> str:
    """The line that ties a camera's tree to the robot's, at zero distance."""
    words = ["--frame-id", parent, "--child-frame-id", child]
    if tree.static_topic != TF_STATIC:
        words += ["--ros-args", "-r", f"{TF_STATIC}:={tree.static_topic}"]
    return f"ros2 run tf2_ros static_transform_publisher {shlex.join(words)}"


def mode_for(parameters: Parameters, ancestors: tuple[str, ...]) -> dict[str, str]:
    """The `tf_mode`, and its frames, for a camera with these ancestors in the robot's tree."""
    root = ancestors[-1]
    if root == parameters.odom_frame:
        return {"tf_mode": "map_to_odom"}
    if parameters.base_frame in ancestors and parameters.odom_frame not in ancestors:
        base = {} if root == parameters.base_frame else {"base_frame": root}
        return {"tf_mode": "odom_to_base", **base}
    return {"tf_mode": "auto"}


def missing_link(parameters: Parameters, tree: TfCache, camera: str, frame: str) -> str:
    """Why `frame`, the robot's base or odometry, is not known in the camera's tree, and a cure."""
    ancestors, base = tree.ancestors(camera), parameters.base_frame
    if frame in ancestors:
        return (
            f"/tf has no {frame} -> {camera} at the image's stamp: are transforms sent as often as"
            " images, by the same clock? To wait longer for them, restart with"
            f" `{restart_line(tf_wait='1.0')}`"
        )
    if base in ancestors and frame != base:
        return (
            f"nothing places {base} in {frame}; where there is no other odometry, restart with"
            f" `{restart_line(tf_mode='odom_to_base')}`"
        )
    if tree.is_known(base) or len(ancestors) == 1:
        return (
            f"nothing connects the camera with {base}: publish where it is mounted, as in"
            f" `{mount_line(tree, base, ancestors[-1])}` with its x y z yaw pitch roll"
        )
    return (
        f"no node publishes {base}, and the camera's tree begins at {ancestors[-1]}; restart with"
        f" `{restart_line(base_frame=ancestors[-1])}`"
    )
