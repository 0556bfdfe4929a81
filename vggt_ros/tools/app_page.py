# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The page of `vggt app`: its Gradio components, and what each button calls."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from vggt_ros.errors import UserError
from vggt_ros.settings import Settings
from vggt_ros.tools.app_results import Shown
from vggt_ros.tools.app_sessions import Limits, Sessions

POINTS = 64  # to track, at most
PRIVATE = {"api_visibility": "private"}  # no function is offered to other programs
NETWORK = {"concurrency_id": "network", "concurrency_limit": 1, **PRIVATE}


class Inputs(NamedTuple):
    """Files and settings; Gradio components, as those of `Outputs`."""

    files: Any
    frames: Any
    confidence: Any
    sky: Any


class Outputs(NamedTuple):
    """Where a reconstruction is shown, in the order of `_values`."""

    text: Any
    scene: Any
    downloads: Any
    first: Any  # the first input image, with the chosen points
    depth: Any
    confidence: Any
    masks: Any
    points: Any
    tracks: Any


def layout(gradio: Any, sessions: Sessions) -> Any:
    """The page: uploads and settings to the left, results to the right."""
    limits = sessions.limits
    with gradio.Blocks(
        analytics_enabled=False, title="vggt", fill_width=True,
        delete_cache=(300, 600),  # seconds: uploads that were broken off
    ) as blocks:  # fmt: skip
        gradio.Markdown(
            f"## Dense 3D from images\nModel {sessions.engine.name}. Uploads are deleted"
            f" when the page is closed, or after {limits.minutes} minutes without use."
        )
        with gradio.Row():
            with gradio.Column(scale=1, min_width=280):
                inputs = _inputs(gradio, limits)
                start = gradio.Button("Reconstruct", variant="primary")
                clip = gradio.Button("Use the bundled clip")
                text = gradio.Markdown(elem_id="text")
                downloads = gradio.File(
                    label="Downloads: GLB, COLMAP, NPZ",
                    interactive=False,
                    file_count="multiple",
                    height=190,
                    elem_id="downloads",
                )
            with gradio.Column(scale=3):
                scene = gradio.Model3D(label="Points and cameras", height=420, elem_id="scene")
                strips = []
                for title, label in (
                    ("Depth", "near is bright"),
                    ("Confidence", "high is bright"),
                    ("Masks", "red: no depth"),
                ):
                    with gradio.Tab(title):
                        strips.append(_strip(gradio, label, title.lower()))
                with gradio.Tab("Tracks"):
                    first = gradio.Image(
                        label="Click on points to track",
                        interactive=False,
                        elem_id="first",
                        type="filepath",
                        height=300,
                        buttons=[],
                    )
                    with gradio.Row():
                        track, clear = gradio.Button("Track points"), gradio.Button("Clear points")
                    tracks = _strip(gradio, "a ring: hidden in this image", "tracks")
        outputs = Outputs(text, scene, downloads, first, *strips, gradio.State([]), tracks)
        _connect_upload(gradio, sessions, inputs, outputs)
        _connect_reconstruction(gradio, sessions, inputs, outputs, start, clip)
        _connect_tracks(gradio, sessions, outputs, track, clear)

        def leave(request: gradio.Request) -> None:
            sessions.forget(str(request.session_hash))

        blocks.unload(leave)
    return blocks  # fmt: skip


def _inputs(gradio: Any, limits: Limits) -> Inputs:
    most = f"at most {limits.images} files, {limits.megabytes} MB"
    return Inputs(
        gradio.File(label=f"Images, one video or one bag ({most})", file_count="multiple",
                    type="filepath", height=190),
        gradio.Slider(2, max(limits.images, 3), min(24, limits.images), step=1,
                      label="Frames at most"),
        gradio.Slider(1.0, 10.0, Settings.min_confidence, step=0.1, label="Confidence above"),
        gradio.Checkbox(label="Ignore the sky"),
    )  # fmt: skip


def _connect_upload(gradio: Any, sessions: Sessions, inputs: Inputs, outputs: Outputs) -> None:
    """Uploads are received, or refused, at once: nothing of them stays in the transfer folder."""

    def receive(request: gradio.Request, files: Any) -> list[Any]:
        with errors_shown(gradio):
            line = sessions.receive(str(request.session_hash), [Path(path) for path in files or ()])
        return [None, f"{line}; next: Reconstruct"]

    def failed() -> None:
        return None  # an empty field, for the next upload

    received = inputs.files.upload(receive, inputs.files, [inputs.files, outputs.text], **PRIVATE)
    received.failure(failed, None, inputs.files, **PRIVATE)


def _connect_reconstruction(
    gradio: Any, sessions: Sessions, inputs: Inputs, outputs: Outputs, start: Any, clip: Any
) -> None:
    """Both buttons: of what was uploaded, and of the bundled clip."""

    def reconstruct(request: Any, settings: tuple, use_clip: bool) -> list[Any]:
        frames, confidence, sky = settings
        with errors_shown(gradio):
            shown = sessions.reconstruct(
                str(request.session_hash), clip=use_clip, frames=int(frames),
                min_confidence=float(confidence), mask_sky=bool(sky),
            )  # fmt: skip
        return [*_values(shown), [], []]  # neither points nor tracks

    def of_uploads(
        request: gradio.Request, frames: Any, confidence: Any, sky: Any,
        progress: Any = gradio.Progress(track_tqdm=True),  # noqa: B008 (Gradio reads the default)
    ) -> list[Any]:  # fmt: skip
        return reconstruct(request, (frames, confidence, sky), use_clip=False)

    def of_clip(
        request: gradio.Request, frames: Any, confidence: Any, sky: Any,
        progress: Any = gradio.Progress(track_tqdm=True),  # noqa: B008
    ) -> list[Any]:  # fmt: skip
        return reconstruct(request, (frames, confidence, sky), use_clip=True)

    settings = [inputs.frames, inputs.confidence, inputs.sky]
    start.click(of_uploads, settings, [*outputs], **NETWORK)
    clip.click(of_clip, settings, [*outputs], **NETWORK)


def _connect_tracks(
    gradio: Any, sessions: Sessions, outputs: Outputs, track: Any, clear: Any
) -> None:
    """Clicks into the first image choose points, a button tracks them."""

    def mark(request: gradio.Request, points: list) -> list[Any]:
        with errors_shown(gradio):
            return [points, str(sessions.mark(str(request.session_hash), points))]

    def choose(request: gradio.Request, points: list, event: gradio.SelectData) -> list[Any]:
        return mark(request, [*points, tuple(map(float, event.index))][:POINTS])

    def choose_none(request: gradio.Request) -> list[Any]:
        return mark(request, [])

    def track_points(
        request: gradio.Request, points: list,
        progress: Any = gradio.Progress(track_tqdm=True),  # noqa: B008
    ) -> list[str]:  # fmt: skip
        with errors_shown(gradio):
            return list(map(str, sessions.track(str(request.session_hash), points)))

    chosen = [outputs.points, outputs.first]
    outputs.first.select(choose, outputs.points, chosen, **PRIVATE)
    clear.click(choose_none, None, chosen, **PRIVATE)
    track.click(track_points, outputs.points, outputs.tracks, **NETWORK)


@contextmanager
def errors_shown(gradio: Any) -> Iterator[None]:
    """`UserError` as a message of the page."""
    try:
        yield
    except UserError as error:
        raise gradio.Error(str(error), print_exception=False) from None


def _strip(gradio: Any, label: str, name: str) -> Any:
    return gradio.Gallery(label=label, columns=6, height=260, object_fit="contain", buttons=[],
                          elem_id=name)  # fmt: skip


def _values(shown: Shown) -> list[Any]:
    strips = [list(map(str, strip)) for strip in (shown.depth, shown.confidence, shown.masks)]
    downloads = list(map(str, shown.downloads))
    return [shown.text, str(shown.scene), downloads, str(shown.first), *strips]
