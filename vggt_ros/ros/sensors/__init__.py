# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The robot around the camera, at an image's stamp: frames, odometry, gravity, other sensors."""
