# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A row of a table of parameters as a parameter of a node: with its description and its range."""

from dataclasses import Field
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterException,
)
from rclpy.node import Node

from vggt_ros.errors import UserError

LISTED = ("cameras",)  # texts that may be given as a list of texts


def declare(node: Node, row: Field, allowed: tuple[str, ...]) -> Any:
    """The value that the node starts with; `allowed`: the texts it may be, empty: any.

    Raises `UserError` for one of another type, or out of range.
    """
    try:
        return node.declare_parameter(row.name, row.default, _descriptor(row, allowed)).value
    except InvalidParameterTypeException as error:
        kind = {
            str: "a string",
            int: "an integer",
            float: "a floating-point number",
            bool: "true or false",
        }
        raise UserError(
            f"{row.name} must be {kind[type(row.default)]}, such as {row.default!r}: {error}"
        ) from error
    except (InvalidParameterValueException, ParameterException) as error:
        raise UserError(str(error)) from error


def _descriptor(row: Field, allowed: tuple[str, ...]) -> ParameterDescriptor:
    rule = row.metadata
    descriptor = ParameterDescriptor(description=rule["about"], read_only=not rule["live"])
    if allowed:
        descriptor.dynamic_typing = "on" in allowed  # which YAML reads as true
        descriptor.additional_constraints = "one of: " + ", ".join(allowed)
    if row.name in LISTED:
        descriptor.dynamic_typing = True
    if rule["between"] and isinstance(row.default, float):
        low, high = rule["between"]
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    elif rule["between"]:
        low, high = rule["between"]
        descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=rule["step"])]
    return descriptor
