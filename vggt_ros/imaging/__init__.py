# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Camera bytes to RGB, RGB to the network's pixel grid, and back."""
