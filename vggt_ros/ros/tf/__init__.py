# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Transforms: the tree that others send, and the one transform that this node adds to it."""
