# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Every parameter of the node, once: this table is declared, checked, changed and documented."""

from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterException,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from vggt_ros.errors import UserError
from vggt_ros.settings import Settings


def _parameter(
    default: Any,
    about: str,
    *,
    between: tuple[int | float, int | float] | None = None,
    step: int = 0,
    live: bool = False,
) -> Any:
    """One row: `between` and `step` bound numbers, `live` ones may change while the node runs."""
    row = {"about": about, "between": between, "step": step, "live": live}
    return field(default=default, metadata=row)


@dataclass(frozen=True)
class Parameters:
    """What a robot may set.  Texts are chosen from their `Literal`; numbers lie in their range."""

    # The network.
    model: str = _parameter("small", "Preset, Hugging Face id, file or folder")
    dtype: Literal["auto", "float32", "bfloat16"] = _parameter(
        "auto", "Number format of the network; auto: bfloat16 on accelerators, float32 on CPUs"
    )
    device: str = _parameter("auto", "JAX platform (cpu, gpu); auto takes the first that is there")
    cache_dir: str = _parameter(
        "~/.cache/vggt_ros", "Where compiled programs are kept for the next start; empty: nowhere"
    )
    memory_fraction: float = _parameter(
        0.5, "Share of the accelerator's memory that may be taken", between=(0.05, 1.0)
    )
    seed: int = _parameter(
        0, "Seed of random weights, for presets without others", between=(0, 2**31 - 1)
    )

    # The window.
    window_size: int = _parameter(4, "Frames that are looked at together", between=(1, 64))
    stride: int = _parameter(1, "New frames between two looks", between=(1, 64))
    max_rate_hz: float = _parameter(
        0.0, "Most frames a second (by their stamps) that are used; 0: all", between=(0.0, 1000.0),
        live=True,
    )  # fmt: skip
    network_width: int = _parameter(
        0, "Width of the network's picture in pixels; 0: what the model was made for",
        between=(0, 2044), step=14,
    )  # fmt: skip

    keyframes: bool = _parameter(
        True, "The newest frame gives way to the next while it shows nothing new (standstill)"
    )

    # The scale.
    scale_source: str = _parameter(
        "none",
        "What makes metres, most trusted first, commas between: fixed, baseline (a second camera on"
        " baseline_image), depth, odometry, height; none: units are arbitrary",
    )
    camera_height: float = _parameter(
        0.0, "Metres from the ground to the camera, for scale_source height", between=(0.0, 1000.0)
    )
    fixed_scale: float = _parameter(
        0.0, "Metres per unit of the first window, for scale_source fixed", between=(0.0, 1e6)
    )

    # The camera.
    image_transport: Literal["raw", "compressed"] = _parameter(
        "raw", "compressed subscribes to <image>/compressed instead"
    )
    image_reliability: Literal["best_effort", "reliable"] = _parameter(
        "best_effort", "Reliability of the image and camera_info subscriptions"
    )
    intrinsics: Literal["model", "camera_info"] = _parameter(
        "model",
        "Whose K is used and published: the network's, or camera_info's (K, never P; D is ignored:"
        " feed rectified images)",
    )

    # What is published.
    min_confidence: float = _parameter(
        1.5, "Pixels below it are masked; 1 is 'no evidence'", between=(0.0, 1e6), live=True
    )
    depth_resolution: Literal["network", "input"] = _parameter(
        "network", "Pixel grid of depth, confidence, rgb: the network's or the camera's", live=True
    )
    window_points_step: int = _parameter(
        3, "~/window_points takes every n-th row and column", between=(1, 32), live=True
    )
    path_length: int = _parameter(
        10_000, "Poses kept in ~/path; the oldest go first", between=(1, 1_000_000), live=True
    )

    # The map.
    map_voxel: float = _parameter(
        0.05, "Side of a voxel of ~/map_points in world units; 0: no map is kept",
        between=(0.0, 100.0),
    )  # fmt: skip
    map_points_max: int = _parameter(
        500_000, "Points at which the map's voxels double their side", between=(1000, 20_000_000)
    )
    map_period: float = _parameter(
        2.0, "Least seconds between two ~/map_points", between=(0.1, 3600.0), live=True
    )
    map_path: str = _parameter("~/vggt_map.ply", "Where ~/save_map writes the map", live=True)

    # Frames.
    world_frame: str = _parameter(
        "vggt_world", "Frame of the map: z up, x as the first camera looks"
    )
    base_frame: str = _parameter("base_link", "The robot's body, for odom_to_base and map_to_odom")
    odom_frame: str = _parameter("odom", "The robot's odometry, for odom_to_base and map_to_odom")
    camera_frame: str = _parameter("", "Child of tf_mode camera; empty: the image's own frame_id")
    tf_mode: Literal["auto", "none", "camera", "odom_to_base", "map_to_odom"] = _parameter(
        "auto", "Which transform goes to /tf; auto: camera, unless that frame already has a parent"
    )

    tf_wait: float = _parameter(
        0.2, "Longest wait in seconds for a transform at an image's stamp", between=(0.0, 5.0)
    )

    def __post_init__(self) -> None:
        self.settings()

    @property
    def map_frame(self) -> str:
        """What the world is called: in mode odom_to_base it is the odometry's own frame."""
        return self.odom_frame if self.tf_mode == "odom_to_base" else self.world_frame

    def settings(self) -> Settings:
        """The part that the pipeline knows.  Raises `UserError` where it does not hold together."""
        shared = {row.name for row in fields(Settings)} & {row.name for row in fields(self)}
        return Settings(**{name: getattr(self, name) for name in shared})


class LiveParameters:
    """The parameters of a running node; `now` is replaced whole whenever a change is accepted."""

    def __init__(self, node: Node):
        self.now = _judged({row.name: _declare(node, row) for row in fields(Parameters)})
        node.add_on_set_parameters_callback(self._judge)
        node.add_post_set_parameters_callback(self._take)

    def _judge(self, changes: list[Parameter]) -> SetParametersResult:
        try:
            self._with(changes)
        except UserError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _take(self, changes: list[Parameter]) -> None:
        self.now = self._with(changes)

    def _with(self, changes: list[Parameter]) -> Parameters:
        ours = {row.name for row in fields(Parameters)}
        return _judged(vars(self.now) | {p.name: p.value for p in changes if p.name in ours})


def _judged(values: dict[str, Any]) -> Parameters:
    """The parameters, unless a text is none of its choices, which a `UserError` then names."""
    for row in fields(Parameters):
        allowed, value = choices(row), values[row.name]
        if allowed and value not in allowed:
            raise UserError(f"{row.name} is '{value}'; choose one of: {', '.join(allowed)}")
    return Parameters(**values)


def choices(row: Field) -> tuple[str, ...]:
    """The texts that a parameter may be, empty where it is free."""
    hint = get_type_hints(Parameters)[row.name]
    return get_args(hint) if get_origin(hint) is Literal else ()


def _declare(node: Node, row: Field) -> Any:
    try:
        return node.declare_parameter(row.name, row.default, _descriptor(row)).value
    except InvalidParameterTypeException as error:
        kind = {
            str: "a text",
            int: "an integer",
            float: "a number with a point",
            bool: "true or false",
        }
        raise UserError(
            f"{row.name} must be {kind[type(row.default)]}, such as {row.default!r}: {error}"
        ) from error
    except (InvalidParameterValueException, ParameterException) as error:
        raise UserError(str(error)) from error


def _descriptor(row: Field) -> ParameterDescriptor:
    rule = row.metadata
    descriptor = ParameterDescriptor(description=rule["about"], read_only=not rule["live"])
    if allowed := choices(row):
        descriptor.additional_constraints = "one of: " + ", ".join(allowed)
    if rule["between"] and isinstance(row.default, float):
        low, high = rule["between"]
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    elif rule["between"]:
        low, high = rule["between"]
        descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=rule["step"])]
    return descriptor


def markdown() -> str:
    """The table as the README shows it."""
    lines = ["| parameter | default | values | at run time | what it is |", "|---|---|---|---|---|"]
    for row in fields(Parameters):
        default = f"`{row.default}`" if row.default != "" else "empty"
        live = "yes" if row.metadata["live"] else "-"
        about = row.metadata["about"]
        lines.append(f"| `{row.name}` | {default} | {_values(row)} | {live} | {about} |")
    return "\n".join(lines) + "\n"


def _values(row: Field) -> str:
    if allowed := choices(row):
        return ", ".join(allowed)
    if row.metadata["between"]:
        low, high = row.metadata["between"]
        step = f", step {row.metadata['step']}" if row.metadata["step"] else ""
        return f"{low:g} to {high:g}{step}"
    return {str: "text", int: "integer", float: "number", bool: "true, false"}[type(row.default)]
