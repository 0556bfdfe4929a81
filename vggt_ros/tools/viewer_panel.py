# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Control panel of the viewer: status text, images, and the controls of what is shown."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vggt_ros.tools.runs.format import RunFrame
from vggt_ros.tools.runs.overview import depth_colours

STRIP_IMAGES = 5  # in the strip of neighbouring frames
EARLIER, SELECTED = (64, 196, 255), (255, 138, 60)  # RGB of cameras and of the strip's border


class Panel:
    """Handles of the panel's controls; their `value` is what the user has set."""

    def __init__(self, gui: Any, unit: str):
        """Add the controls to a viser `GuiApi`; `unit` names the world's unit, "" if arbitrary."""
        blank = np.full((40, 200, 3), 30, np.uint8)
        self.status = gui.add_markdown(f"units: **{unit or 'arbitrary'}**")
        self.strip = gui.add_image(blank, label="frames", format="jpeg")
        self.pair = gui.add_image(blank, label="image, depth", format="jpeg")
        self.frame = gui.add_slider("frame", 0, 1, 1, 0)
        self.all_frames = gui.add_checkbox("all frames up to this one", True)
        self.confidence = gui.add_slider("confidence above", 1.0, 1.1, 0.05, 1.0)
        self.point_size = gui.add_slider("point size", 0.2, 5.0, 0.1, 1.0)
        self.cut = gui.add_checkbox("cut above the cameras", True)
        self.cameras = gui.add_checkbox("cameras", True)

    def on_change(
        self,
        *,
        visibility: Callable[[], None],
        points: Callable[[], None],
        point_size: Callable[[], None],
    ) -> None:
        """Functions to call when a control of visibility, points or point size changes."""
        groups = (
            (visibility, (self.frame, self.all_frames, self.cameras)),
            (points, (self.confidence, self.cut)),
            (point_size, (self.point_size,)),
        )
        for update, controls in groups:
            for control in controls:
                control.on_update(lambda _, update=update: update())

    def selected(self, count: int) -> int:
        """Index of the selected frame out of `count`."""
        return min(int(self.frame.value), count - 1)

    def select_newest(self, count: int) -> None:
        """Move the frame slider to its end."""
        self.frame.max = max(count - 1, 1)
        self.frame.value = count - 1

    def extend_confidence(self, frames: Sequence[RunFrame]) -> None:
        """Let the slider reach the confidence that one pixel in twenty of a frame exceeds."""
        ends = (np.nanpercentile(frame.confidence, 95) for frame in frames)
        ends = (float(np.ceil(end * 10) / 10) + 0.1 for end in ends)
        self.confidence.max = max(self.confidence.max, *ends)

    def show_images(self, frames: Sequence[RunFrame], index: int) -> None:
        """Show image and depth of one frame, and its neighbours in the strip."""
        frame = frames[index]
        self.pair.image = np.concatenate([frame.image, depth_colours(frame.depth)], 1)
        self.strip.image = strip([frame.image for frame in frames], index)


def strip(images: Sequence[UInt8[np.ndarray, "h w 3"]], at: int) -> UInt8[np.ndarray, "H W 3"]:
    """Image `at`, with a border, in a row with a few of its neighbours."""
    first = min(max(0, at - STRIP_IMAGES // 2), max(0, len(images) - STRIP_IMAGES))
    cells = []
    for index, image in enumerate(images[first : first + STRIP_IMAGES], first):
        size = (96, round(96 * image.shape[0] / image.shape[1]))
        cell = np.array(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        if index == at:
            framed = np.empty_like(cell)
            framed[:] = SELECTED
            framed[3:-3, 3:-3] = cell[3:-3, 3:-3]
            cell = framed
        cells.append(np.pad(cell, ((0, 0), (0, 4), (0, 0)), constant_values=30))
    return np.concatenate(cells, 1)
