# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node over minutes or hours: `make soak`; see `run.py`."""
