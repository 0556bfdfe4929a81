# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The cloud of a map: views moved to one surface, in voxels, and seen from above."""
