# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What is known of a rig's geometry: rows of /diagnostics, a warning, and lines to paste."""

from vggt_ros.mapping.rig.report import RigCamera, RigReport, about, static_line
from vggt_ros.ros.health.diagnostics import Health


class RigReports:
    """Renewed with each update, in the worker's thread."""

    def __init__(self, health: Health):
        self._health = health
        self._printed: dict[str, str] = {}  # lines, by the camera's name

    def update(self, report: RigReport) -> None:
        """The newest report of the core."""
        self._health.set_warning("rig", report.fault, "tf")
        reference = next(c for c in report.cameras if c.name == report.reference)
        for camera in report.cameras:
            self._health.describe("tf", f"rig {camera.name}", about(camera, report.reference))
            if camera is not reference and camera.held and camera.mounted is None:
                self._print(reference, camera)

    def _print(self, reference: RigCamera, camera: RigCamera) -> None:
        """Once a camera's place is held: how to publish it."""
        assert camera.estimated is not None
        if camera.name in self._printed or not (reference.optical_frame and camera.optical_frame):
            return
        line = static_line(reference.optical_frame, camera.optical_frame, camera.estimated)
        self._printed[camera.name] = line
        unit = "" if camera.metric else ", in units of the map, which are not metres"
        self._health.notice(
            f"{camera.name}: /tf does not say where it is; estimated from {camera.windows} windows,"
            f" and held{unit}: to publish it, `{line}`"
        )
