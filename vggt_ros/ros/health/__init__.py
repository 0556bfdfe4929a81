# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""/diagnostics: what is counted, what of it is a problem, and how it is reported."""
