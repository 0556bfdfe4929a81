# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Training: synthetic rooms and datasets, losses, optimiser, the training loop."""
