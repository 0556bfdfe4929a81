# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One map with one scale: windows are registered to it.  May import geometry and errors only."""
