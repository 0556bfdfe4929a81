# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The ROS shell: the only folder that may import rclpy or messages."""
