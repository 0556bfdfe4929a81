# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The network: VGGT in Flax NNX, its weights, and the streaming step."""
