#!/usr/bin/env python3
# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The network on two images: cameras and depth in one forward pass, in arbitrary units.

python examples/1_network_on_two_images.py [FIRST.png SECOND.png]
"""

import sys
from pathlib import Path

import numpy as np

from vggt_ros.engine.engine import open_engine
from vggt_ros.geometry import extrinsics_from_pose_encoding
from vggt_ros.imaging.fit import Fit
from vggt_ros.imaging.grid import grid_for, to_network
from vggt_ros.tools.sources.open import CLIP, open_source


def main() -> None:
    if len(sys.argv) == 3:
        images = [frame.rgb for frame in open_source([Path(path) for path in sys.argv[1:]])]
    else:
        images = [frame.rgb for frame in open_source(CLIP)][:5:4]  # of the bundled clip

    engine = open_engine("small")
    grid = grid_for(images[0].shape[1], images[0].shape[0], engine.default_width)
    fit = Fit("pad", grid.width, grid.height)  # the second image may have another shape
    pixels = [to_network(rgb, fit.grid(rgb.shape[1], rgb.shape[0])) for rgb in images]
    result = engine.infer((0, 1), pixels, depth_frames=2)

    for depth, confidence in zip(result.depth, result.confidence, strict=True):
        print(f"depth {depth.shape}, median {np.median(depth):.3f}, confidence from 1:"
              f" {np.median(confidence):.2f}")  # fmt: skip
    second_from_first = extrinsics_from_pose_encoding(result.pose_encoding)[1]
    print("second camera from first:", np.round(second_from_first, 3), sep="\n")


if __name__ == "__main__":
    main()
