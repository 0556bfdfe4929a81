# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a run says of its rig: where its cameras stand, and what became of their images."""

from typing import Any

import numpy as np
from jaxtyping import Float

from vggt_ros.mapping.rig.report import RigCamera, RigReport, about, static_line
from vggt_ros.tools.sources.rig import RigSource


def rig_summary(report: RigReport | None, source: RigSource) -> dict[str, Any]:
    """Of `summary.json`: poses are `reference_from_camera`, metres if `metric`."""
    known = {} if report is None else {camera.name: camera for camera in report.cameras}
    cameras = []
    for name in source.cameras:
        camera = known.get(name, RigCamera(name))
        cameras.append(
            {
                "name": name,
                "source": source.places[name],
                "optical_frame": camera.optical_frame,
                "images_used": source.used[name],
                "images_unpaired": source.unpaired[name],
                "by_tf": _rows(camera.mounted),
                "by_images": _rows(camera.estimated),
                "metric": camera.metric,
                "held": camera.held,
                "windows": camera.windows,
                "turned_degrees": round(camera.turned_degrees, 3),
                "aside_degrees": round(camera.aside_degrees, 3),
                "fault": camera.fault,
                "static_transform": static_transform(report, camera),
            }
        )
    return {
        "reference": next(iter(source.cameras)),
        "sync_tolerance": source.sync_tolerance,
        "min_cameras": source.min_cameras,
        "fault": no_metres(report),
        "cameras": cameras,
    }


def no_metres(report: RigReport | None) -> str:
    """That units are no metres though mounts are known, with figures; empty: they are, or not."""
    known = [c for c in report.cameras if c.mounted is not None] if report else []
    if report is None or len(known) < 2 or any(camera.metric for camera in report.cameras):
        return ""
    seen = []
    for camera in known:
        if camera.name == report.reference or camera.mounted is None or camera.estimated is None:
            continue
        metres, units = (np.linalg.norm(p[:3, 3]) for p in (camera.mounted, camera.estimated))
        seen.append(
            f"{camera.name} is {metres:.3f} m from {report.reference}, by the images {units:.3g} of"
            f" the map's units ({camera.windows} windows)"
        )
    return (
        "units are not metres, although /tf_static says where the cameras stand: the images show no"
        f" baseline between them along its direction; {'; '.join(seen)}"
    )


def static_transform(report: RigReport | None, camera: RigCamera) -> str:
    """The line that publishes where the images say that a camera stands; empty: not known."""
    if report is None or camera.estimated is None or camera.name == report.reference:
        return ""
    frames = {each.name: each.optical_frame for each in report.cameras}
    parent, child = frames[report.reference], camera.optical_frame
    return static_line(parent, child, camera.estimated) if parent and child else ""


def rig_lines(report: RigReport | None) -> list[str]:
    """For the user: how the place of each camera is known, what is wrong, and lines to paste."""
    if report is None:
        return []
    lines = [f"rig: {c.name}: {about(c, report.reference)}" for c in report.cameras]
    lines += [f"warning: {text}" for text in [no_metres(report)] if text]
    lines += [f"warning: {camera.fault}" for camera in report.cameras if camera.fault]
    for camera in report.cameras:
        line = static_transform(report, camera)
        if line and camera.held and camera.mounted is None:
            unit = "" if camera.metric else ", in units of the map, which are not metres"
            lines.append(f"rig: to publish where {camera.name} is{unit}: {line}")
    return lines


def _rows(pose: Float[np.ndarray, "4 4"] | None) -> list[list[float]] | None:
    return None if pose is None else np.round(pose, 9).tolist()
