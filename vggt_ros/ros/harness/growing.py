# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Time to publish an update late in a run: path, keyframes and cloud at their default lengths."""

import time
from collections import defaultdict
from statistics import median

import numpy as np

from vggt_ros.frames import Frame, Observation, Update
from vggt_ros.mapping.cloud.voxels import OwnedCloud
from vggt_ros.mapping.corrections import Correction, KeyframePoses
from vggt_ros.mapping.map_files import LoadedMap
from vggt_ros.mapping.pose_graph.keyframes import KeyframeStore
from vggt_ros.ros.harness.instant_engine import InstantEngine
from vggt_ros.ros.harness.timing import PERIOD, START, TIMEOUT, Part, measured_node
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.publishing.following import Change

SIDE = 76  # points along each edge of a cube that nearly fills the default cloud
TOPICS = "path", "keyframes", "map_points"  # that grow with the run


def grown_times(
    repeats: int = 100,
    *,
    image_size: tuple[int, int] = (640, 480),
    network_width: int = 518,
    window_size: int = 4,
) -> list[Part]:
    """Medians of what grows, and of all topics of one update, over `repeats` updates.

    Each topic has a subscriber. Keyframes and cloud are sent every `map_period`, which here is
    every twentieth update, each in an update of its own; their rows, and the last one, which is
    that of the cloud, are of those updates alone.
    """
    width, height = image_size
    image = np.zeros((height, width, 3), np.uint8)
    samples: dict[str, list[float]] = defaultdict(list)
    poses, count = Parameters.path_length, Parameters.max_keyframes
    with measured_node(InstantEngine(network_width), window_size) as node:
        pipeline, outputs = node.inference.pipeline, node.outputs
        node.sender.wait_until_idle(TIMEOUT)
        for i in range(repeats + window_size + 1):
            stamp = START + (poses + i) * PERIOD
            update = pipeline.step(Observation(Frame(image, stamp, "camera")))
            assert update is not None
            if i < window_size:
                continue
            update = update._replace(keyframes=_keyframes(count))
            if i == window_size:
                outputs.load(_loaded(height, width))
                outputs.path.update(_long(update, poses), _nothing_moved(), poses)
            before = outputs.seconds
            began = time.perf_counter()
            outputs.publish(update)
            total, after = time.perf_counter() - began, outputs.seconds
            if i == window_size:
                continue
            sent = [topic for topic in TOPICS if after[topic] != before[topic]]
            for topic in sent:
                samples[topic].append(1e3 * after[topic])
            name = "all topics and the map" if "map_points" in sent else "all topics"
            samples[name].append(1e3 * total)
    names = {
        "path": f"path of {poses} poses",
        "keyframes": f"{count} keyframes",
        "map_points": f"map of {SIDE**3} points",
    }
    order = (*TOPICS, "all topics", "all topics and the map")
    return [Part(names.get(name, name), median(samples[name])) for name in order]


def _keyframes(count: int) -> KeyframePoses:
    ids = np.arange(count)
    places = np.stack([0.3 * ids, np.zeros(count), np.zeros(count)], axis=1)
    turns = np.broadcast_to(np.eye(3), (count, 3, 3))
    return KeyframePoses(ids, ids, 0 * ids, np.ones(count), turns, places)


def _long(update: Update, poses: int) -> Update:
    """The same with this many views, which were before it."""
    newest = update.views[-1]
    views = [
        newest._replace(stamp_ns=newest.stamp_ns - (poses - i) * PERIOD, keyframe=i // 5)
        for i in range(poses)
    ]
    return update._replace(views=tuple(views))


def _nothing_moved() -> Change:
    return Change(Correction({}, {}), {}, 0, is_other_map=False)


def _loaded(height: int, width: int) -> LoadedMap:
    """A saved map with a large cloud."""
    edge = 0.06 * np.arange(SIDE, dtype=np.float32)
    points = np.stack(np.meshgrid(edge, edge, edge), axis=-1).reshape(-1, 3)
    count = len(points)
    cloud = OwnedCloud(
        points,
        np.full((count, 3), 128, np.uint8),
        np.full(count, 3.0, np.float32),
        np.zeros(count, np.int64),
    )
    return LoadedMap(KeyframeStore(10), 0, False, np.inf, (height, width), "bench", cloud)
