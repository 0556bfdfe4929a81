# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Errors that the user, not a programmer, is meant to read."""


class UserError(Exception):
    """Something the user can mend; the message names the fault and the next step.

    Shells (the command line, the node) print it as one line without a traceback.
    """


def sentence(error: BaseException) -> str:
    """What is said of any error: a `UserError` as it is, the type of all others first."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


class FrameError(UserError):
    """A frame that was refused; the window stays as it was."""


def install_extra(*names: str) -> str:
    """The command that installs optional libraries: the package is on no index, so from sources."""
    return f"in a checkout of vggt_ros: pip install '.[{','.join(names)}]'"
