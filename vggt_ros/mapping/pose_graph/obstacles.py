# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What stands in the way of loops: each reason holds until it is withdrawn."""


class Obstacles:
    """Why no loop is sought or closed, by subject."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._left_out: set[int] = set()  # keyframes that could not be compared

    def set(self, subject: str, text: str) -> None:
        """One reason until it is replaced; an empty text withdraws it."""
        self._texts[subject] = text

    def leave_out(self, keyframe: int, known: int, why: str) -> None:
        """A keyframe, of `known`, that was to be compared and cannot be; `why` follows its name."""
        self._left_out.add(keyframe)
        self._texts["keyframes"] = (
            f"{len(self._left_out)} of {known} keyframes could not be compared so far: keyframe"
            f" {keyframe} {why}"
        )

    def compared(self) -> None:
        """A keyframe was shown to the network: there is room, and it has an image."""
        self._texts["room"] = self._texts["keyframes"] = ""

    @property
    def text(self) -> str:
        """All of them; empty: nothing stands in the way."""
        return "; ".join(text for text in self._texts.values() if text)
