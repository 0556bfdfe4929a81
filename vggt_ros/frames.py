# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Records of the pipeline: an observation in; views placed in the world and tracks out.

And how a registered window becomes views.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8, UInt32

from vggt_ros.imaging.grid import Grid, to_network
from vggt_ros.imaging.masks import Masked, Masking
from vggt_ros.imaging.rectify import Rectification
from vggt_ros.mapping.corrections import Correction, KeyframePoses
from vggt_ros.mapping.metric.odometry import OdometryBuffer
from vggt_ros.mapping.metric.scale import NO_ESTIMATE, Estimate
from vggt_ros.mapping.placement import Placement
from vggt_ros.mapping.rig.report import RigReport
from vggt_ros.mapping.segment import Registration
from vggt_ros.mapping.status import NO_STATUS, MapStatus
from vggt_ros.mapping.velocity import Velocity
from vggt_ros.mapping.window import WindowGeometry

IDENTITY = np.eye(4)
IDENTITY.flags.writeable = False  # it is shared
ORIGIN = np.zeros(3)
ORIGIN.flags.writeable = False
NOTHING = Masked()
NO_KEYFRAMES = KeyframePoses.empty()
NO_PIXELS = np.zeros((0, 0, 3), np.uint8)


class Frame(NamedTuple):
    """One image as the camera took it."""

    rgb: UInt8[np.ndarray, "h w 3"]
    stamp_ns: int
    camera: str = "camera"  # the camera's optical frame id
    intrinsics: Float[np.ndarray, "3 3"] | None = None  # calibrated K of it, once rectified
    rectification: Rectification | None = None  # None: it is used as it comes
    name: str = ""  # of its file or message, where it comes from one
    camera_name: str = ""  # of a rig's camera; empty: there is one camera


class ExtraView(NamedTuple):
    """What another camera of the same rig saw at that moment."""

    rgb: UInt8[np.ndarray, "h w 3"]
    stamp_ns: int
    camera_from_extra: Float[np.ndarray, "4 4"]  # as mounted, in metres
    rectification: Rectification | None = None  # None: it is used as it comes


@runtime_checkable
class DepthSource(Protocol):
    """Another sensor of depth, asked after the inference and later: its messages come late."""

    def depth_at(self, frame: Frame, grid: Grid) -> Float32[np.ndarray, "h w"] | None:
        """Metres on the pixels of the frame's image, or NaN; None: nothing came so far.

        `grid` has the size of that image; the pixels themselves may be gone from `frame`.
        """
        ...


class Observation(NamedTuple):
    """A frame, and what the robot measured at its stamp; None: nothing, or nothing new."""

    frame: Frame
    base_from_camera: Float[np.ndarray, "4 4"] | None = None  # where the camera is mounted
    world_from_base: Float[np.ndarray, "4 4"] | None = None  # where a map begins; None: the origin
    odom_from_base: OdometryBuffer | None = None  # read after the inference: messages come late
    up_in_camera: Float[np.ndarray, "3"] | None = None  # of any length; used without a mount
    sensor_depth: Float32[np.ndarray, "h w"] | None = None  # metres on the image's pixels, or NaN
    extra_view: ExtraView | None = None  # for scale source baseline
    mask: Bool[np.ndarray, "mh mw"] | None = None  # true: ignore; of the image's shape, any size
    depth_source: DepthSource | None = None  # where `sensor_depth` will come from, if it is late


class Instant(NamedTuple):
    """What the cameras of a rig saw at one moment: those that are there, each once."""

    observations: tuple[Observation, ...]  # one at least; each camera has its own stamp
    # `rig_from_camera` in metres by name, of one frame that is rigid with all of them; a camera
    # that is missing here stands where the images say.
    rig: Mapping[str, Float[np.ndarray, "4 4"]] = {}  # noqa: RUF012 (never written)


class Needs(NamedTuple):
    """What the next observation should bring besides its frame, to be of use."""

    level: bool  # the map begins: which way is up still counts
    extra_view: bool


class WindowFrame(NamedTuple):
    """A frame of the window, on the network's grid."""

    frame: Frame
    grid: Grid
    pixels: UInt8[np.ndarray, "h w 3"]  # on that grid
    sensor_depth: Float32[np.ndarray, "h w"] | None = None  # on the image's pixels
    masked: Masked = NOTHING  # what is ignored of it
    instant: int = -1  # number of the first frame that was taken at the same moment

    @property
    def shown(self) -> UInt8[np.ndarray, "h w 3"]:
        """What the network sees: the pixels, or without what is covered."""
        return self.pixels if self.masked.shown is None else self.masked.shown

    def depth_on_grid(self) -> Float[np.ndarray, "h w"] | None:
        """The other sensor's depth on the network's grid: the nearest pixel of the input."""
        if self.sensor_depth is None:
            return None
        depth, valid = self.sensor_depth[self.grid.nearest_input()], self.grid.valid
        return depth if valid is None else np.where(valid, depth, np.float32(np.nan))


class View(NamedTuple):
    """One frame of the window, placed in the world (z up), on the network's pixel grid."""

    frame_id: int
    stamp_ns: int
    camera: str
    grid: Grid
    rgb: UInt8[np.ndarray, "h w 3"]
    intrinsics: Float[np.ndarray, "3 3"]
    world_from_camera: Float[np.ndarray, "4 4"]
    depth: Float32[np.ndarray, "h w"] | None  # z-depth in world units; None: not computed
    confidence: Float32[np.ndarray, "h w"] | None
    input_rgb: UInt8[np.ndarray, "H W 3"]  # the image at the camera's own size
    segment: int = 0  # of the map in which it was placed
    keyframe: int = -1  # the keyframe that it belongs to and moves with; -1: none
    camera_name: str = ""  # of a rig's camera; empty: there is one camera
    instant: int = -1  # frame_id of the first that was taken at the same moment; -1: its own

    def masked_depth(self, min_confidence: float) -> Float32[np.ndarray, "h w"]:
        """Depth with NaN wherever it is not to be trusted."""
        assert self.depth is not None and self.confidence is not None
        usable = self.confidence >= min_confidence
        usable &= self.depth > 0
        usable &= self.depth < np.inf
        return np.where(usable, self.depth, np.float32(np.nan))


class Tracks(NamedTuple):
    """Where the queried points are in each frame of the window, in pixels of its input image."""

    ids: UInt32[np.ndarray, "n"]
    stamps_ns: tuple[int, ...]
    uv: Float32[np.ndarray, "s n 2"]
    visibility: Float32[np.ndarray, "s n"]
    confidence: Float32[np.ndarray, "s n"]
    cameras: tuple[str, ...] = ()  # optical frame id of each frame


class Update(NamedTuple):
    """The result of one inference: the window's views oldest to newest, and its registration.

    Of a rig, the views of an instant follow each other, and the camera that moves is its reference:
    the first of its cameras, which has a pose even where it has no image.
    """

    views: tuple[View, ...]
    fresh: int  # how many of the newest views were never published before
    tracks: Tracks | None
    window_id: int
    registration: Registration
    seconds: dict[str, float]
    metric: bool = False  # are world units metres?
    scale: Estimate = NO_ESTIMATE
    focal: float | None = None  # the network's focal length over the calibrated one
    velocity: Velocity | None = None  # of the newest camera; None: not known
    missing: int = 0  # older frames of the window that the inference left out
    keyframes: KeyframePoses = NO_KEYFRAMES  # where every keyframe stands now
    odom_from_world: Float[np.ndarray, "4 4"] = IDENTITY  # rigid; absorbs what corrections moved
    status: MapStatus = NO_STATUS
    scale_about: Float[np.ndarray, "3"] = ORIGIN  # world; an error of the scale moves nothing there
    rig: RigReport | None = None  # None: there is one camera
    reference: Float[np.ndarray, "4 4"] | None = None  # its world_from_camera, of a rig
    as_sequence: str = ""  # why layout view_time did not attend by views; empty: it did, or is not

    @property
    def newest_views(self) -> tuple[View, ...]:
        """The views of the newest instant; of a single camera its newest view."""
        newest = self.views[-1]
        if newest.instant < 0:
            return (newest,)
        return tuple(view for view in self.views if view.instant == newest.instant)

    @property
    def world_from_reference(self) -> Float[np.ndarray, "4 4"]:
        """Where the newest camera is; of a rig its reference, image or not."""
        return self.views[-1].world_from_camera if self.reference is None else self.reference

    @property
    def stamp_ns(self) -> int:
        """Of that pose: of the first camera of the rig that has an image."""
        return self.newest_views[0].stamp_ns

    @property
    def covariance(self) -> Float[np.ndarray, "6 6"]:
        """Of the newest camera (x y z, rotation vector), with that of the scale along its way.

        Of a refused window it is that of the prediction, which grows with time.
        """
        away = np.zeros(6)
        away[:3] = self.world_from_reference[:3, 3] - self.scale_about
        sigma = self.scale.sigma if self.metric else 1.0
        return self.registration.covariance + sigma**2 * np.outer(away, away)

    @property
    def scale_source(self) -> str:
        """The source of the scale; "none": units are arbitrary."""
        return self.scale.source


def window_frames(
    observations: Sequence[Observation], grids: Sequence[Grid], masking: Masking
) -> list[WindowFrame]:
    """The frames on their network grids, and what is ignored of each; images side by side."""
    images = [observation.frame.rgb for observation in observations]
    if len(images) == 1:
        resized = [to_network(images[0], grids[0])]
    else:  # Pillow's and NumPy's loops run without Python's lock
        with ThreadPoolExecutor(len(images)) as pool:
            resized = list(pool.map(to_network, images, grids))
    return [
        _window_frame(*each, masking) for each in zip(observations, grids, resized, strict=True)
    ]


def _window_frame(
    observation: Observation, grid: Grid, pixels: UInt8[np.ndarray, "H W 3"], masking: Masking
) -> WindowFrame:
    masked = masking.of(pixels, grid, observation.mask)
    return WindowFrame(observation.frame, grid, pixels, observation.sensor_depth, masked)


def place_views(
    window: WindowGeometry,
    frames: Sequence[WindowFrame],
    placed: Placement,
    known: Mapping[int, View],
    correction: Correction,
) -> dict[int, View]:
    """The window's views in the world, by frame; frames without depth keep what was known.

    `correction`: what moved since that became known.
    """
    unit = np.float32(placed.registration.world_from_window.scale)
    without_depth = len(window.frame_ids) - len(window.depth)
    instants = window.instants or window.frame_ids
    views: dict[int, View] = {}
    for i, (key, frame) in enumerate(zip(window.frame_ids, frames, strict=True)):
        j = i - without_depth
        if j < 0 and key in known:
            views[key] = corrected(known[key], placed.keyframes, correction)
            continue
        views[key] = View(
            frame_id=key,
            stamp_ns=frame.frame.stamp_ns,
            camera=frame.frame.camera,
            grid=frame.grid,
            rgb=frame.pixels,
            intrinsics=window.intrinsics[i],
            world_from_camera=placed.world_from_camera[i],
            depth=window.depth[j] * unit if j >= 0 else None,
            confidence=window.confidence[j] if j >= 0 else None,
            input_rgb=frame.frame.rgb,
            segment=placed.registration.segment,
            keyframe=_keyframe(instants[i], window.frame_ids, placed.keyframes),
            camera_name=frame.frame.camera_name,
            instant=instants[i],
        )
    return views


def corrected(view: View, keyframes: KeyframePoses, correction: Correction) -> View:
    """A view as it was known, where its keyframe is now."""
    motion = correction.moved.get(view.keyframe)
    if motion is not None:
        depth = None if view.depth is None else view.depth * np.float32(motion.scale)
        pose = motion.apply_to_poses(view.world_from_camera[None])[0]
        view = view._replace(world_from_camera=pose, depth=depth)
    key = correction.heirs.get(view.keyframe, view.keyframe)
    if key not in keyframes or (key, keyframes.segment(key)) == (view.keyframe, view.segment):
        return view  # the very same: what was computed of it is known by that
    return view._replace(keyframe=key, segment=keyframes.segment(key))


def _keyframe(frame_id: int, window: Sequence[int], keyframes: KeyframePoses) -> int:
    """The keyframe that a view moves with: its instant's, else the newest of the window."""
    stored = [key for key in window if key in keyframes]
    return frame_id if frame_id in stored else stored[-1] if stored else -1
