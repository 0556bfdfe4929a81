# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Benchmarks outside the installed package; `gpu.py` is run as a script."""
