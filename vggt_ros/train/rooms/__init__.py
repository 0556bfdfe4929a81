# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Synthetic rooms: scenes, materials, trajectories and the ray caster."""
