# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A rig of 640x480 cameras at 10 Hz on the real `tiny` network: nothing is mixed up or lost."""

import time
from threading import Thread

import numpy as np
import pytest
from node_rig import PERIOD, TIMEOUT, Rig
from rclpy.publisher import Publisher
from rig_robot import NAMES, START
from sensor_msgs.msg import Image

from vggt_ros.engine.engine import Engine
from vggt_ros.ros.messages import header, image_message, stamp_ns
from vggt_ros.ros.opening import open_engine

pytestmark = [pytest.mark.ros, pytest.mark.slow]

COUNT = 40  # images of each camera
SHIFT = 1_000_003  # nanoseconds from one camera's stamp to the next one's


def send(publishers: dict[str, Publisher], first: int) -> None:
    """Images of all cameras, ten a second; each has its number in its pixels."""
    for i in range(first, first + COUNT):
        for k, (name, publisher) in enumerate(publishers.items()):
            image = np.full((480, 640, 3), (7 * i + k) % 251, np.uint8)
            ns = START + i * PERIOD + k * SHIFT
            publisher.publish(image_message(header(ns, f"{name}_optical"), image))
        time.sleep(PERIOD * 1e-9)


@pytest.mark.parametrize("names", [NAMES[:2], NAMES])
def test_no_instant_is_mixed_up_and_each_image_is_accounted_for(rig: Rig, names: tuple[str, ...]):
    publishers = {n: rig.peer.create_publisher(Image, f"/{n}/image", 10) for n in names}
    colours = {n: rig.subscribe(f"/vggt/{n}/rgb/image_rect_color", Image) for n in names}
    node = rig.open(
        engine=open_engine, model="tiny", network_width=84, window_size=1, tf_mode="none",
        cameras=list(names), keyframes=False,
    )  # fmt: skip
    for name, publisher in publishers.items():
        rig.wait_until(lambda p=publisher: p.get_subscription_count() == 1, f"{name} is read")
        topic = f"/vggt/{name}/rgb/image_rect_color"
        rig.wait_until(lambda t=topic: rig.publisher(t).get_subscription_count(), "matched")
    rigged = node.rig
    assert rigged is not None
    sent, end = 0, time.monotonic() + 5 * TIMEOUT

    def fewest() -> int:
        return min(camera.counts["used"] for camera in rigged.cameras.values())

    while fewest() < 20 and time.monotonic() < end:  # until programs are compiled
        sender = Thread(target=send, args=(publishers, sent))
        sender.start()
        sender.join()
        sent += COUNT
    assert fewest() >= 20

    def settled() -> bool:
        return all(c.counts["in hand"] == rigged.waiting(n) for n, c in rigged.cameras.items())

    rig.wait_until(settled, "all images are accounted for")
    used = {name: camera.counts["used"] for name, camera in rigged.cameras.items()}
    for k, (name, messages) in enumerate(colours.items()):
        rig.wait_until(lambda m=messages, n=name: len(m) == used[n], f"all colours of {name}")
        for msg in messages:
            i, rest = divmod(stamp_ns(msg.header.stamp) - START - k * SHIFT, PERIOD)
            assert rest == 0 and msg.header.frame_id == f"{name}_optical"
            assert set(np.frombuffer(msg.data, np.uint8)) == {(7 * i + k) % 251}, "its own pixels"


def test_windows_of_a_rig_are_attended_by_views_where_the_layout_says_so(rig: Rig):
    names, ran = NAMES[:2], []
    publishers = {n: rig.peer.create_publisher(Image, f"/{n}/image", 10) for n in names}

    def opened(*arguments) -> Engine:
        engine = open_engine(*arguments)
        run = engine._run
        engine._run = lambda program, shape, *rest: (ran.append(shape), run(program, shape, *rest))[
            1
        ]
        return engine

    rig.open(
        engine=opened, model="tiny", layout="view_time", network_width=84, window_size=2,
        tf_mode="none", cameras=list(names), keyframes=False,
    )  # fmt: skip
    for name, publisher in publishers.items():
        rig.wait_until(lambda p=publisher: p.get_subscription_count() == 1, f"{name} is read")
    sent, end = 0, time.monotonic() + 5 * TIMEOUT
    while not any(shape.frames == 4 for shape in ran) and time.monotonic() < end:
        send(publishers, sent)
        sent += COUNT
    assert {s.views for s in ran if s.frames == 4} == {2}, "whole instants, by views"
    rig.wait_for_diagnostics(layout="view_time")
