# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Control panel of the viewer: status text, images, and the controls of what is shown."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8
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
        self.segment = gui.add_dropdown("segment", ["0"], visible=False)
        self.strip = gui.add_image(blank, label="frames", format="jpeg")
        self.pair = gui.add_image(blank, label="image, depth", format="jpeg")
        self.time = gui.add_slider("time [s]", 0.0, 1.0, 0.01, 0.0, visible=False)
        self.frame = gui.add_slider("frame", 0, 1, 1, 0)
        self.all_frames = gui.add_checkbox("all frames up to this one", True)
        self.confidence = gui.add_slider("confidence above", 1.0, 1.1, 0.05, 1.0)
        self.point_size = gui.add_slider("point size", 0.2, 5.0, 0.1, 1.0)
        self.cut = gui.add_checkbox("cut above the cameras", True)
        self.cameras = gui.add_checkbox("cameras", True)
        self.map = gui.add_checkbox("keyframes (yellow), loops (pink)", True, visible=False)
        self._stamps = np.zeros(0, np.int64)
        self._from_time = False  # while the frame follows the time, the time stays

    def on_change(
        self,
        *,
        time: Callable[[], None],
        visibility: Callable[[], None],
        points: Callable[[], None],
        point_size: Callable[[], None],
    ) -> None:
        """Functions to call when a control of time, visibility, points or point size changes."""
        groups = (
            (time, (self.time,)),
            (visibility, (self.frame, self.all_frames, self.cameras, self.map)),
            (points, (self.confidence, self.cut)),
            (point_size, (self.point_size,)),
        )
        for update, controls in groups:
            for control in controls:
                control.on_update(lambda _, update=update: update())

    def selected(self, count: int) -> int:
        """Index of the selected frame out of `count`."""
        return min(int(self.frame.value), count - 1)

    def set_frames(self, stamps_ns: Sequence[int]) -> None:
        """Give both sliders the length of these frames."""
        self._stamps = np.array(stamps_ns, np.int64)
        self.frame.max = max(len(stamps_ns) - 1, 1)
        seconds = float(self._seconds().max(initial=0.0))
        hundredths = np.ceil(100 * seconds - 1e-6) / 100  # as the slider shows its end
        self.time.visible, self.time.max = seconds > 0, max(float(hundredths), self.time.step)

    def select_newest(self) -> None:
        """Move both sliders to their ends."""
        self.frame.value = len(self._stamps) - 1
        self.follow_frame()

    def offer_segments(
        self, sizes: Sequence[int], chosen: int, show: Callable[[int], None]
    ) -> None:
        """Let the user choose one of several segments, of so many frames each."""
        self.segment.options = [f"{number}: {size} frames" for number, size in enumerate(sizes)]
        self.segment.value, self.segment.visible = self.segment.options[chosen], True
        self.segment.on_update(lambda _: show(self.segment.options.index(self.segment.value)))

    def follow_time(self) -> None:
        """Select the last frame that is no later than the time."""
        before = np.flatnonzero(self._seconds() <= self.time.value + self.time.step / 2)
        self._from_time = True
        self.frame.value = int(before[-1]) if len(before) else 0
        self._from_time = False

    def follow_frame(self) -> None:
        """Let the time be that of the selected frame."""
        if not self._from_time and len(self._stamps):
            seconds = self._seconds()[self.selected(len(self._stamps))]
            self.time.value = round(float(seconds), 2)

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

    def _seconds(self) -> Float64[np.ndarray, " n"]:
        return (self._stamps - self._stamps[:1]) / 1e9


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
