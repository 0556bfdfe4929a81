# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The parameters of a running node: declared, and replaced whole when a change is accepted."""

from dataclasses import fields
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from vggt_ros.errors import UserError
from vggt_ros.ros.declaring import declare
from vggt_ros.ros.file_parameters import check_files
from vggt_ros.ros.frame_names import FRAMES, frame_name
from vggt_ros.ros.parameters import Parameters, choices
from vggt_ros.ros.rig.names import camera_list


def refusal(node: Node, changes: list[Parameter]) -> str:
    """Why parameters that are read at the start are not changed; empty where none of these is.

    rclpy names the parameter and neither reason nor cure.
    """
    fixed = [p.name for p in changes if _is_fixed(node, p) and not _is_equal(node, p)]
    if not fixed:
        return ""
    return (
        f"read-only: {', '.join(fixed)} {'is' if len(fixed) == 1 else 'are'} read at the start of"
        " the node, for what is compiled, subscribed or sent by it; set it in params_file or as a"
        " launch argument, and start the node again"
    )


def to_apply(node: Node, changes: list[Parameter]) -> list[Parameter]:
    """Without what is read at the start and as it was: so `ros2 param load` takes any dump."""
    return [p for p in changes if not (_is_fixed(node, p) and _is_equal(node, p))]


def _is_fixed(node: Node, change: Parameter) -> bool:
    return node.has_parameter(change.name) and node.describe_parameter(change.name).read_only


def _is_equal(node: Node, change: Parameter) -> bool:
    known = node.get_parameter(change.name)
    return (known.type_, known.value) == (change.type_, change.value)


class LiveParameters:
    """The parameters of a running node; `now` is replaced whole whenever a change is accepted.

    Names of frames have no leading slash in it; `slashed` are those that were given with one.
    """

    def __init__(self, node: Node):
        given = {row.name: declare(node, row, choices(row)) for row in fields(Parameters)}
        self.now = self._start = validated(given)
        self.slashed = {name: given[name] for name in FRAMES if given[name].startswith("/")}
        node.add_on_set_parameters_callback(self._validate)
        node.add_post_set_parameters_callback(self._apply)

    def _validate(self, changes: list[Parameter]) -> SetParametersResult:
        try:
            check_files(self._start, self.now, {p.name: p.value for p in changes})
            self._changed(changes)
        except UserError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _apply(self, changes: list[Parameter]) -> None:
        self.now = self._changed(changes)

    def _changed(self, changes: list[Parameter]) -> Parameters:
        ours = {row.name for row in fields(Parameters)}
        return validated(vars(self.now) | {p.name: p.value for p in changes if p.name in ours})


def validated(values: dict[str, Any]) -> Parameters:
    """The parameters.  Raises `UserError` for a text that is none of its choices."""
    for row in fields(Parameters):
        allowed, value = choices(row), values[row.name]
        if isinstance(value, bool) and "on" in allowed:  # as YAML reads a plain on or off
            value = values[row.name] = "on" if value else "off"
        if allowed and value not in allowed:
            raise UserError(f"{row.name} is '{value}'; choose one of: {', '.join(allowed)}")
    values = values | {name: frame_name(values[name]) for name in FRAMES}
    return Parameters(**values | {"cameras": camera_list(values["cameras"])})
