# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Metres: measurements of scale from several sensors, and the scale that they give."""
