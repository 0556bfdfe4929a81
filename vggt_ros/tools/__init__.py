# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Shell for offline use: commands, readers of images and bags, the viewer, benchmarks."""
