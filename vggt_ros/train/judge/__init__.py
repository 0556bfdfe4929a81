# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Scenes of another renderer, which no training sees: other shapes, textures, light and motion."""
