# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a map of thousands of keyframes costs: a step, a loop, the graph, the cloud, its memory."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from vggt_ros.geometry import Similarity, unproject
from vggt_ros.imaging.compressed import compress
from vggt_ros.mapping.cloud.flat import Band
from vggt_ros.mapping.cloud.occupancy import READ_AT_ONCE, GridBuilder
from vggt_ros.mapping.cloud.voxel_sweep import CloudSweep
from vggt_ros.mapping.cloud.voxels import VoxelMap
from vggt_ros.mapping.corrections import Correction, KeyframeFollower, KeyframePoses
from vggt_ros.mapping.map import Map
from vggt_ros.mapping.metric.measuring import Priors
from vggt_ros.mapping.pose_graph import graph
from vggt_ros.mapping.pose_graph.edges import LOOP, SEQUENCE, Edge
from vggt_ros.mapping.pose_graph.keyframe import Keyframe
from vggt_ros.mapping.pose_graph.keyframe_map import Appearance
from vggt_ros.mapping.pose_graph.keyframes import KeyframeStore
from vggt_ros.mapping.pose_graph.loops import LoopView
from vggt_ros.mapping.window import WindowGeometry, level_camera
from vggt_ros.settings import Settings
from vggt_ros.tools.bench.load import host_memory
from vggt_ros.tools.bench.main import Row

KEYFRAMES = 2000
LAP = 100  # keyframes of one way round the room
RADIUS = 1.2  # metres
STEPS = 300  # windows, each of which brings a keyframe
LOOP_EVERY = 5  # windows
PERIOD_NS = 100_000_000  # from one frame to the next
CHANNELS = 1024  # of a descriptor, as VGGT-1B's
DEPTH_PIXELS = 3000  # of a keyframe, about
DRIFT = 0.002  # metres a keyframe, by which a loop finds the map to be off
VOXELS = 400_000
FOLLOWED = 40  # updates in which the cloud follows corrections
MORE = 2000  # points that an update adds to a cloud that is full
ROOM = np.array([3.0, 4.0, 1.5])  # metres from its middle to its walls


def rows(size: int, width: int, height: int) -> Iterator[Row]:
    """For windows of `size` frames; milliseconds are CPU time of the calling thread."""
    grid = f"{width}x{height}"
    before = host_memory("VmRSS")
    window_map = _full_map(width, height)
    megabytes = (host_memory("VmRSS") - before) / 1e6
    yield Row(f"map_mb/keyframes/{grid}/N{KEYFRAMES}", megabytes, "MB", "lower", "at most 400")
    frames = _Frames(width, height)
    steps, loops = _drive(window_map, frames, size, width, height)
    name = f"{grid}/S{size}/N{KEYFRAMES}"
    yield Row(f"map_ms/step/{name}", float(np.median(steps)), "ms", "lower", "at most 12")
    yield Row(f"map_ms/step_p99/{name}", _p99(steps), "ms", "lower", "at most 30")
    yield Row(f"map_ms/loop_step/{name}", float(np.median(loops)), "ms", "lower", "at most 30")
    window_map.close(5.0)
    seconds = _solve(window_map.keyframes.store)
    yield Row(f"map_s/graph_loop/N{KEYFRAMES}", seconds, "s", "lower", "below 1")
    cloud = _cloud(window_map.keyframes.store)
    parts = _grid_parts(cloud, window_map.keyframes.store.snapshot())
    name = f"N{KEYFRAMES}/{VOXELS}"
    yield Row(f"map_ms/occupancy_part/{name}", float(np.median(parts)), "ms", "lower", "at most 3")
    yield Row(f"map_ms/occupancy_p99/{name}", _p99(parts), "ms", "lower", "at most 6")
    yield Row(f"map_ms/occupancy/{name}", sum(parts), "ms", "lower")
    follow = _follow_cloud(window_map.keyframes.store, cloud)
    yield Row(f"map_ms/follow/N{KEYFRAMES}", float(np.median(follow)), "ms", "lower", "below 12")
    yield Row(f"map_ms/follow_p99/N{KEYFRAMES}", _p99(follow), "ms", "lower", "below 30")
    coarser = _make_coarser(window_map.keyframes.store)
    yield Row(f"map_ms/coarser_max/{VOXELS}", max(coarser), "ms", "lower", "below 50")


def depth_frames(size: int) -> int:
    """How many of a window's newest frames have depth by default."""
    return Settings(window_size=size).frames_with_depth


def timed(work: Callable, *arguments: Any) -> tuple[Any, float]:
    """What it returns, and its milliseconds of CPU time."""
    start = time.thread_time()
    result = work(*arguments)
    return result, 1e3 * (time.thread_time() - start)


def _p99(milliseconds: Sequence[float]) -> float:
    return float(np.percentile(milliseconds, 99))


# ---- a map, and windows that go on in it --------------------------------------------------------


def _camera(i: int) -> Float[np.ndarray, "4 4"]:
    """world_from_camera of frame i, on a circle through the room, facing along it."""
    yaw = 2.0 * np.pi * i / LAP
    turn = np.array(
        [[np.cos(yaw), -np.sin(yaw), 0.0], [np.sin(yaw), np.cos(yaw), 0.0], [0.0, 0.0, 1.0]]
    )
    camera = level_camera()
    camera[:3, :3] = turn @ camera[:3, :3]
    camera[:3, 3] = RADIUS * np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    return camera


def _intrinsics(width: int, height: int) -> Float[np.ndarray, "3 3"]:
    return np.array([[0.7 * width, 0, width / 2], [0, 0.7 * width, height / 2], [0, 0, 1.0]])


def _depth(i: int, intrinsics: Float[np.ndarray, "3 3"], width: int, height: int) -> np.ndarray:
    """z-depth of the walls at frame i."""
    camera = _camera(i)
    rays = unproject(np.ones((height, width)), intrinsics) @ camera[:3, :3].T
    rays = np.where(np.abs(rays) < 1e-9, 1e-9, rays)
    return ((np.sign(rays) * ROOM - camera[:3, 3]) / rays).min(axis=-1)


class _Frames:
    """The frames of the window, as the map asks for them."""

    def __init__(self, width: int, height: int):
        random = np.random.default_rng(0)
        cells = random.uniform(0, 255, (height // 14, width // 14, 3))
        rgb = np.kron(cells, np.ones((14, 14, 1))) + random.normal(0, 6, (height, width, 3))
        self.image = compress(np.clip(rgb, 0, 255).astype(np.uint8))
        self.places = random.standard_normal((LAP, CHANNELS)).astype(np.float32)

    def describe(self, frame_id: int) -> Float32[np.ndarray, "d"]:
        """Of a place on the way, whatever the lap."""
        place = self.places[frame_id % LAP]
        return place / np.linalg.norm(place)

    def appearance(self, frame_id: int) -> Appearance:
        """Bytes of its own, as those of every image are."""
        return Appearance(frame_id * PERIOD_NS, "camera", bytes(bytearray(self.image)))


def _full_map(width: int, height: int) -> Map:
    """A map with all the keyframes that it may have, tied one to the next."""
    step = max(1, round((width * height / DEPTH_PIXELS) ** 0.5))
    wide, high = -(-width // step), -(-height // step)
    coarse = np.diag([1.0 / step, 1.0 / step, 1.0]) @ _intrinsics(width, height)
    frames = _Frames(width, height)
    window_map = Map(
        priors=Priors(world_from_camera=_camera(KEYFRAMES)),
        loop_period=LOOP_EVERY,
        max_keyframes=KEYFRAMES,
        background=True,
    )
    store = window_map.keyframes.store
    for i in range(KEYFRAMES):
        pose, seen = _camera(i), frames.appearance(i)
        where = Similarity(1.0, pose[:3, :3], pose[:3, 3])
        depth = _depth(i, coarse, wide, high)
        store.add(
            Keyframe(
                i, seen.stamp_ns, "camera", 0, where, coarse, depth, frames.describe(i), seen.image
            )
        )
        if i:
            store.add_edge(_edge(store, i - 1, i))
    return window_map


def _edge(store: KeyframeStore, one: int, other: int, kind: str = SEQUENCE) -> Edge:
    first, second = (store.get(key).world_from_keyframe for key in (one, other))
    return Edge(one, other, first.inverse() @ second, (0.004, 0.01, 0.01), kind)


def _drive(
    window_map: Map, frames: _Frames, size: int, width: int, height: int
) -> tuple[list[float], list[float]]:
    """Milliseconds of ordinary steps, and of those that judge a loop, of a map that is full."""
    steps, loops = [], []
    first = KEYFRAMES + size - 1  # the frames of the first window are all new
    for newest in range(first, first + STEPS):
        window, window_from_world = _window(newest, size, width, height, newest == first)
        seen, key = None, window_map.next_loop
        if key is not None:
            seen = LoopView(key, window_from_world.apply_to_poses(_camera(key)[None])[0])
        add = partial(window_map.add, frames=frames, seen=seen)
        placed, milliseconds = timed(add, window, newest * PERIOD_NS)
        assert placed.registration.accepted, placed.registration.reason
        if newest == first:
            store = window_map.keyframes.store
            store.add_edge(_edge(store, KEYFRAMES - 1, window.frame_ids[0]))
        else:
            (steps if seen is None else loops).append(milliseconds)
    return steps, loops


def _window(
    newest: int, size: int, width: int, height: int, is_first: bool
) -> tuple[WindowGeometry, Similarity]:
    """The last `size` cameras in a random unit, and noisy depth as by default."""
    random = np.random.default_rng(newest)
    ids = tuple(range(newest - size + 1, newest + 1))
    unit = 1.0 if is_first else float(np.exp(random.uniform(-1, 1)))
    moved = Similarity(unit, np.eye(3), np.zeros(3))
    intrinsics = _intrinsics(width, height)
    depth = np.stack([_depth(i, intrinsics, width, height) for i in ids[-depth_frames(size) :]])
    depth *= unit * np.exp(0.03 * random.standard_normal(depth.shape))
    window = WindowGeometry(
        ids,
        moved.apply_to_poses(np.stack([_camera(i) for i in ids])),
        np.tile(intrinsics, (size, 1, 1)),
        depth.astype(np.float32),
        random.uniform(1.6, 4.0, depth.shape).astype(np.float32),
    )
    return window, moved


# ---- graph and cloud ----------------------------------------------------------------------------


def _solve(store: KeyframeStore) -> float:
    """Seconds to close a loop over all keyframes whose map is off; NaN without gtsam."""
    if graph.unavailable():
        return float("nan")
    keys = store.ids.tolist()
    poses = {key: store.get(key).world_from_keyframe for key in keys}
    first, last = keys[0], keys[-1]
    off = Similarity(1.0, np.eye(3), np.array([DRIFT * len(keys), 0.0, 0.0]))
    measured = poses[first].inverse() @ off @ poses[last]
    loop = Edge(first, last, measured, (0.004, 0.01, 0.01), LOOP)
    start = time.thread_time()
    graph.optimise(poses, (*store.edges, loop), first)
    return time.thread_time() - start


def _cloud(store: KeyframeStore, capacity: int = 500_000) -> VoxelMap:
    """A full cloud around the keyframes."""
    random, cloud = np.random.default_rng(0), VoxelMap(capacity=capacity)
    keys, count = store.ids.tolist(), VOXELS // KEYFRAMES
    for key in keys:
        place = store.get(key).world_from_keyframe.translation
        points = (place + random.uniform(-20, 20, (count, 3))).astype(np.float32)
        cloud.add(points, np.zeros((count, 3), np.uint8), np.full(count, 2.0), keyframe=key)
        cloud.follow(Correction({}, {}))  # as every update has it
    return cloud


def _grid_parts(cloud: VoxelMap, keyframes: KeyframePoses) -> list[float]:
    """Milliseconds of each update in which the cloud is made a grid, a part at a time."""
    builder = GridBuilder(lambda: keyframes, Band(0.1, 2.0, 5.0), cloud.voxel)
    sweep, times = CloudSweep(cloud, 0, builder), []
    for go_on in (partial(sweep.advance, READ_AT_ONCE / cloud.count(0)), builder.draw):
        done = False
        while not done:
            done, milliseconds = timed(go_on)
            times.append(milliseconds)
    return times


def _follow_cloud(store: KeyframeStore, cloud: VoxelMap) -> list[float]:
    """Milliseconds of each update in which a full cloud follows a correction of the whole map."""
    follower, times = KeyframeFollower(), []
    follower.follow(store.snapshot())
    for i in range(FOLLOWED):
        if i % 20 == 0:
            store.rescale(0, 1.02, np.zeros(3))
        correction, compared = timed(follower.follow, store.snapshot())
        times.append(compared + timed(cloud.follow, correction)[1])
    return times


def _make_coarser(store: KeyframeStore) -> list[float]:
    """Milliseconds of each update in which a cloud with too many voxels gets larger ones."""
    cloud, random, times = _cloud(store, VOXELS), np.random.default_rng(1), []
    side, colours = cloud.voxel, np.zeros((MORE, 3), np.uint8)
    while cloud.voxel == side or cloud.is_moving:
        points = random.uniform(-20, 20, (MORE, 3)).astype(np.float32)
        _, added = timed(cloud.add, points, colours, np.full(MORE, 2.0))
        times.append(added + timed(cloud.follow, Correction({}, {}))[1])
    return times
