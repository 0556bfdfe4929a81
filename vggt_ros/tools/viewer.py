# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A page for the browser: clouds, cameras, images, keyframes, loops; also live, frame by frame.

The world is z up.  The page is served on this machine only, unless another host is given.
"""

import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from vggt_ros.geometry import quaternion_from_rotation, transform, unproject
from vggt_ros.tools.runs.format import RunFrame
from vggt_ros.tools.runs.splat import MAX_DEPTH, bounds, cut_height, diagonal, perspective_camera
from vggt_ros.tools.viewer_map import MapGraph, MapLines
from vggt_ros.tools.viewer_panel import EARLIER, SELECTED, Panel

MAX_POINTS = 2_500_000  # that a browser on an ordinary laptop renders smoothly
MAX_FRUSTA = 16  # visible at a time, besides that of the selected frame
VIEW_HEIGHT = 660  # pixels; only the ratio to the focal length matters


class Viewer:
    """One page: `show` a whole run, or `add` frames as they arrive; new ones replace the oldest."""

    def __init__(
        self,
        port: int = 8080,
        *,
        host: str = "127.0.0.1",
        title: str = "vggt_ros",
        unit: str = "",
        keep: int = 10_000,
    ):
        """Open the page; it shows at most `keep` frames."""
        import viser  # of the extra [tools]

        with redirect_stdout(None):  # suppresses viser's banner: the command prints the address
            self._server = viser.ViserServer(host=host, port=port, label=title, verbose=False)
        self._server.gui.configure_theme(
            dark_mode=True, control_width="large", show_logo=False, show_share_button=False
        )
        self._server.gui.set_panel_label(title)
        self._server.scene.set_up_direction("+z")
        self.address = f"http://{reachable(host)}:{self._server.get_port()}"
        self.panel = Panel(self._server.gui, unit)
        self.frames: list[RunFrame] = []
        self.clouds: list[Any] = []  # viser handles, one a frame
        self.frusta: list[Any] = []
        self.map = MapLines(self._server.scene, MapGraph.empty(), 1.0)
        self._keep = keep
        self._stride = 1  # every n-th pixel becomes a point
        self._count = 0  # of frames so far: names of nodes never repeat
        self._extent, self._ceiling = 1.0, np.inf  # size of the scene; height of the cut
        self._aimed = 0  # number of frames when the view was set
        self._lock = threading.RLock()
        self.panel.on_change(
            time=self.update_time,
            visibility=self.update_visibility,
            points=self.update_points,
            point_size=self.update_point_size,
        )

    def show(self, frames: Sequence[RunFrame], graph: MapGraph | None = None) -> None:
        """Show these frames and no others, with their map, and set the view so that all fits."""
        with self._lock, self._server.atomic():
            self._clear()
            self._stride = max(1, -(-sum(frame.depth.size for frame in frames) // MAX_POINTS))
            self.panel.extend_confidence(frames)
            self._aim(frames, self._server.get_clients().values())
            if graph is not None:
                self.map = MapLines(self._server.scene, graph, 0.02 * self._extent)
                self.panel.map.visible = len(self.map.nodes) > 0
            for frame in frames:
                self._append(frame)
            self.panel.set_frames([frame.stamp_ns for frame in self.frames])
            self._select_newest()

    def offer_segments(
        self, sizes: Sequence[int], chosen: int, show: Callable[[int], None]
    ) -> None:
        """Let the user choose a segment of the map; `show` is given its number."""

        def changed(number: int) -> None:
            with self._lock:  # one at a time
                show(number)

        self.panel.offer_segments(sizes, chosen, changed)

    def add(self, frame: RunFrame) -> None:
        """Show one more frame; the view is set again whenever the number of frames has doubled."""
        with self._lock, self._server.atomic():
            self._stride = max(1, -(-frame.depth.size * min(self._keep, 200) // MAX_POINTS))
            newest = int(self.panel.frame.value) >= len(self.frames) - 1
            self.panel.extend_confidence([frame])
            self._append(frame)
            self.panel.set_frames([frame.stamp_ns for frame in self.frames])
            if len(self.frames) >= 2 * self._aimed:
                # Views of open pages, until the second aim; later the user may have moved them.
                early = len(self.frames) <= 2
                self._aim(self.frames, self._server.get_clients().values() if early else ())
            if newest:
                self._select_newest()

    def set_status(self, text: str) -> None:
        """Replace the text at the top of the panel (Markdown)."""
        self.panel.status.content = text

    def close(self) -> None:
        """Close the page."""
        with redirect_stdout(None):
            self._server.stop()

    # ---- controls

    def update_time(self) -> None:
        """Select the frame of the time that the panel has."""
        with self._lock:
            self.panel.follow_time()

    def update_visibility(self) -> None:
        """Show the clouds, frusta, images and keyframes that the panel selects."""
        with self._lock, self._server.atomic():
            if not self.frames:
                return
            self.panel.follow_frame()
            at = self.panel.selected(len(self.frames))
            every = -(-(at + 1) // MAX_FRUSTA)
            for index, (cloud, frustum) in enumerate(zip(self.clouds, self.frusta, strict=True)):
                cloud.visible = index <= at if self.panel.all_frames.value else index == at
                omitted = index % every and index != at
                frustum.visible = cloud.visible and self.panel.cameras.value and not omitted
                frustum.color = SELECTED if index == at else EARLIER
            self.map.show(self.frames[at].stamp_ns, visible=self.panel.map.value)
            self.panel.show_images(self.frames, at)

    def update_points(self) -> None:
        """Apply the panel's minimum confidence and cut to all clouds."""
        with self._lock, self._server.atomic():
            for frame, cloud in zip(self.frames, self.clouds, strict=True):
                cloud.points, cloud.colors = self._points(frame)

    def update_point_size(self) -> None:
        """Apply the panel's point size to all clouds."""
        with self._lock, self._server.atomic():
            for frame, cloud in zip(self.frames, self.clouds, strict=True):
                cloud.point_size = self._point_size(frame)

    def _select_newest(self) -> None:
        self.panel.select_newest()
        self.update_visibility()

    def _clear(self) -> None:
        for node in (*self.clouds, *self.frusta, self.map):
            node.remove()
        self.frames, self.clouds, self.frusta = [], [], []
        self.map = MapLines(self._server.scene, MapGraph.empty(), 1.0)

    # ---- scene

    def _append(self, frame: RunFrame) -> None:
        points, colours = self._points(frame)
        cloud = self._server.scene.add_point_cloud(
            f"/clouds/{self._count}",
            points,
            colours,
            point_size=self._point_size(frame),
            point_shape="circle",
            point_shading="flat",
            precision="float32",
        )
        self.frames.append(frame)
        self.clouds.append(cloud)
        self.frusta.append(self._frustum(frame))
        self._count += 1
        while len(self.frames) > self._keep:
            del self.frames[0]
            self.clouds.pop(0).remove()
            self.frusta.pop(0).remove()

    def _frustum(self, frame: RunFrame) -> Any:
        height, width = frame.depth.shape
        x, y, z, w = quaternion_from_rotation(frame.world_from_camera[:3, :3])
        pose = {"wxyz": (w, x, y, z), "position": frame.world_from_camera[:3, 3]}
        frustum = self._server.scene.add_camera_frustum(
            f"/cameras/{self._count}",
            fov=float(2 * np.arctan(height / 2 / frame.intrinsics[1, 1])),
            aspect=float(width / height * frame.intrinsics[1, 1] / frame.intrinsics[0, 0]),
            scale=0.03 * self._extent,
            thickness=2.0,
            thickness_units="screen",
            color=EARLIER,
            image=frame.image[::2, ::2],
            format="jpeg",
            cast_shadow=False,
            receive_shadow=False,
            **pose,
        )

        @frustum.on_click
        def _(event: Any) -> None:  # move the view to this camera
            event.client.camera.wxyz, event.client.camera.position = pose["wxyz"], pose["position"]

        return frustum

    def _points(
        self, frame: RunFrame
    ) -> tuple[Float32[np.ndarray, "p 3"], UInt8[np.ndarray, "p 3"]]:
        """World points and colours of the pixels that the panel lets through."""
        chosen = np.flatnonzero(_confident(frame, self.panel.confidence.value))[:: self._stride]
        points = unproject(frame.depth, frame.intrinsics).reshape(-1, 3)[chosen]
        world = transform(frame.world_from_camera, points).astype(np.float32)
        low = world[:, 2] <= (self._ceiling if self.panel.cut.value else np.inf)
        return world[low], frame.image.reshape(-1, 3)[chosen][low]

    def _point_size(self, frame: RunFrame) -> float:
        """World width of a pixel at the median depth, so that surfaces are closed at size 1."""
        valid = frame.depth[np.isfinite(frame.depth)]
        middle = float(np.median(valid)) if valid.size else 1.0
        pixel = middle / frame.intrinsics[0, 0]
        return float(self.panel.point_size.value) * pixel * self._stride**0.5

    def _aim(self, frames: Sequence[RunFrame], pages: Iterable[Any]) -> None:
        """Set the initial view: behind and above the cameras, with all of them in the image.

        So is that of these open pages.
        """
        some = frames[:: max(1, len(frames) // 20)]
        points = np.concatenate([self._points(frame)[0][::7] for frame in some]).astype(float)
        poses = np.array([frame.world_from_camera for frame in frames])
        box = bounds(points, poses)
        self._extent, self._aimed, self._ceiling = (
            diagonal(box),
            len(frames),
            cut_height(poses, box),
        )
        self._server.scene.add_grid(
            "/floor",
            infinite_grid=True,
            cell_size=self._extent / 20,
            section_size=self._extent / 5,
            cell_color=(45, 48, 54),
            section_color=(60, 64, 72),
            fade_distance=4 * self._extent,
            position=(0.0, 0.0, float(box[0, 2])),
        )
        start = perspective_camera(points, poses, box, int(1.3 * VIEW_HEIGHT), VIEW_HEIGHT)
        rotation = start.camera_from_world[:3, :3]
        position = -rotation.T @ start.camera_from_world[:3, 3]
        for camera in (self._server.initial_camera, *(page.camera for page in pages)):
            camera.position, camera.look_at = position, position + self._extent * rotation[2]
            camera.up = (0.0, 0.0, 1.0)


def reachable(host: str) -> str:
    """What to type in a browser for a server that listens on `host`; of all addresses, this
    machine's own."""
    if host not in ("0.0.0.0", "::", ""):
        return f"[{host}]" if ":" in host else host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: chooses the way out, and its address
            return probe.getsockname()[0]
        except OSError:  # no network
            return socket.gethostname()


def _confident(frame: RunFrame, least: float) -> Bool[np.ndarray, "h w"]:
    return (frame.depth < MAX_DEPTH) & ((frame.confidence >= least) | (least <= 1.0))
