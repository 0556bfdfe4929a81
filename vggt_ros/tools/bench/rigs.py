# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Steps of rigs: windows of so many instants of all cameras, against one camera's."""

from collections.abc import Iterator

from vggt_ros.tools.bench import flops
from vggt_ros.tools.bench.main import Options, Row, interleaved
from vggt_ros.tools.bench.step import Stepper


def rows(options: Options) -> Iterator[Row]:
    """Seconds of a step, its ratio to one camera's, and what encoding an instant at once saves."""
    stepper = Stepper(options)
    height, width = stepper.size
    for instants in options.windows:
        one = stepper.at_instant(instants, 1, at_once=False)
        work = flops.step(stepper.config, instants, stepper.size).total
        for cameras in options.cameras:
            sides = {
                "one": one,
                "rig": stepper.at_instant(instants, cameras, at_once=True),
                "one by one": stepper.at_instant(instants, cameras, at_once=False),
            }
            seconds = interleaved(sides, options.repeats)
            name = f"{options.model}/{width}x{height}/T{instants}xN{cameras}"
            all_work = flops.step(
                stepper.config, instants * cameras, stepper.size, new=cameras, depth_frames=cameras
            ).total
            against = f"cost model: {sum(all_work) / sum(work):.3g} times the operations"
            yield Row(f"rig_step_s/{name}", seconds["rig"], "s", "lower")
            yield Row(f"rig_over_one/{name}", seconds["rig"] / seconds["one"], "ratio", "lower",
                      against)  # fmt: skip
            yield Row(f"at_once_over_one_by_one/{name}", seconds["rig"] / seconds["one by one"],
                      "ratio", "lower", "the same numbers")  # fmt: skip
