# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What is known of a rig's geometry: rows of /diagnostics, a warning, and lines to paste."""

from vggt_ros.mapping.rig.report import RigCamera, RigReport
from vggt_ros.ros.diagnostics import Health
from vggt_ros.ros.tf_advice import static_line


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


def about(camera: RigCamera, reference: str) -> str:
    """How a camera's place is known, in one line."""
    if camera.name == reference:
        return "reference"
    measured = "not measured yet"
    if camera.estimated is not None:
        measured = f"measured in {camera.windows} windows"
    if camera.mounted is not None:
        aside = f", {camera.aside_degrees:.1f} aside" if camera.aside_degrees else ""
        off = f": {camera.turned_degrees:.1f} degrees turned{aside}" if camera.windows else ""
        return f"by TF, {measured}{off}"
    if camera.held:
        return f"no TF, {measured} and held{'' if camera.metric else ', not in metres'}"
    return f"no TF, {measured}"
