# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Groups of rows for `gpu.py`: functions of a `Setup` that yield each row once measured."""
