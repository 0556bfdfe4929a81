# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The rig as one body: what is said of a single camera's pose holds for its reference camera."""

from vggt_ros.frames import Update


def body_of(update: Update, reference: str) -> Update:
    """The update with views of the camera `reference` alone, one an instant; of one camera itself.

    The newest is the body's pose, and is there where that camera has no image of the instant too:
    it then has the stamp of the first camera that has one. Before the reference camera's first
    image its frame has no name, and the newest instant's first camera is the body.
    """
    if update.views[-1].instant < 0:
        return update
    newest = update.newest_views[0]
    views = [view for view in update.views if view.camera_name == reference]
    known = [] if update.rig is None else [c for c in update.rig.cameras if c.name == reference]
    frames = [*(view.camera for view in views), *(camera.optical_frame for camera in known)]
    body = newest
    if any(frames):
        body = newest._replace(
            camera=next(filter(None, reversed(frames))),
            camera_name=reference,
            stamp_ns=update.stamp_ns,
            world_from_camera=update.world_from_reference,
        )
    older = [view for view in views if view.instant != newest.instant]
    fresh = {view.instant for view in update.views[len(update.views) - update.fresh :]}
    shown = (*older, body)
    return update._replace(views=shown, fresh=sum(view.instant in fresh for view in shown))
