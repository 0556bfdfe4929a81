# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Latched outputs: what a late subscriber receives, and what all see once the map is gone."""

from typing import Any

import pytest
from nav_msgs.msg import Path
from node_rig import PERIOD, START, TIMEOUT, TOPICS, Rig
from sensor_msgs.msg import PointCloud2
from test_lifecycle import ACTIVATE, CLEANUP, CONFIGURE, DEACTIVATE, Manager
from vggt_ros.msg import MapStatus
from visualization_msgs.msg import Marker, MarkerArray

from vggt_ros.ros import messages

pytestmark = pytest.mark.ros

KINDS = {"path": Path, "map_points": PointCloud2, "keyframes": MarkerArray, "status": MapStatus}


def test_a_late_subscriber_receives_the_map_without_another_image(rig: Rig):
    node = rig.start()
    rig.infer(0, 1, 2)
    rig.wait_until(lambda: node.outputs.map.size, "two views are settled in the map")
    received = rig.subscribe("/vggt/map_points", PointCloud2, latched=True)
    rig.wait_until(lambda: received, "the map arrives")
    assert received[0].width == node.outputs.map.size
    assert received[0].header.stamp == messages.time_message(START + 2 * PERIOD)


def test_a_late_subscriber_receives_the_path_without_another_image(rig: Rig):
    rig.start()
    rig.infer(0, 1, 2)
    paths = rig.subscribe("/vggt/path", TOPICS["/vggt/path"], latched=True)
    rig.wait_until(lambda: paths, "the path")
    assert len(paths[-1].poses) == 3


def wait_until_empty(rig: Rig, found: dict[str, list[Any]]) -> None:
    """Until the last message of each topic shows that there is no map."""
    rig.wait_until(lambda: found["path"] and not found["path"][-1].poses, "an empty path")
    rig.wait_until(
        lambda: found["map_points"] and found["map_points"][-1].width == 0, "an empty cloud"
    )
    rig.wait_until(
        lambda: found["keyframes"] and found["keyframes"][-1].markers[0].action == Marker.DELETEALL,
        "no keyframes",
    )
    rig.wait_until(
        lambda: found["status"] and found["status"][-1].state == MapStatus.INITIALISING,
        "the state of no map",
    )


@pytest.mark.parametrize("emptied", ["reset", "cleaned up"])
def test_nothing_of_the_map_before_is_shown_once_it_is_gone(rig: Rig, emptied: str):
    """Neither to those who have subscribed, nor to a late subscriber, without another image."""
    manager = Manager(rig, map_period=0.1)
    manager.walk(CONFIGURE, ACTIVATE)
    rig.wait_until(rig.images.get_subscription_count, "the node subscribes")
    seen = {n: rig.subscribe_matched(f"/vggt/{n}", kind) for n, kind in KINDS.items()}
    rig.infer(*range(6))
    rig.wait_until(lambda: all(seen.values()) and seen["map_points"][-1].width, "a map")
    if emptied == "reset":
        assert rig.call("reset").success
    else:
        manager.walk(DEACTIVATE, CLEANUP, CONFIGURE, ACTIVATE)
    late = {n: rig.subscribe(f"/vggt/{n}", kind, latched=True) for n, kind in KINDS.items()}
    for found in (seen, late):
        wait_until_empty(rig, found)
    rig.wait_until(rig.images.get_subscription_count, "the node subscribes again")
    rig.infer(*range(6, 12))
    rig.wait_until(lambda: seen["map_points"][-1].width and late["map_points"][-1].width, "a map")
    rig.wait_until(lambda: seen["status"][-1].state == MapStatus.TRACKING, "a new map")


def test_nothing_of_a_map_that_was_cleared_while_nobody_listened_is_shown(rig: Rig):
    """The middleware still has the last messages of it."""
    node = rig.start(map_period=0.1)
    before = len(list(rig.peer.subscriptions))
    seen = {n: rig.subscribe_matched(f"/vggt/{n}", kind) for n, kind in KINDS.items()}
    rig.infer(*range(6))
    rig.wait_until(lambda: all(seen.values()) and seen["map_points"][-1].width, "a map")
    for subscription in list(rig.peer.subscriptions)[before:]:
        rig.peer.destroy_subscription(subscription)
    for name in KINDS:
        publisher = rig.publisher(f"/vggt/{name}")
        rig.wait_until(lambda p=publisher: p.get_subscription_count() == 0, f"{name} is left")
    assert rig.call("reset").success
    rig.wait_until(lambda: node.outputs.map.size == 0, "the reset")
    assert node.sender.wait_until_idle(TIMEOUT), "it is over before one subscribes"
    for _ in range(2):  # each of them
        wait_until_empty(
            rig, {n: rig.subscribe(f"/vggt/{n}", kind, latched=True) for n, kind in KINDS.items()}
        )
