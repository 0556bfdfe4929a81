# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A network made callable: compiled programs, the frames they keep, and what they return."""
