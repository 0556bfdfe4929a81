# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""An inference without the network: 640x480 in, 518x392 out, a subscriber on every topic."""

import json
import subprocess
import sys
from collections.abc import Iterator

from vggt_ros.errors import UserError
from vggt_ros.tools.bench.main import Options, Row
from vggt_ros.tools.loopback import stay_on_this_machine

# In a process of its own, since tools do not import ros/.
MEASURE = """
import json, sys
from vggt_ros.ros.harness.growing import grown_times
from vggt_ros.ros.harness.timing import message_times
parts = [tuple(part) for part in message_times(int(sys.argv[1]))]
for width, cameras in ((518, 2), (518, 3), (224, 1), (224, 2), (224, 3)):
    *_, total = message_times(int(sys.argv[1]), network_width=width, cameras=cameras)
    parts.append((f"{total.name} of {cameras} cameras at width {width}", total.milliseconds))
late = [(f"late/{name}", median) for name, median in grown_times(5 * int(sys.argv[1]))]
print(json.dumps([*parts, *late]))
"""


def rows(options: Options) -> Iterator[Row]:
    """Median milliseconds of each part of a frame and of their sum, then of a long run.

    In the rows of several cameras each frame is an instant of that many images; the width is that
    of the network's image. In the rows `late/` path, keyframes and cloud have default lengths.
    """
    stay_on_this_machine()
    command = [sys.executable, "-c", MEASURE, str(4 * options.repeats)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise UserError("the node could not be measured, see above; it needs ROS 2 (make test)")
    for name, milliseconds in json.loads(done.stdout.splitlines()[-1]):
        yield Row(f"messages_ms/{name}", milliseconds, "ms", "lower")
