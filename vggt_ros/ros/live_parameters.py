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
from vggt_ros.ros.frame_names import FRAMES, frame_name
from vggt_ros.ros.parameters import Parameters, choices


class LiveParameters:
    """The parameters of a running node; `now` is replaced whole whenever a change is accepted.

    Names of frames have no leading slash in it; `slashed` are those that were given with one.
    """

    def __init__(self, node: Node):
        given = {row.name: declare(node, row, choices(row)) for row in fields(Parameters)}
        self.now = validated(given)
        self.slashed = {name: given[name] for name in FRAMES if given[name].startswith("/")}
        node.add_on_set_parameters_callback(self._validate)
        node.add_post_set_parameters_callback(self._apply)

    def _validate(self, changes: list[Parameter]) -> SetParametersResult:
        try:
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
    return Parameters(**values | {name: frame_name(values[name]) for name in FRAMES})
