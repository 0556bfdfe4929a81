# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Shell for people at a desk: commands, readers of pictures and bags, the viewer."""
