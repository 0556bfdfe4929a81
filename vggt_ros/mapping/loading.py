# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A map of an earlier run: the camera is sought in it, and it grows or stays as it is.

Until the camera was found, its windows form a segment of their own, as after a loss.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vggt_ros.errors import UserError
from vggt_ros.mapping.map_files import LoadedMap, load_map, save_map
from vggt_ros.mapping.metric import scale
from vggt_ros.mapping.metric.scale import ScaleState
from vggt_ros.mapping.pose_graph.keyframe_map import KeyframeMap
from vggt_ros.mapping.pose_graph.keyframes import KeyframeStore
from vggt_ros.mapping.segment import MapState


class OlderMap(NamedTuple):
    """A loaded map, and what may become of it."""

    loaded: LoadedMap
    is_fixed: bool  # its keyframes stay as they are, and no other segment counts as a map

    def keyframes(self, limit: int) -> KeyframeMap:
        """A copy of its keyframes, to be extended to about `limit`."""
        fixed = frozenset(self.loaded.store.ids.tolist()) if self.is_fixed else frozenset[int]()
        return KeyframeMap(limit, copy.deepcopy(self.loaded.store), fixed)

    @property
    def next_segment(self) -> int:
        """The first number that is above those of its segments."""
        segments = self.loaded.store.centres().segments
        return int(segments.max(initial=self.loaded.segment)) + 1

    @property
    def next_id(self) -> int:
        """The first frame id that is above those of its keyframes."""
        return int(self.loaded.store.ids.max(initial=-1)) + 1

    def scales(self, sources: tuple[str, ...]) -> dict[int, ScaleState]:
        """What is known of its scale; `sources` may correct that of a map that is not fixed."""
        known = ScaleState(() if self.is_fixed else sources)
        if self.loaded.metric:
            known = scale.of_loaded_map(known, self.loaded.scale_sigma)
        return {self.loaded.segment: known}

    def sought_in(self, present: int) -> int | None:
        """The segment that the camera is sought in while it is in the `present` one; None: none."""
        return None if present == self.loaded.segment else self.loaded.segment

    def after(self, segment: int) -> "OlderMap | None":
        """What is left of it as a loaded map once the camera was found in that segment."""
        return self if self.is_fixed or segment != self.loaded.segment else None

    def check_grid(self, height: int | None, width: int) -> None:
        """Raise UserError where the images of its keyframes are of another size, in pixels.

        A height of None is not known yet.
        """
        known = self.loaded.grid
        if width != known[1] or height not in (None, known[0]):
            now = f"{width} wide" if height is None else f"{width}x{height}"
            raise UserError(
                f"the loaded map was made of images of {known[1]}x{known[0]} network pixels, and"
                f" these are {now}: use a camera of that shape and the same network_width, or make"
                " the map again"
            )


def open_map(folder: Path, fingerprint: str, limit: int, *, extend: bool) -> OlderMap:
    """A saved map; see `map_files.load_map` for the errors."""
    return OlderMap(load_map(folder, fingerprint=fingerprint, limit=limit), is_fixed=not extend)


class Part(NamedTuple):
    """What of a map is saved; see `LoadedMap`."""

    store: KeyframeStore
    segment: int
    metric: bool
    scale_sigma: float

    def save(
        self,
        folder: Path,
        fingerprint: str,
        model: str,
        height: int,
        width: int,
        write_cloud: Callable[[Path], None] | None,
    ) -> None:
        """Into a folder; see `map_files.save_map`.  Images are of `height` and `width` pixels."""
        save_map(
            folder, self.store, fingerprint=fingerprint, model=model, grid=(height, width),
            segment=self.segment, metric=self.metric, scale_sigma=self.scale_sigma,
            write_cloud=write_cloud,
        )  # fmt: skip


def part_of(
    keyframes: KeyframeMap, state: MapState, scale_state: ScaleState, older: OlderMap | None
) -> Part:
    """All that is tied to the newest window, with the edges between it.

    Raises UserError where that is nothing, or not what should be saved.
    """
    if older is not None and older.is_fixed:
        raise UserError(
            "the map is not extended (mapping is false), so there is nothing to save: its folder"
            " is as it was"
        )
    if older is not None and older.sought_in(state.number) is not None:
        raise UserError(
            "the camera was not found in the loaded map yet: bring it to where it has been, then"
            " save"
        )
    store = keyframes.store
    part, views = KeyframeStore(store.limit), store.centres()
    for key in views.ids[views.segments == state.number].tolist():
        part.add(store.get(key))
    if not len(part):
        raise UserError("the map is empty: move the camera, or see /diagnostics")
    for edge in store.edges:
        if edge.first in part and edge.second in part:
            part.add_edge(edge)
    if state.current is not None:
        KeyframeMap(store.limit, part).leave(state.current, (), state.noise)
    sigma = scale.estimate(scale_state).sigma if scale_state.metric else np.inf
    return Part(part, state.number, scale_state.metric, sigma)
