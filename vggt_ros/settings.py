# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a person may choose of the pipeline; refuses what does not hold together."""

from dataclasses import dataclass
from typing import Literal

from vggt_ros.errors import UserError
from vggt_ros.imaging.grid import Grid, grid_for
from vggt_ros.mapping.scale import listen_to


@dataclass(frozen=True)
class Settings:
    """What a person may choose; the node's parameters and the commands' options mirror it."""

    window_size: int = 4  # frames looked at together; cost grows faster than linearly
    stride: int = 1  # new frames between two looks
    network_width: int = 0  # network pixels; 0 is the width the model was made for
    min_confidence: float = 1.5  # points below it are masked; 1 means "no evidence"
    intrinsics: Literal["model", "camera_info"] = "model"
    keyframes: bool = True  # at stride 1, the newest frame gives way while it shows nothing new
    scale_source: str = "none"  # names of `scale.SOURCES`, the most trusted first
    camera_height: float = 0.0  # metres above the ground, for source height
    fixed_scale: float = 0.0  # metres per unit of the first window, for source fixed

    def __post_init__(self) -> None:
        sources = listen_to(self.scale_source).trusted
        for source, name in (("height", "camera_height"), ("fixed", "fixed_scale")):
            if source in sources and not getattr(self, name) > 0:
                raise UserError(f"scale_source {source} needs {name}: set it to a positive number")
        if not 1 <= self.window_size:
            raise UserError(f"window_size is {self.window_size}; it must be 1 or more")
        if not 1 <= self.stride <= self.window_size:
            raise UserError(
                f"stride is {self.stride}; it must be between 1 and window_size"
                f" ({self.window_size})"
            )
        if "baseline" in sources and self.window_size == self.stride:
            raise UserError(
                "scale_source baseline needs window_size >= 2 and more than stride: windows that"
                " share no frame make no map that could have a scale"
            )

    @property
    def most_frames(self) -> int:
        """Pictures in one look at most: with a baseline, now and then the second camera's too."""
        return self.window_size + ("baseline" in listen_to(self.scale_source).trusted)

    @property
    def depth_frames(self) -> int:
        """Newest frames that get depth: the new ones, and one that ties them to the last window."""
        return min(self.window_size, self.stride + 1)

    def grid(self, input_width: int, input_height: int, default_width: int) -> Grid:
        """Where the network looks at a camera's picture; `default_width` is its own width.

        Raises `UserError` for a picture whose size leaves nothing to look at.
        """
        return grid_for(input_width, input_height, self.network_width or default_width)
