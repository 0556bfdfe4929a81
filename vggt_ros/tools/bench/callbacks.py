# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What messages cost that lead to nothing: images that the busy node drops, and a busy /tf."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from vggt_ros.errors import UserError
from vggt_ros.tools.bench.main import Options, Row
from vggt_ros.tools.loopback import stay_on_this_machine

IMAGES = (  # width, height, images a second, transport
    (640, 480, 30.0, "raw"),
    (1920, 1080, 15.0, "raw"),
    (3840, 2160, 8.0, "raw"),
    (640, 480, 30.0, "compressed"),
    (1920, 1080, 30.0, "compressed"),
)

TRANSFORMS, TF_RATE = 30, 100.0  # of a message on /tf, and messages a second

# In processes of their own, since tools do not import ros/.
DROPPING = """
import json, sys
from vggt_ros.ros.harness.dropping import dropping
width, height, rate, seconds = map(float, sys.argv[1:5])
print(json.dumps(dropping(int(width), int(height), rate, seconds, sys.argv[5])))
"""
BUSY_TF = """
import json, sys
from vggt_ros.ros.harness.dropping import busy_tf
transforms, rate, seconds = map(float, sys.argv[1:])
print(json.dumps(busy_tf(int(transforms), rate, seconds)))
"""


def rows(options: Options) -> Iterator[Row]:
    """The share of a core that the process takes, and the time of the callbacks for an image.

    Beside them the time that the worker needs to read an image that is used; then the time of the
    process for a message on /tf.
    """
    stay_on_this_machine()
    seconds = 1.0 + options.repeats / 2
    for width, height, rate, transport in IMAGES:
        *_, found, core, milliseconds, reading = _measured(
            DROPPING, width, height, rate, seconds, transport
        )
        size = f"{width}x{height}" + (" jpeg" if transport == "compressed" else "")
        came = f"{found:.1f} of {rate:g} Hz"
        yield Row(f"core/{size}", core, "", "lower", f"{came}, the process")
        yield Row(f"callback_ms/{size}", milliseconds, "ms", "lower", "of an image that is dropped")
        yield Row(f"read_ms/{size}", reading, "ms", "lower", "of one that is used, beside that")
    spent = _measured(BUSY_TF, TRANSFORMS, TF_RATE, seconds)
    name = f"tf_ms/{TRANSFORMS} transforms"
    yield Row(name, spent, "ms", "lower", f"of a message, at {TF_RATE:g} Hz")


def _measured(program: str, *values: float | str) -> Any:
    command = [sys.executable, "-c", program, *map(str, values)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise UserError("the node could not be measured, see above; it needs ROS 2 (make test)")
    return json.loads(done.stdout.splitlines()[-1])
