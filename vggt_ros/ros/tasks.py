# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the inference thread is given, and what it hands on."""

from typing import NamedTuple

from sensor_msgs.msg import CompressedImage, Image

from vggt_ros.frames import Update


class Task(NamedTuple):
    """An image message, and when it arrived (seconds of the steady clock)."""

    msg: Image | CompressedImage
    arrived: float


class Result(NamedTuple):
    """An update to be published, unless the node is reset before that."""

    update: Update
    arrived: float
    timeline: int


class Stopped(Exception):
    """The node ends while the network is still being opened."""
