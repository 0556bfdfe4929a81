# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Several cameras of one robot: their images joined to instants, read, and published by camera."""
