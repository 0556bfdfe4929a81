# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""User settings of the pipeline, validated.

Each field carries its description and range once: the node's parameters, the options of the
commands and the README's table take them from here.
"""

from dataclasses import Field, dataclass, field, fields
from math import isfinite
from typing import Any, Literal

from vggt_ros.errors import UserError
from vggt_ros.imaging.calibration import Rectify
from vggt_ros.imaging.grid import Grid, grid_for
from vggt_ros.imaging.masks import Masking
from vggt_ros.mapping.metric.scale import parse_sources

OF_SOURCES = {"height": "camera_height", "fixed": "fixed_scale"}  # settings of sources of scale


def setting(
    default: Any,
    about: str,
    *,
    between: tuple[int | float, int | float] | None = None,
    step: int = 0,
    live: bool = False,
) -> Any:
    """A described field: `between` and `step` bound numbers, `live` ones may change while used."""
    row = {"about": about, "between": between, "step": step, "live": live}
    return field(default=default, metadata=row)


@dataclass(frozen=True)
class Settings:
    """User settings of the pipeline; raises `UserError` for values that contradict each other."""

    window_size: int = setting(
        4, "Frames in one inference; its cost grows faster than linearly", between=(1, 64)
    )
    stride: int = setting(1, "New frames between two inferences", between=(1, 64))
    depth_frames: int = setting(
        0,
        "Newest frames of a window whose depth is computed; 0: all but the oldest. Fewer cost less,"
        " and the map's scale drifts more",
        between=(0, 64),
    )
    network_width: int = setting(
        0, "Width of the network's image in pixels; 0: what the model was made for",
        between=(0, 2044), step=14,
    )  # fmt: skip
    min_confidence: float = setting(
        1.5, "Pixels below it are masked; 1 is 'no evidence'", between=(0.0, 1e6), live=True
    )
    intrinsics: Literal["auto", "model", "camera_info"] = setting(
        "auto",
        "Whose K is used and published: the network's, or camera_info's; auto: camera_info's"
        " wherever it comes and fits the image",
    )
    rectify: Rectify = setting(
        "auto",
        "Undo the lens by camera_info's D, R and P; auto: unless the image's topic has 'rect' or"
        " 'rectified' in its name; off: images are rectified already",
    )
    mono16_bits: int = setting(
        0,
        "Significant bits of images with 16 bits a sample (mono16, colours, Bayer); 0: all 16, with"
        " a notice where few are used",
        between=(0, 16),
    )
    mono16_black: int = setting(
        0,
        "Sample of images with 16 bits that is black, for cameras with an offset (thermal ones)",
        between=(0, 65535),
    )
    mask_file: str = setting(
        "",
        "Image whose pixels that are not zero are ignored in every frame (the robot's own body);"
        " empty: none",
    )
    mask_sky: bool = setting(
        False, "Ignore the sky, by its colours from the upper rim down; outdoors and by day only"
    )
    mask_network: Literal["none", "box"] = setting(
        "none", "box: cover what is masked, in boxes around it, in what the network sees as well"
    )
    keyframes: bool = setting(
        True, "Replace the newest frame by the next one while it shows nothing new (standstill)"
    )
    loops: bool = setting(
        True,
        "Compare the camera with old keyframes (an extra view in an inference): closes loops, and"
        " finds the camera again after a loss",
    )
    loop_period: int = setting(
        5, "Inferences from one such comparison to the next, while tracking", between=(1, 10_000)
    )
    max_keyframes: int = setting(
        2000,
        "Keyframes that are kept; beyond, the most redundant are removed",
        between=(10, 100_000),
    )
    track_queries: int = setting(
        16,
        "Queried points whose tracks are prepared from the start (compiled in the background, after"
        " all else); more, or 0: the first query waits for it",
        between=(0, 1024),
    )
    scale_source: str = setting(
        "none",
        "Sources of metric scale, most trusted first, commas between: fixed, baseline (a second"
        " camera on baseline_image), depth, odometry, height; none: units are arbitrary",
    )
    camera_height: float = setting(
        0.0, "Metres from the ground to the camera, for scale_source height", between=(0.0, 1000.0)
    )
    fixed_scale: float = setting(
        0.0, "Metres per unit of the first window, for scale_source fixed", between=(0.0, 1e6)
    )

    def __post_init__(self) -> None:
        sources = parse_sources(self.scale_source)
        for row in fields(self):
            value = getattr(self, row.name)
            if isinstance(value, float) and not isfinite(value):
                raise UserError(f"{row.name} is {value}; give a number")
        for source, name in OF_SOURCES.items():
            if source in sources and not getattr(self, name) > 0:
                raise UserError(f"scale_source {source} needs {name}: set it to a positive number")
        if not 1 <= self.window_size:
            raise UserError(f"window_size is {self.window_size}; it must be 1 or more")
        if not 1 <= self.stride <= self.window_size:
            raise UserError(
                f"stride is {self.stride}; it must be between 1 and window_size"
                f" ({self.window_size})"
            )
        if not 0 <= self.depth_frames <= self.window_size:
            raise UserError(
                f"depth_frames is {self.depth_frames}; it must be between 1 and window_size"
                f" ({self.window_size}), or 0: all but the oldest frame"
            )
        if "baseline" in sources and self.window_size == self.stride:
            raise UserError(
                "scale_source baseline needs window_size >= 2 and more than stride: windows that"
                " share no frame make no map that could have a scale"
            )

    @property
    def sources(self) -> tuple[str, ...]:
        """Sources of metric scale, most trusted first."""
        return parse_sources(self.scale_source)

    @property
    def has_map(self) -> bool:
        """Whether windows share frames: without, nothing ties them to each other."""
        return self.window_size > self.stride

    @property
    def cautions(self) -> tuple[str, ...]:
        """What is not used as it was given, with what is used instead; for the user."""
        found, used = [], self.frames_with_depth
        if self.depth_frames not in (0, used):
            reason = "the oldest frame gets none, since an extra view may stand before it"
            if self.depth_frames < used:
                reason = "all frames that are new get depth"
                if self.has_map:
                    reason += f" (stride {self.stride}), and one that ties them to the map"
            found.append(
                f"depth_frames is {self.depth_frames}, but {used} of window_size {self.window_size}"
                f" are used: {reason}"
            )
        for source, name in OF_SOURCES.items():
            if getattr(self, name) > 0 and source not in self.sources:
                found.append(
                    f"{name} is {getattr(self, name):g}, but not used: scale_source is"
                    f" '{self.scale_source}'; add {source} to it"
                )
        return tuple(found)

    def masking(self) -> Masking:
        """All masks of a camera.  Raises `UserError` where `mask_file` cannot be read."""
        return Masking(self.mask_file, sky=self.mask_sky, cover=self.mask_network == "box")

    @property
    def no_loops(self) -> str:
        """Why no loop is sought though the user asked for loops; empty: they are, or were not."""
        if not self.loops or self.has_map:
            return ""
        return (
            f"no loop is sought: window_size {self.window_size} is not above stride {self.stride},"
            " so that windows share no frame and make no map; raise window_size, or set loops to"
            " false"
        )

    def check_relocalises(self) -> None:
        """Raise `UserError` where a camera cannot be found in a loaded map."""
        if not (self.loops and self.has_map):
            raise UserError(
                "no map can be loaded, since loops are what finds the camera in it: set loops to"
                " true, and window_size above stride"
            )

    @property
    def extra_views(self) -> int:
        """Images in one inference besides the window: now and then one."""
        return int("baseline" in self.sources or (self.loops and self.has_map))

    @property
    def frames_with_depth(self) -> int:
        """Newest frames that get depth: the new ones, and at least one that ties them to the map.

        By default all but the oldest, before which an extra view may stand.
        """
        most = self.window_size - 1
        asked = min(self.depth_frames or most, most)
        return min(self.window_size, max(self.stride + 1, asked))

    def grid(self, input_width: int, input_height: int, default_width: int) -> Grid:
        """The network's pixel grid for a camera's image; `default_width` is the network's own.

        Raises `UserError` for an image whose size leaves no row of patches.
        """
        return grid_for(input_width, input_height, self.network_width or default_width)


def settings_field(name: str) -> Field:
    """The field of `Settings` of this name, for whatever mirrors it."""
    return next(row for row in fields(Settings) if row.name == name)
