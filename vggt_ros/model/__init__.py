# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The network: VGGT in Flax NNX.  Knows no camera driver, no file but weights, no clock."""
