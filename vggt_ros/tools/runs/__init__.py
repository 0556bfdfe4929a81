# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Runs: created from a stream of frames, written, read and drawn."""
