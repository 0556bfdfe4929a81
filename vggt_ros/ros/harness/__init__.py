# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Programs around the node: a bag player, a listener on its outputs, the timing of messages."""
