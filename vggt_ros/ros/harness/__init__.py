# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Programs that run beside the node: a bag player, a listener, the timing of messages."""
