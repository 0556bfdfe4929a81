# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Dense 3D for ROS 2 robots from plain cameras: VGGT in JAX, a node, and tools at a desk."""

from pkgutil import extend_path

# Generated messages (`vggt_ros.msg`) live in another folder of this name: find both.
__path__ = extend_path(__path__, __name__)
