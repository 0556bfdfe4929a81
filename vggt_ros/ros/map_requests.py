# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Asked of the map in the inference thread: to be saved or loaded, and where the robot is."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from vggt_ros.errors import UserError
from vggt_ros.files import write_ply
from vggt_ros.mapping.corrections import KeyframePoses
from vggt_ros.mapping.map_files import LoadedMap
from vggt_ros.mapping.window import level_camera
from vggt_ros.pipeline import Pipeline
from vggt_ros.ros.health.diagnostics import Health
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.publishing.outputs import Outputs
from vggt_ros.ros.sensors.robot import Robot
from vggt_ros.ros.worker import Worker, ask

PUBLISHED_WITHIN = 10.0  # seconds in which the sender takes up what is done


class MapRequests:
    """The part of the inference worker that answers them; methods run in its thread."""

    _parameters: Parameters
    _outputs: Outputs
    _health: Health
    _robot: Robot
    _sender: Worker[Any]
    _loaded: LoadedMap | None
    _timeline: int

    @property
    def pipeline(self) -> Pipeline:
        """Raises `UserError` while there is no network."""
        raise NotImplementedError

    def discard(self) -> None:
        """From any thread: results that are not yet published never will be."""
        self._timeline += 1

    def _show_empty_map(self) -> None:
        if self._loaded is None:
            self._outputs.reset()
        else:
            self._outputs.load(self._loaded)

    def load_map(self, folder: Path) -> str:
        """Start again in a saved map; returns what was loaded.  Raises `UserError`."""
        loaded = self._loaded = self.pipeline.load_map(folder, extend=self._parameters.mapping)
        self.discard()
        self._sender.call_soon(self._show_empty_map)
        return f"{len(loaded.store)} keyframes of {folder}: the camera is sought in them"

    def save_map(self, folder: Path) -> str:
        """Write all that is tied to the newest window; returns what.  Raises `UserError`."""
        write_cloud = self._write_cloud if self._parameters.map_voxel > 0 else None
        count = self.pipeline.save_map(folder, write_cloud)
        return f"{count} keyframes in {folder.expanduser().absolute()}"

    def _write_cloud(self, path: Path, keyframes: KeyframePoses) -> None:
        """Write the cloud as it is with these keyframes, after all updates.  Raises `UserError`."""
        if not self._sender.wait_until_idle(PUBLISHED_WITHIN):
            raise UserError("the map was not saved: the last messages are not published yet; retry")
        cloud = ask(self._sender, lambda: self._outputs.cloud_at(keyframes), PUBLISHED_WITHIN)
        if cloud is not None:
            write_ply(path, *cloud)

    def expect_at(self, world_from_base: Float[np.ndarray, "4 4"]) -> None:
        """Where the robot is, by a user's estimate; of use while the camera is sought."""
        known = self.pipeline.map
        if not known.is_relocalising:
            self._health.notice("an initial pose is not needed: the camera is located")
            return
        mount = self._robot.mount
        known.loops.expect_at(world_from_base @ (level_camera() if mount is None else mount))
