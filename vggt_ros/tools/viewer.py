# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A run in the browser: coloured cloud, camera pyramids, the images; also live, frame by frame.

World is z up.  The page is served on this machine only, unless another host is asked for.
"""

import threading
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from PIL import Image

from vggt_ros.errors import UserError
from vggt_ros.geometry import quaternion_from_rotation, transform, unproject
from vggt_ros.tools.runs.format import Shot, open_run
from vggt_ros.tools.runs.overview import depth_colours
from vggt_ros.tools.runs.splat import FARTHEST, bounds, cut_height, perspective_eye, reach

MOST_POINTS = 2_500_000  # what a browser on an ordinary laptop still turns smoothly
MOST_SHOTS = 300  # they are all held in memory
MOST_PYRAMIDS = 16  # at a time, the present frame's aside
STRIP = 5  # images in the strip
EYE_HEIGHT = 660  # pixels; only the ratio to the focal length matters
BEFORE, NOW = (64, 196, 255), (255, 138, 60)  # cameras: earlier ones, the present one


def view(
    run: Path,
    *,
    port: int = 8080,
    host: str = "127.0.0.1",
    every: int = 0,
) -> None:
    """Show what `vggt run --out RUN` wrote, in the browser, until Ctrl-C.

    Args:
        run: directory that `vggt run` wrote.
        port: port of the page; the next free one is taken if it is busy.
        host: address to serve on; 0.0.0.0 lets other machines see it.
        every: show each n-th frame; 0 chooses n so that at most 300 are shown.
    """
    opened = open_run(run)
    shots = list(opened.frames(every if every > 0 else -(-len(opened.files) // MOST_SHOTS) or 1))
    if not shots:
        raise UserError(f"{run} holds no frames; make some with: vggt run SOURCE --out {run}")
    viewer = Viewer(port, host=host, title=run.name, unit=_unit(opened.summary))
    viewer.show(shots)
    print(f"{len(shots)} frames at {viewer.address}   (Ctrl-C ends)")
    try:
        while True:
            time.sleep(3600)
    finally:
        viewer.close()


def _unit(summary: dict) -> str:
    return "m" if summary.get("scale", {}).get("metric") else ""


class Viewer:
    """One page.  `show` a whole run, or `add` shots as they come; old ones give way to new."""

    def __init__(
        self,
        port: int = 8080,
        *,
        host: str = "127.0.0.1",
        title: str = "vggt_ros",
        unit: str = "",
        keep: int = 10_000,
    ):
        """Open the page; `keep` is how many shots stay."""
        import viser  # comes with: pip install 'vggt_ros[tools]'

        with redirect_stdout(None):  # viser prints a banner; we print an address
            self._server = viser.ViserServer(host=host, port=port, label=title, verbose=False)
        self._server.gui.configure_theme(
            dark_mode=True, control_width="large", show_logo=False, show_share_button=False
        )
        self._server.gui.set_panel_label(title)
        self._server.scene.set_up_direction("+z")
        self.address = f"http://{host}:{self._server.get_port()}"
        self._keep, self._unit = keep, unit
        self._shots: list[Shot] = []
        self._thin = 1
        self._nodes: list[tuple[Any, Any]] = []  # cloud and pyramid of each shot
        self._count = 0  # names of nodes never repeat
        self._reach, self._aimed, self._ceiling = 1.0, 0, np.inf
        self._lock = threading.RLock()
        self._build_panel()

    def show(self, shots: Sequence[Shot]) -> None:
        """Show these shots, all of them, from a place that shows the scene."""
        self._thin = max(1, -(-sum(shot.depth.size for shot in shots) // MOST_POINTS))
        with self._lock, self._server.atomic():
            self._confidence.max = max(
                self._confidence.max, *(_high(shot.confidence) for shot in shots)
            )
            self._aim(shots)
            for shot in shots:
                self._append(shot)
            self._follow_newest()

    def add(self, shot: Shot) -> None:
        """Show one more shot; the view is aimed again while the scene still doubles in frames."""
        with self._lock, self._server.atomic():
            self._thin = max(1, -(-shot.depth.size * min(self._keep, 200) // MOST_POINTS))
            newest = int(self._frame.value) >= len(self._shots) - 1
            self._confidence.max = max(self._confidence.max, _high(shot.confidence))
            self._append(shot)
            if len(self._shots) >= 2 * self._aimed:
                self._aim(self._shots)
            if newest:
                self._follow_newest()

    def say(self, words: str) -> None:
        """Replace the line of text at the top of the panel (Markdown)."""
        self._words.content = words

    def close(self) -> None:
        """Close the page."""
        with redirect_stdout(None):
            self._server.stop()

    # ---- panel

    def _build_panel(self) -> None:
        gui = self._server.gui
        blank = np.full((40, 200, 3), 30, np.uint8)
        self._words = gui.add_markdown(f"units: **{self._unit or 'arbitrary'}**")
        self._strip = gui.add_image(blank, label="frames", format="jpeg")
        self._pair = gui.add_image(blank, label="image, depth", format="jpeg")
        self._frame = gui.add_slider("frame", 0, 1, 1, 0)
        self._all = gui.add_checkbox("all frames up to this one", True)
        self._confidence = gui.add_slider("confidence above", 1.0, 1.1, 0.05, 1.0)
        self._size = gui.add_slider("point size", 0.2, 5.0, 0.1, 1.0)
        self._cut = gui.add_checkbox("cut above the cameras", True)
        self._cameras = gui.add_checkbox("cameras", True)
        self._frame.on_update(lambda _: self._refresh())
        self._all.on_update(lambda _: self._refresh())
        self._cameras.on_update(lambda _: self._refresh())
        self._confidence.on_update(lambda _: self._filter())
        self._cut.on_update(lambda _: self._filter())
        self._size.on_update(lambda _: self._resize())

    def _follow_newest(self) -> None:
        self._frame.max = max(len(self._shots) - 1, 1)
        self._frame.value = len(self._shots) - 1
        self._refresh()

    def _refresh(self) -> None:
        """Show what the frame slider and the boxes say."""
        with self._lock, self._server.atomic():
            if not self._shots:
                return
            at = min(int(self._frame.value), len(self._shots) - 1)
            every = -(-(at + 1) // MOST_PYRAMIDS)
            for index, (cloud, pyramid) in enumerate(self._nodes):
                cloud.visible = index <= at if self._all.value else index == at
                spared = index % every and index != at
                pyramid.visible = cloud.visible and self._cameras.value and not spared
                pyramid.color = NOW if index == at else BEFORE
            shot = self._shots[at]
            self._pair.image = np.concatenate([shot.image, depth_colours(shot.depth)], 1)
            self._strip.image = strip([shot.image for shot in self._shots], at)

    def _filter(self) -> None:
        """Leave out the points that are trusted less than the slider says."""
        with self._lock, self._server.atomic():
            for shot, (cloud, _) in zip(self._shots, self._nodes, strict=True):
                points, colours = self._cloud(shot)
                cloud.points, cloud.colors = points, colours

    def _resize(self) -> None:
        with self._lock, self._server.atomic():
            for shot, (cloud, _) in zip(self._shots, self._nodes, strict=True):
                cloud.point_size = self._point_size(shot)

    # ---- scene

    def _append(self, shot: Shot) -> None:
        points, colours = self._cloud(shot)
        cloud = self._server.scene.add_point_cloud(
            f"/clouds/{self._count}",
            points,
            colours,
            point_size=self._point_size(shot),
            point_shape="circle",
            point_shading="flat",
            precision="float32",
        )
        self._shots.append(shot)
        self._nodes.append((cloud, self._pyramid(shot)))
        self._count += 1
        while len(self._shots) > self._keep:
            del self._shots[0]
            for node in self._nodes.pop(0):
                node.remove()
        self._frame.max = max(len(self._shots) - 1, 1)

    def _pyramid(self, shot: Shot) -> Any:
        height, width = shot.depth.shape
        x, y, z, w = quaternion_from_rotation(shot.world_from_camera[:3, :3])
        pose = {"wxyz": (w, x, y, z), "position": shot.world_from_camera[:3, 3]}
        pyramid = self._server.scene.add_camera_frustum(
            f"/cameras/{self._count}",
            fov=float(2 * np.arctan(height / 2 / shot.intrinsics[1, 1])),
            aspect=float(width / height * shot.intrinsics[1, 1] / shot.intrinsics[0, 0]),
            scale=0.03 * self._reach,
            thickness=2.0,
            thickness_units="screen",
            color=BEFORE,
            image=shot.image[::2, ::2],
            format="jpeg",
            cast_shadow=False,
            receive_shadow=False,
            **pose,
        )

        @pyramid.on_click
        def _(event: Any) -> None:  # look through this camera
            event.client.camera.wxyz, event.client.camera.position = pose["wxyz"], pose["position"]

        return pyramid

    def _cloud(self, shot: Shot) -> tuple[Float32[np.ndarray, "p 3"], UInt8[np.ndarray, "p 3"]]:
        chosen = np.flatnonzero(_trusted(shot, self._confidence.value))[:: self._thin]
        points = unproject(shot.depth, shot.intrinsics).reshape(-1, 3)[chosen]
        world = transform(shot.world_from_camera, points).astype(np.float32)
        low = world[:, 2] <= (self._ceiling if self._cut.value else np.inf)
        return world[low], shot.image.reshape(-1, 3)[chosen][low]

    def _point_size(self, shot: Shot) -> float:
        """World width of a pixel at the middle depth, so that surfaces close at size 1."""
        valid = shot.depth[np.isfinite(shot.depth)]
        middle = float(np.median(valid)) if valid.size else 1.0
        return float(self._size.value) * middle / shot.intrinsics[0, 0] * self._thin**0.5

    def _aim(self, shots: Sequence[Shot]) -> None:
        """Set where a browser starts: behind and above the cameras, all in view."""
        some = shots[:: max(1, len(shots) // 20)]
        points = np.concatenate([self._cloud(shot)[0][::7] for shot in some]).astype(float)
        poses = np.array([shot.world_from_camera for shot in shots])
        box = bounds(points, poses)
        self._reach, self._aimed, self._ceiling = reach(box), len(shots), cut_height(poses, box)
        self._server.scene.add_grid(
            "/floor",
            infinite_grid=True,
            cell_size=self._reach / 20,
            section_size=self._reach / 5,
            cell_color=(45, 48, 54),
            section_color=(60, 64, 72),
            fade_distance=4 * self._reach,
            position=(0.0, 0.0, float(box[0, 2])),
        )
        eye = perspective_eye(points, poses, box, int(1.3 * EYE_HEIGHT), EYE_HEIGHT)
        rotation = eye.eye_from_world[:3, :3]
        position = -rotation.T @ eye.eye_from_world[:3, 3]
        for camera in (self._server.initial_camera, *self._cameras_at_start()):
            camera.position, camera.look_at = position, position + self._reach * rotation[2]
            camera.up = (0.0, 0.0, 1.0)

    def _cameras_at_start(self) -> list[Any]:
        """Open pages follow until the second aim; after that a person may have moved them."""
        clients = self._server.get_clients().values()
        return [client.camera for client in clients] if self._aimed <= 2 else []


def strip(images: Sequence[UInt8[np.ndarray, "h w 3"]], at: int) -> UInt8[np.ndarray, "H W 3"]:
    """A few neighbours of image `at` in a row, that one framed."""
    first = min(max(0, at - STRIP // 2), max(0, len(images) - STRIP))
    cells = []
    for index, image in enumerate(images[first : first + STRIP], first):
        size = (96, round(96 * image.shape[0] / image.shape[1]))
        cell = np.array(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        if index == at:
            framed = np.empty_like(cell)
            framed[:] = NOW
            framed[3:-3, 3:-3] = cell[3:-3, 3:-3]
            cell = framed
        cells.append(np.pad(cell, ((0, 0), (0, 4), (0, 0)), constant_values=30))
    return np.concatenate(cells, 1)


def _trusted(shot: Shot, least: float) -> Bool[np.ndarray, "h w"]:
    return (shot.depth < FARTHEST) & ((shot.confidence >= least) | (least <= 1.0))


def _high(confidence: Float[np.ndarray, "h w"]) -> float:
    """An upper end for the slider: what one pixel in twenty exceeds."""
    return float(np.ceil(np.nanpercentile(confidence, 95) * 10) / 10) + 0.1
