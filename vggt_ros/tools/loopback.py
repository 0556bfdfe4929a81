# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Restriction of ROS traffic to this machine, for this process and its child processes."""

import os
import sys
from pathlib import Path

# Of Fast DDS 3 (Kilted and later), and of Fast DDS 2.
PROFILE_VARIABLES = "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"


def stay_on_this_machine() -> str:
    """Set the environment: loopback only, large messages through shared memory.

    Returns ROS_DOMAIN_ID, which is chosen by the process id if it is not set.  Call it before rclpy
    is imported.
    """
    environ = os.environ
    environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    given = next(filter(None, map(environ.get, PROFILE_VARIABLES)), None)
    if profile := given or _fastdds_profile():
        environ.update(dict.fromkeys(PROFILE_VARIABLES, str(profile)))
    return environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))


def _fastdds_profile() -> Path | None:
    """config/fastdds.xml of the checkout or of an installed share folder; None if there is none."""
    shares = [Path(__file__).parents[2], Path(sys.prefix) / "share" / "vggt_ros"]
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    shares += [Path(prefix) / "share" / "vggt_ros" for prefix in prefixes if prefix]
    profiles = (share / "config" / "fastdds.xml" for share in shares)
    return next(filter(Path.exists, profiles), None)
