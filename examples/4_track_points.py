#!/usr/bin/env python3
# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Ask the node to track pixels, and read where they are in every frame of its window.

ros2 launch vggt_ros vggt.launch.py           # in another terminal
python examples/4_track_points.py [U V ...]   # pixels of the input image
"""

import sys

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from vggt_ros.msg import PointTracks, QueryPoints


class Tracker(Node):
    """Sends the query until tracks arrive, then prints the newest place of each point."""

    def __init__(self, uv: list[float]) -> None:
        super().__init__("tracker")
        self.count = 0
        ids = list(range(len(uv) // 2))
        # Stamp zero: the pixels belong to the newest frame.
        self._query = QueryPoints(ids=ids, u=uv[::2], v=uv[1::2])
        self._publisher = self.create_publisher(QueryPoints, "/vggt/query_points", 10)
        self.create_subscription(PointTracks, "/vggt/tracks", self._on_tracks, 10)
        self._timer = self.create_timer(2.0, lambda: self._publisher.publish(self._query))

    def _on_tracks(self, msg: PointTracks) -> None:
        self._timer.cancel()  # the node tracks them from now on
        shape = len(msg.stamps), len(msg.ids)  # frames, points
        u, v, visibility = (np.reshape(x, shape) for x in (msg.u, msg.v, msg.visibility))
        self.count += 1
        for i, key in enumerate(msg.ids):
            print(f"point {key}: {u[-1, i]:.1f} {v[-1, i]:.1f}, visible {visibility[-1, i]:.0%}",
                  flush=True)  # fmt: skip


def main() -> None:
    rclpy.init()
    node = Tracker([float(x) for x in sys.argv[1:]] or [160.0, 120.0, 320.0, 240.0])
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass


if __name__ == "__main__":
    main()
