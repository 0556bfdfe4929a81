# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Keyframes and the edges between them: what is kept, which loops close, what is corrected."""
