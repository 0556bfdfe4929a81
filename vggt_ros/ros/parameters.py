# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The one table of the node's parameters: declared, validated, changed and documented from it."""

from dataclasses import Field, dataclass, field, fields
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from vggt_ros.imaging.calibration import Rectify
from vggt_ros.ros.contradictions import check, shape_of
from vggt_ros.ros.rig.names import camera_names
from vggt_ros.settings import Settings, setting, settings_field
from vggt_ros.windows.instants import TOLERANCE


def _shared(name: str) -> Any:
    """The row of a field of `Settings`, whose description stands there."""
    row = settings_field(name)
    return field(default=row.default, metadata=row.metadata)


@dataclass(frozen=True)
class Parameters:
    """Parameters of the node, validated.  Numbers lie in their range.

    Raises `UserError` for values that contradict each other.
    """

    # The life cycle.
    autostart: bool = setting(
        True,
        "Configure and activate at the start; false: when a manager asks (ros2 lifecycle, nav2)",
    )

    bond_timeout: float = setting(
        4.0,
        "Without autostart: seconds without the manager's heartbeat on topic bond until that is a"
        " warning; 0: no bond",
        between=(0.0, 3600.0),
    )  # fmt: skip

    # The network.
    model: str = setting("small", "Preset, Hugging Face id, file or folder")
    dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "Number format of the network; auto: bfloat16 on accelerators, float32 on CPUs"
    )
    layout: Literal["auto", "joint", "view_time", "dual_stream", "sparse_global"] = setting(
        "auto",
        "How the images of a window attend to each other (docs/layouts.md); auto: as the weights"
        " say. view_time is for the cameras of a rig",
    )
    device: str = setting("auto", "JAX platform (cpu, gpu); auto: the first one available")
    cache_dir: str = setting(
        "~/.cache/vggt_ros", "Directory of compiled programs, for fast starts; empty: none"
    )
    memory_fraction: float = setting(
        0.5, "Share of the accelerator's memory that may be taken", between=(0.05, 1.0)
    )
    seed: int = setting(
        0, "Seed of the weights of presets that have random ones", between=(0, 2**31 - 1)
    )

    # The window.
    window_size: int = _shared("window_size")
    stride: int = _shared("stride")
    max_rate_hz: float = setting(
        0.0, "Frames per second that are used at most, by their stamps; 0: all",
        between=(0.0, 1000.0), live=True,
    )  # fmt: skip
    depth_frames: int = _shared("depth_frames")
    network_width: int = _shared("network_width")

    keyframes: bool = _shared("keyframes")
    track_queries: int = _shared("track_queries")

    # The map.
    loops: bool = _shared("loops")
    loop_period: int = _shared("loop_period")
    max_keyframes: int = _shared("max_keyframes")

    # The scale.
    scale_source: str = _shared("scale_source")
    camera_height: float = _shared("camera_height")
    fixed_scale: float = _shared("fixed_scale")

    # The camera.
    image_transport: Literal["raw", "compressed"] = setting(
        "raw",
        "compressed: subscribe to <image>/compressed instead; a rig's camera that has nothing in"
        " the transport is read in the other",
    )
    image_reliability: Literal["auto", "best_effort", "reliable"] = setting(
        "auto", "Reliability of the subscriptions to images; auto: as their publishers offer it"
    )
    image_size: str = setting(
        "",
        "WIDTHxHEIGHT of the camera's images, to compile before the first one comes; empty: when it"
        " comes",
    )
    mono16_bits: int = _shared("mono16_bits")
    mono16_black: int = _shared("mono16_black")
    intrinsics: Literal["auto", "model", "camera_info"] = _shared("intrinsics")
    rectify: Rectify = _shared("rectify")

    # A rig of several cameras.
    cameras: str = setting(
        "",
        "Names of a rig's cameras, commas between: NAME/image and NAME/camera_info of each are"
        " read; empty: image, of one camera",
    )
    sync_tolerance: float = setting(
        TOLERANCE, "Seconds by which the stamps of a rig's images differ at most in one instant",
        between=(0.0, 1.0),
    )  # fmt: skip
    min_cameras: int = setting(
        1, "Cameras of a rig that an instant has at least; with fewer nothing is inferred",
        between=(1, 16),
    )  # fmt: skip

    # What is ignored.
    mask_file: str = _shared("mask_file")
    mask_sky: bool = _shared("mask_sky")
    mask_network: Literal["none", "box"] = _shared("mask_network")
    mask_wait: float = setting(
        0.1, "Longest wait in seconds for the message on mask of an image's stamp",
        between=(0.0, 60.0),
    )  # fmt: skip

    # What is published.
    min_confidence: float = _shared("min_confidence")
    min_agreement: int = setting(
        0,
        "How many other views, of the window and the last before it, must see a point of ~/points"
        " at its depth; 0: none",
        between=(0, 4), live=True,
    )  # fmt: skip
    agreement_tolerance: float = setting(
        0.1, "Relative difference of depth up to which another view agrees with a point",
        between=(0.001, 1.0), live=True,
    )  # fmt: skip
    depth_resolution: Literal["network", "input"] = setting(
        "network", "Pixel grid of depth, confidence, rgb: the network's or the camera's", live=True
    )
    window_points_step: int = setting(
        3, "~/window_points takes every n-th row and column", between=(1, 32), live=True
    )
    path_length: int = setting(
        10_000, "Poses kept in ~/path; older ones are discarded", between=(1, 1_000_000), live=True
    )

    # The map.
    map_voxel: float = setting(
        0.05, "Side of a voxel of ~/map_points in world units; 0: no map is kept",
        between=(0.0, 100.0),
    )  # fmt: skip
    map_points_max: int = setting(
        500_000,
        "Number of points above which the map's voxels double their side",
        between=(1000, 20_000_000),
    )
    scan_min_height: float = setting(
        0.1, "Metres above base_frame where obstacles of ~/scan and ~/occupancy begin",
        between=(-10.0, 100.0), live=True,
    )  # fmt: skip
    scan_max_height: float = setting(
        1.6, "Metres above base_frame where they end", between=(-10.0, 100.0), live=True
    )
    scan_max_range: float = setting(
        5.0, "Metres that ~/scan and the rays of ~/occupancy reach", between=(0.1, 1000.0),
        live=True,
    )  # fmt: skip
    map_clearing: bool = setting(
        True, "Clear voxels that later views see through: what has moved leaves the map", live=True
    )
    map_fusion: bool = setting(
        True, "Move views in ~/map_points to the surface that older ones see", live=True
    )
    map_period: float = setting(
        2.0,
        "Shortest time in seconds between two ~/map_points, or two ~/occupancy",
        between=(0.1, 3600.0),
        live=True,
    )
    map_path: str = setting(
        "~/vggt_map",
        "Folder that ~/save_map writes, for parameter map; if it ends in .ply: the cloud alone",
        live=True,
    )
    map_directory: str = setting(
        "",
        "Folder below which map_path and map must lie when they are set at run time; empty: those"
        " that hold them at the start; none: they cannot be set",
    )
    map: str = setting(
        "",
        "Folder of a saved map to start in: the camera is sought in it; empty: none. ~/load_map"
        " loads it at run time",
        live=True,
    )
    mapping: bool = setting(True, "false: localise in the loaded map, and leave it as it is")

    # Frames.
    world_frame: str = setting("vggt_world", "Frame of the map: z up, x ahead of the first camera")
    base_frame: str = setting(
        "base_link", "Frame of the robot's base, for odom_to_base and map_to_odom"
    )
    odom_frame: str = setting(
        "odom", "Frame of the robot's odometry, for odom_to_base and map_to_odom"
    )
    visual_odom_frame: str = setting(
        "vggt_odom",
        "Frame of ~/odometry, which no correction of the map moves; with odom_to_base: odom_frame",
    )
    camera_frame: str = setting("", "Child of tf_mode camera; empty: the image's own frame_id")
    tf_mode: Literal["auto", "none", "camera", "odom_to_base", "map_to_odom"] = setting(
        "auto", "Transform on /tf; auto: camera, or where that has a parent, the root of its tree"
    )
    tf_when_lost: Literal["withhold", "freeze", "predict"] = setting(
        "withhold",
        "Transform and ~/pose while the camera is not located: none, the last one, or predicted",
    )

    transform_tolerance: float = setting(
        0.0,
        "Seconds by which a transform above odometry is post-dated, as AMCL's is; 0: not",
        between=(0.0, 10.0),
    )
    transform_rate_hz: float = setting(
        0.0, "How often that transform is re-sent between images; 0: never", between=(0.0, 200.0)
    )
    tf_wait: float = setting(
        0.2, "Longest wait in seconds for a transform at an image's stamp", between=(0.0, 5.0)
    )

    def __post_init__(self) -> None:
        check(self)

    @property
    def image_shape(self) -> tuple[int, int] | None:
        """Width and height of `image_size`; None where it is empty.  Raises `UserError`."""
        return shape_of(self.image_size)

    @property
    def odometry_frame(self) -> str:
        """Frame of ~/odometry: in mode odom_to_base it is `odom_frame`."""
        return self.odom_frame if self.tf_mode == "odom_to_base" else self.visual_odom_frame

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Of a rig; empty: one camera."""
        return camera_names(self.cameras)

    def settings(self) -> Settings:
        """The pipeline's settings.  Raises `UserError` where they contradict each other."""
        shared = {row.name for row in fields(Settings)} & {row.name for row in fields(self)}
        return Settings(**{name: getattr(self, name) for name in shared})


@cache
def _type_hints() -> dict[str, Any]:
    return get_type_hints(Parameters)


def choices(row: Field) -> tuple[str, ...]:
    """The texts that a parameter may have; empty: any."""
    hint = _type_hints()[row.name]
    return get_args(hint) if get_origin(hint) is Literal else ()


def markdown() -> str:
    """The table of the README, a row for each parameter."""
    lines = [
        "| parameter | default | values | at run time | description |",
        "|---|---|---|---|---|",
    ]
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
    return {str: "string", int: "integer", float: "number", bool: "true, false"}[type(row.default)]
