# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How the map stands after a window: what is asked of it, and changes nothing."""

from vggt_ros.mapping import alignment, recovery
from vggt_ros.mapping.loading import OlderMap
from vggt_ros.mapping.metric import scale
from vggt_ros.mapping.metric.scale import ScaleState
from vggt_ros.mapping.pose_graph.keyframe_map import KeyframeMap
from vggt_ros.mapping.segment import MapState


class Standing:
    """The part of `Map` that only reads."""

    keyframes: KeyframeMap
    _state: MapState
    _scale: ScaleState
    _older: OlderMap | None

    def is_keyframe(self) -> bool:
        """Whether the newest frame should stay in the window."""
        return alignment.is_keyframe(self._state)

    @property
    def refused(self) -> int:
        """How many windows in a row were refused, up to the newest."""
        return self._state.refusals

    @property
    def lost(self) -> bool:
        """Whether the window should start again: its frames do not lead back to the map."""
        return self._state.refusals >= recovery.LOST_AFTER

    @property
    def frame_ids(self) -> tuple[int, ...]:
        """The frames that the next window can be registered by."""
        current = self._state.current
        return () if current is None else tuple(frame.frame_id for frame in current.frames)

    def needs(self, source: str) -> bool:
        """Whether measurements of this source, which cost something, are worth it just now."""
        return scale.needs_measurement(self._scale, source)

    @property
    def is_relocalising(self) -> bool:
        """Whether there is an older segment that the present one may be a part of."""
        return self.lost or self.keyframes.has_older(self._state.number)

    @property
    def sought_in(self) -> int | None:
        """The segment of a loaded map that the camera is still to be found in; None: none."""
        return self._older.sought_in(self._state.number) if self._older else None
