# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""An update as messages: depth, clouds, pose, path and map, built for subscribers only."""
