# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Topics that the node reads: subscribed as their publishers offer them, received, and watched."""
