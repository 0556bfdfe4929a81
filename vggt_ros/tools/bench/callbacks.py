# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What images cost that the busy node drops: CPU time of its callbacks, by the images' size."""

import json
import subprocess
import sys
from collections.abc import Iterator

from vggt_ros.errors import UserError
from vggt_ros.tools.bench.main import Options, Row
from vggt_ros.tools.loopback import stay_on_this_machine

SIZES = ((640, 480, 30.0), (1920, 1080, 15.0), (3840, 2160, 8.0))  # and images a second

# In a process of its own, since tools do not import ros/.
MEASURE = """
import json, sys
from vggt_ros.ros.harness.dropping import dropping
width, height, rate, seconds = map(float, sys.argv[1:])
print(json.dumps(dropping(int(width), int(height), rate, seconds)))
"""


def rows(options: Options) -> Iterator[Row]:
    """The share of a core that the process takes, and the time of the callbacks for an image."""
    stay_on_this_machine()
    for width, height, rate in SIZES:
        values = map(str, (width, height, rate, 1.0 + options.repeats / 2))
        command = [sys.executable, "-c", MEASURE, *values]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise UserError("the node could not be measured, see above; it needs ROS 2 (make test)")
        *_, found, core, milliseconds = json.loads(done.stdout.splitlines()[-1])
        size, came = f"{width}x{height}", f"{found:.1f} of {rate:g} Hz"
        yield Row(f"core/{size}", core, "", "lower", f"{came}, the process")
        yield Row(f"callback_ms/{size}", milliseconds, "ms", "lower", "of an image that is dropped")
