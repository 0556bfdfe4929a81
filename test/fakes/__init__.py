# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Two engines whose results are known: a plane, and a furnished room with faults."""
