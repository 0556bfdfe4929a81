# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The frames of a window: which are taken, held and shown to the network, and its answer."""
