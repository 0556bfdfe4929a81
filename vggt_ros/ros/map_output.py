# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The accumulated map: keyframes are added, the cloud is published at times, saved on request."""

from pathlib import Path

from sensor_msgs.msg import PointCloud2

from vggt_ros.errors import UserError
from vggt_ros.files import write_ply
from vggt_ros.frames import Update
from vggt_ros.mapping.voxels import VoxelMap
from vggt_ros.ros import messages
from vggt_ros.ros.parameters import LiveParameters


class MapOutput:
    """The cloud of one segment of the map.  Used by the sender's thread alone.

    A view is added once it is settled: when a newer one was registered to it and it was kept.
    Segments do not fit together and are not mixed: the cloud starts again with another segment as
    soon as a window is registered to that one.
    """

    def __init__(self, parameters: LiveParameters):
        self._parameters = parameters
        now = parameters.now
        self._cloud = VoxelMap(now.map_voxel, now.map_points_max) if now.map_voxel > 0 else None
        self.reset()

    def reset(self) -> None:
        """An empty map."""
        self._added: set[int] = set()  # frames
        self._refusal = ""  # why the newest window was refused; empty: it was not
        self._segment, self._stamp_ns, self._sent_ns = 0, 0, 0
        if self._cloud is not None:
            self._cloud = VoxelMap(self._parameters.now.map_voxel, self._cloud.capacity)

    def add(self, update: Update) -> None:
        """Add the views that this update has settled."""
        cloud, found = self._cloud, update.registration
        self._refusal = found.reason
        if cloud is None or not found.accepted:
            return
        if found.segment != self._segment or update.fresh == len(update.views):  # another map
            self.reset()
            cloud, self._segment = self._cloud, found.segment
            assert cloud is not None
        if update.rescaled != 1.0:
            cloud.rescale(update.rescaled, update.about)
        settled = [view for view in update.views[:-1] if view.depth is not None]
        for view in settled:
            if view.frame_id not in self._added:
                assert view.depth is not None and view.confidence is not None
                cloud.add_view(
                    view.depth,
                    view.rgb,
                    view.confidence,
                    view.intrinsics,
                    view.world_from_camera,
                    self._parameters.now.min_confidence,
                )
        self._added = {view.frame_id for view in settled}
        self._stamp_ns = update.views[-1].stamp_ns

    @property
    def size(self) -> int:
        """Points in the cloud."""
        return 0 if self._cloud is None else len(self._cloud)

    def is_due(self) -> bool:
        """Whether it is time to publish again, by the images' stamps."""
        if self.size == 0:
            return False
        period = round(1e9 * self._parameters.now.map_period)
        due = self._stamp_ns - self._sent_ns >= period or self._stamp_ns < self._sent_ns
        if due:
            self._sent_ns = self._stamp_ns
        return due

    def message(self) -> PointCloud2:
        """All points, in the map's frame."""
        assert self._cloud is not None
        head = messages.header(self._stamp_ns, self._parameters.now.map_frame)
        columns = (column[None] for column in self._cloud.cloud())
        message = messages.cloud_message(head, *columns)
        message.is_dense = True
        return message

    def save(self) -> str:
        """Write the file `map_path`; returns what was written.  Raises `UserError`."""
        if self._cloud is None:
            raise UserError("no map is kept: map_voxel is 0; start the node with one above 0")
        if len(self._cloud) == 0:
            why = self._refusal and f" (the newest window was refused: {self._refusal})"
            raise UserError(f"the map is empty{why}: move the camera, or see /diagnostics")
        path = Path(self._parameters.now.map_path).expanduser()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_ply(path, *self._cloud.cloud())
        except OSError as error:
            raise UserError(f"the map cannot be written to {path}: {error}") from error
        return f"{len(self._cloud)} points in {path.absolute()}"
