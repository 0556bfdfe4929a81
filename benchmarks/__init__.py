# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Benchmarks that are no part of the installed package; `gpu.py` is run as a script."""
