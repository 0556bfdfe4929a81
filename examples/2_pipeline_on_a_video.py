#!/usr/bin/env python3
# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The pipeline on a video, a folder of images or a bag: one map, a camera path and a cloud.

python examples/2_pipeline_on_a_video.py [SOURCE] [CLOUD.ply]
"""

import sys
from pathlib import Path

from vggt_ros.engine.engine import open_engine
from vggt_ros.files import write_ply
from vggt_ros.frames import Observation
from vggt_ros.mapping.cloud.voxels import VoxelMap
from vggt_ros.pipeline import Pipeline
from vggt_ros.settings import Settings
from vggt_ros.tools.sources.open import CLIP, open_source


def main() -> None:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else CLIP
    cloud = Path(sys.argv[2]) if len(sys.argv) > 2 else Path("cloud.ply")
    pipeline = Pipeline(open_engine("small"), Settings(window_size=2))
    voxels = VoxelMap(voxel=0.02)
    for frame in open_source(source):
        update = pipeline.step(Observation(frame))
        if update is None or not update.registration.accepted:
            continue
        newest = update.views[-1]
        x, y, z = newest.world_from_camera[:3, 3]
        print(f"{newest.stamp_ns * 1e-9:.3f} s   camera at {x:+.2f} {y:+.2f} {z:+.2f}")
        voxels.add_view(
            newest.depth, newest.rgb, newest.confidence, newest.intrinsics,
            newest.world_from_camera, pipeline.settings.min_confidence,
        )  # fmt: skip
    write_ply(cloud, *voxels.cloud())
    print(f"{len(voxels)} points in {cloud}")


if __name__ == "__main__":
    main()
