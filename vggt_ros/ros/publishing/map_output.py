# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The accumulated map: views are added, the cloud is published at times, saved on request."""

from pathlib import Path

import numpy as np
from sensor_msgs.msg import PointCloud2

from vggt_ros.errors import UserError
from vggt_ros.files import write_ply
from vggt_ros.frames import Update, View
from vggt_ros.mapping.cloud.consensus import thinning
from vggt_ros.mapping.cloud.fused_views import FusedViews
from vggt_ros.mapping.cloud.voxel_sweep import CloudSweep, Parts
from vggt_ros.mapping.cloud.voxels import MAX_PIXELS, OwnedCloud, VoxelMap
from vggt_ros.mapping.map_files import LoadedMap
from vggt_ros.ros import messages
from vggt_ros.ros.live_parameters import LiveParameters
from vggt_ros.ros.publishing.following import Change

READ_AT_ONCE = 15_000  # points of a message that one update reads, at least


class MapOutput:
    """The cloud of the segment that is shown.  Used by the sender's thread alone.

    A view is added once it is settled: when a newer one was registered to it and it was kept. Depth
    of refused and doubtful windows is left out. Other segments of the map are kept and hidden,
    until they are tied to this one.
    """

    def __init__(self, parameters: LiveParameters):
        self._parameters = parameters
        now = parameters.now
        self._cloud = VoxelMap(now.map_voxel, now.map_points_max) if now.map_voxel > 0 else None
        self._fused = FusedViews()
        self.reset()

    def reset(self) -> None:
        """An empty map."""
        self._added: set[int] = set()  # frames of the window
        # By frame of the window: whose depth it has (confidence is the very array), is it sound.
        self._origin: dict[int, tuple[np.ndarray, bool]] = {}
        self._refusal = ""  # why the newest window was refused; empty: it was not
        self._segment, self._stamp_ns, self._sent_ns = 0, 0, 0
        self._sweep: CloudSweep | None = None  # of the next message
        self._points, self._swept_ns = messages.GrowingCloud(), 0
        self._fused.clear()
        if self._cloud is not None:
            self._cloud.clear()

    def load(self, loaded: LoadedMap) -> None:
        """The cloud of a saved map, which grows unless the parameter `mapping` is false."""
        self.reset()
        self._segment = loaded.segment
        if self._cloud is not None and loaded.cloud is not None:
            points, colours, confidence, keyframes = loaded.cloud
            self._cloud.add(points, colours, confidence, keyframe=keyframes, segment=loaded.segment)

    def follow(self, change: Change) -> None:
        """Move the points with their keyframes."""
        self._segment = change.segment
        if self._cloud is not None:
            self._cloud.follow(change.correction, change.segments)
            self._fused.follow(change.correction, change.segments)

    def update(self, update: Update, change: Change) -> None:
        """Follow the map, then add the views that this update has settled."""
        if change.is_other_map:
            self.reset()
        self.follow(change)
        found = update.registration
        self._refusal = "" if found.accepted else found.reason
        if self._cloud is None or not self._parameters.now.mapping:
            return
        self._note_origins(update)
        if found.accepted or change.correction.moved:
            self._stamp_ns = update.views[-1].stamp_ns
        if found.accepted and not found.doubtful:
            self._add_settled(update, change, self._cloud)

    def _note_origins(self, update: Update) -> None:
        """Which views have depth of a window that is not to be trusted."""
        sound = update.registration.accepted and not update.registration.doubtful
        origin = {}
        for view in update.views:
            if view.confidence is not None:
                known = self._origin.get(view.frame_id)
                same = known is not None and known[0] is view.confidence
                origin[view.frame_id] = known if same else (view.confidence, sound)
        self._origin = origin

    def _add_settled(self, update: Update, change: Change, cloud: VoxelMap) -> None:
        older = update.views[: len(update.views) - len(update.newest_views)]
        settled = [view for view in older if view.depth is not None]
        for view in settled:
            if view.frame_id not in self._added and self._origin[view.frame_id][1]:
                self._added.add(view.frame_id)
                self._add(view, change.segment_of(view, update.keyframes), cloud)
        self._added &= {view.frame_id for view in settled}

    def _add(self, view: View, segment: int, cloud: VoxelMap) -> None:
        """One view, moved to the surface that older ones see unless `map_fusion` is false."""
        now, fused = self._parameters.now, None
        assert view.depth is not None
        if now.map_fusion:
            fused = self._fused.add(
                view.masked_depth(now.min_confidence),
                view.intrinsics,
                view.world_from_camera,
                view.keyframe,
                segment,
                thinning(view.depth.shape, MAX_PIXELS),
            )
        cloud.add_view(
            view.depth,
            view.rgb,
            view.confidence,
            view.intrinsics,
            view.world_from_camera,
            now.min_confidence,
            keyframe=view.keyframe,
            segment=segment,
            clearing=now.map_clearing,
            fused=fused,
        )

    @property
    def size(self) -> int:
        """Points in the cloud that is shown."""
        return 0 if self._cloud is None else self._cloud.count(self._segment)

    def is_due(self) -> bool:
        """Whether it is time to publish again, by the images' stamps."""
        if self.size == 0:
            return False
        period = round(1e9 * self._parameters.now.map_period)
        due = self._stamp_ns - self._sent_ns >= period or self._stamp_ns < self._sent_ns
        if due:
            self._sent_ns = self._stamp_ns
        return due

    def next_message(self) -> PointCloud2 | None:
        """The next message, once one is due and its points were read; called at every update.

        A large cloud is read over the updates of one `map_period`, a small one at once.
        """
        if self._sweep is None or self._sweep.segment != self._segment:
            if self._cloud is None or (self._sweep is None and not self.is_due()):
                return None
            self._sweep = CloudSweep(self._cloud, self._segment, self._points)
            self._swept_ns = self._stamp_ns
        seconds, self._swept_ns = 1e-9 * (self._stamp_ns - self._swept_ns), self._stamp_ns
        share = seconds / self._parameters.now.map_period
        if not self._sweep.advance(max(share, READ_AT_ONCE / max(self.size, 1))):
            return None
        self._sweep = None
        return self._points.message(
            messages.header(self._stamp_ns, self._parameters.now.world_frame)
        )

    def message(self) -> PointCloud2:
        """All points, in the map's frame."""
        assert self._cloud is not None
        head = messages.header(self._stamp_ns, self._parameters.now.world_frame)
        columns = (column[None] for column in self._cloud.cloud(self._segment))
        message = messages.cloud_message(head, *columns)
        message.is_dense = True
        return message

    @property
    def voxel(self) -> float:
        """Side of a voxel now; 0: no cloud is kept."""
        return 0.0 if self._cloud is None else self._cloud.voxel

    def sweep(self, parts: Parts) -> CloudSweep | None:
        """A sweep of the cloud that is shown; None where none is kept."""
        return None if self._cloud is None else CloudSweep(self._cloud, self._segment, parts)

    @property
    def segment(self) -> int:
        """That is shown."""
        return self._segment

    @property
    def state(self) -> str:
        """How large the cloud is, for /diagnostics."""
        if self._cloud is None:
            return "none is kept: map_voxel is 0"
        hidden = len(self._cloud) - self.size
        of_others = f", {hidden} of other segments" if hidden else ""
        return (
            f"{self.size}{of_others}; at most {self._cloud.capacity}, in voxels of"
            f" {self._cloud.voxel:g}"
        )

    @property
    def warning(self) -> str:
        """That voxels are coarser than they were asked for; empty: they are not."""
        cloud, asked = self._cloud, self._parameters.now.map_voxel
        if cloud is None or cloud.voxel <= asked:
            return ""
        return (
            f"map_voxel is {asked:g}, but {cloud.voxel:g} is used, also by ~/occupancy: with finer"
            f" voxels the map has more than map_points_max ({cloud.capacity}) points; raise that,"
            " or map_voxel"
        )

    @property
    def owned_cloud(self) -> OwnedCloud | None:
        """The cloud that is shown; None where none is kept."""
        return None if self._cloud is None else self._cloud.owned_cloud(self._segment)

    def save(self, path: Path) -> str:
        """Write the cloud as a PLY file; returns what was written.  Raises `UserError`."""
        if self._cloud is None:
            raise UserError("no map is kept: map_voxel is 0; start the node with one above 0")
        if self.size == 0:
            why = self._refusal and f" (the newest window was refused: {self._refusal})"
            raise UserError(f"the map is empty{why}: move the camera, or see /diagnostics")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            cloud = self._cloud.cloud(self._segment)
            write_ply(path, *cloud)
        except OSError as error:
            raise UserError(f"the map cannot be written to {path}: {error}") from error
        return f"{len(cloud.points)} points in {path.absolute()}"
