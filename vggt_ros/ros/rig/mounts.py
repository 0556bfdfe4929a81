# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Where the cameras of a rig stand on it, as the tree of frames says."""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from vggt_ros.ros.sensors.mounts import RENEWED_NS, difference
from vggt_ros.ros.tf.tf_cache import TfCache

Pose = Float[np.ndarray, "4 4"]
Warn = Callable[[str, str], object]  # subject and text; an empty text ends the warning


class RigMounts:
    """`rig_from_camera` of each camera that /tf connects.  Used in the worker's thread."""

    def __init__(self, find_tree: Callable[[], TfCache] | None, base_frame: str, warn: Warn):
        """`find_tree` gives the frames as they are now; None: there are none."""
        self._find_tree, self._base, self._warn = find_tree, base_frame, warn
        self._root = ""  # the frame that `rig` is
        self._known: dict[str, Pose] = {}  # by the camera's name
        self._of: dict[str, str] = {}  # optical frames by the camera's name, of those
        self._renewed_ns = -RENEWED_NS

    def at(self, ns: int, optical: Mapping[str, str]) -> dict[str, Pose]:
        """All that is known by a stamp; `optical`: frames of the cameras, by name, in order.

        The rig is `base_frame`; where no camera is connected with that, the first camera.
        """
        if self._find_tree is None or not optical:
            return {}
        is_new = any(self._of.get(name) != frame for name, frame in optical.items())
        if is_new or not 0 <= ns - self._renewed_ns < RENEWED_NS:
            self._renewed_ns = ns
            self._renew(ns, optical)
        return dict(self._known)

    def _renew(self, ns: int, optical: Mapping[str, str]) -> None:
        root, found = self._connected(ns, optical)
        if not found:
            return
        if root != self._root:
            self._root, self._known = root, {}
        known = {name: p for name, p in self._known.items() if self._of[name] == optical[name]}
        faults = {name: "" for name in optical}
        for name, frame in optical.items():
            if name in found and name in known:
                faults[name] = _contradiction(name, frame, root, known[name], found[name])
            elif name not in found and name not in known:
                faults[name] = (
                    f"{name}: /tf does not connect '{frame}' with '{root}', as it does for"
                    f" {', '.join(found)}: its place is estimated from the images; publish where"
                    " it is mounted"
                )
        kept = {name: pose for name, pose in known.items() if name not in found or faults[name]}
        self._known = {**found, **kept}
        self._of = {name: optical[name] for name in self._known}
        for name, fault in faults.items():
            self._warn(f"mount of {name}", fault)

    def _connected(self, ns: int, optical: Mapping[str, str]) -> tuple[str, dict[str, Pose]]:
        """The frame that the rig is, and the cameras in it."""
        assert self._find_tree is not None
        tree = self._find_tree()
        for root in (self._base, *optical.values()):
            poses = {name: tree.lookup(root, frame, ns) for name, frame in optical.items()}
            found = {name: pose for name, pose in poses.items() if pose is not None}
            if len(found) > (root != self._base):  # a camera always is connected with itself
                return root, found
        return "", {}


def _contradiction(name: str, frame: str, root: str, known: Pose, pose: Pose) -> str:
    """How far a transform is from the one that was used so far; empty: they agree."""
    apart = difference(known, pose)
    if not apart:
        return ""
    return (
        f"{name}: /tf contradicts itself: '{root}' -> '{frame}' was otherwise before, by"
        f" {apart}; the first one is used: do two nodes publish it,"
        " or does the camera move on the rig? (a rig is rigid)"
    )
