# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Depth, confidence, colours and points of one camera's views."""

from functools import cache

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from vggt_ros.frames import View
from vggt_ros.ros import messages
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.publishing.depth_output import DepthOutput, Surface
from vggt_ros.ros.publishing.output import Output


class ViewOutputs:
    """The topics of one camera; `name` is that of a camera of a rig, and part of the topics."""

    def __init__(self, node: Node, name: str = ""):
        above = f"~/{name}/" if name else "~/"
        self._depth = Output(node, Image, f"{above}depth/image")
        self._depth_info = Output(node, CameraInfo, f"{above}depth/camera_info")
        self._confidence = Output(node, Image, f"{above}depth/confidence")
        self._rgb = Output(node, Image, f"{above}rgb/image_rect_color")
        self._rgb_info = Output(node, CameraInfo, f"{above}rgb/camera_info")
        self._points = Output(node, PointCloud2, f"{above}points")
        self.all = (
            self._depth, self._depth_info, self._confidence, self._rgb, self._rgb_info,
            self._points,
        )  # fmt: skip

    def publish(self, view: View, parameters: Parameters, surface: Surface | None) -> DepthOutput:
        """Publish a view that has depth; returns how it was published."""
        output = DepthOutput(
            view,
            min_confidence=parameters.min_confidence,
            on_input_grid=parameters.depth_resolution == "input",
            surface=surface,
        )
        head = messages.header(view.stamp_ns, view.camera)
        height, width = output.rgb.shape[:2]

        @cache
        def camera_info() -> CameraInfo:
            return messages.camera_info_message(head, output.intrinsics, width=width, height=height)

        self._depth_info.send(lambda _: camera_info())
        self._depth.send(lambda kept: messages.image_message(head, output.depth, into=kept))
        self._confidence.send(
            lambda kept: messages.image_message(head, output.confidence, into=kept)
        )
        self._rgb_info.send(lambda _: camera_info())
        self._rgb.send(lambda kept: messages.image_message(head, output.rgb, into=kept))
        self._points.send(
            lambda kept: messages.depth_cloud_message(
                head,
                output.points_depth,
                output.intrinsics,
                output.rgb,
                output.confidence,
                into=kept,
            )
        )
        return output
