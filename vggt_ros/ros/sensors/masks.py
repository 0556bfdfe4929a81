# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Masks of a segmentation node, on topic mask: the message of an image's stamp, if it comes.

The callback keeps the last few messages; the worker's thread takes the one that belongs to a frame.
"""

from collections import deque
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool
from sensor_msgs.msg import Image

from vggt_ros.errors import UserError, sentence
from vggt_ros.ros.messages import stamp_ns
from vggt_ros.ros.parameters import Parameters
from vggt_ros.ros.subscriptions.input_topics import InputTopics
from vggt_ros.ros.waiting import Waiting, before, nearest

KEPT = 8  # messages
SAME_TIME_NS = 5_000_000  # between image and mask, which should carry its stamp
RECENT = 10  # images, of which all must have a mask


class MaskInput:
    """Masks by stamp.  Used where the topic is remapped, or a message has come."""

    def __init__(self, inputs: InputTopics, wait: float, name: str = "mask"):
        """`wait`: seconds that a frame waits for its mask at most; `name`: the input's."""
        self._wait = wait
        self._messages: deque[Image] = deque(maxlen=KEPT)
        self._heard = 0
        self._found: deque[bool] = deque(maxlen=RECENT)  # for each of the last images
        self._waiting = Waiting(wait)
        found = inputs.subscribe_to_images(name, self._on_mask, raw=True, watched=False)
        self.topic, self._is_remapped = found.topic, found.is_remapped
        self.warning = ""  # as long as images have no mask

    def _on_mask(self, msg: Image) -> None:
        self._messages.append(msg)
        self._heard += 1

    def forget_from(self, ns: int) -> None:
        """Time went back to this stamp: with a later mask none would be waited for."""
        self._messages = deque(before(self._messages, ns), KEPT)

    @property
    def stamps(self) -> tuple[int, ...]:
        """Stamps of the kept messages."""
        return tuple(stamp_ns(msg.header.stamp) for msg in tuple(self._messages))

    @property
    def is_used(self) -> bool:
        """Whether masks come, or are to come."""
        return self._is_remapped or self._heard > 0

    def mask_at(self, ns: int) -> Bool[np.ndarray, "h w"] | None:
        """What to ignore of the image of that stamp; None: nothing, or `warning` says why."""
        if not self.is_used:
            return None
        fault, mask = "", None
        msg, apart = self._paired(ns)
        if msg is None:
            fault = self._missing(apart)
        else:
            try:
                mask = mask_from(msg)
            except Exception as error:  # whatever is wrong with it: the image is used without
                fault = sentence(error)
        self._found.append(not fault)
        if fault:
            missing = self._found.count(False)
            self.warning = (
                f"{missing} of the last {len(self._found)} images are used without their mask:"
                f" {fault}"
            )
        elif all(self._found):
            self.warning = ""
        return mask

    def _paired(self, ns: int) -> tuple[Image | None, int | None]:
        """The message of that stamp, else None, and how far the nearest is from it."""

        def is_found(kept: tuple[Image, ...]) -> bool:
            _, apart = nearest(kept, ns)
            return apart is not None and abs(apart) <= SAME_TIME_NS

        kept = self._waiting.until(
            lambda: tuple(self._messages),
            is_found,
            lambda kept: any(stamp_ns(m.header.stamp) > ns for m in kept),  # none comes after it
        )
        msg, apart = nearest(kept, ns)
        return (msg if is_found(kept) else None), apart

    def _missing(self, apart: int | None) -> str:
        if apart is None:
            return (
                f"nothing came on '{self.topic}'; is the segmentation node running, and remapped"
                " to it?"
            )
        return (
            f"{self._heard} messages came on '{self.topic}', the nearest {apart * 1e-6:+.1f} ms"
            f" from the image, {SAME_TIME_NS * 1e-6:.0f} ms are allowed; the mask must carry the"
            f" stamp of its image, within mask_wait ({self._wait:g} s)"
        )


def nothing_is_masked(parameters: Parameters, inputs: Iterable[MaskInput]) -> str:
    """That `mask_network` is set in vain, since there is no mask; empty: it is not."""
    masked = parameters.mask_file or parameters.mask_sky or any(each.is_used for each in inputs)
    if parameters.mask_network == "none" or masked:
        return ""
    return (
        f"mask_network is {parameters.mask_network}, but not used: nothing is masked; set mask_file"
        " or mask_sky, or remap mask to a segmentation node"
    )


def mask_from(msg: Image) -> Bool[np.ndarray, "h w"]:
    """True where the pixel is to be ignored.  Raises `UserError` that names the fault."""
    if msg.encoding not in ("mono8", "8UC1"):
        raise UserError(
            f"the message on mask has encoding {msg.encoding}; send mono8, not zero: ignore"
        )
    if not msg.height * msg.width or msg.step < msg.width or len(msg.data) < msg.height * msg.step:
        raise UserError("the message on mask has less data than its size needs")
    rows = np.frombuffer(msg.data, np.uint8)[: msg.height * msg.step].reshape(msg.height, msg.step)
    return rows[:, : msg.width] != 0
