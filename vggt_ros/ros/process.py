# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node's process: spin until SIGINT, SIGTERM or an error; exit with 0 or, for errors, 1."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from threading import Event, Thread
from typing import TypeVar

import rclpy
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import try_shutdown

from vggt_ros.errors import UserError

CLOSE_TIMEOUT = 3.0  # seconds for the worker to finish its inference

OnFailure = Callable[[BaseException], object]
AnyNode = TypeVar("AnyNode", bound=Node)


def run(
    name: str,
    open_node: Callable[[OnFailure], AnyNode],
    close: Callable[[AnyNode, float], bool],
) -> int:
    """Spin the node and return the exit code.  `close` ends its worker: True if it did in time.

    The main thread only waits, because that is where Python runs signal handlers: nothing that
    computes or compiles can delay them. rclpy spins in a thread of its own.
    """
    end = Event()
    errors: list[BaseException] = []

    def fail(error: BaseException) -> None:
        errors.append(error)
        end.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: end.set())
    ended_in_time = True
    try:
        _initialise()
        node = open_node(fail)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        spinner = Thread(target=_spin, args=(executor.spin, fail, end.is_set), name="vggt_spin",
                         daemon=True)  # fmt: skip
        spinner.start()
        end.wait()
        ended_in_time = close(node, CLOSE_TIMEOUT)
        executor.shutdown(timeout_sec=1.0)
        spinner.join(1.0)
        node.destroy_node()
    except Exception as error:
        errors.append(error)
    for error in errors[:1]:
        get_logger(name).fatal(_one_line(error))
    try_shutdown()
    code = 1 if errors else 0
    if not ended_in_time:
        # XLA cannot be interrupted while it compiles or computes, and an interpreter that is torn
        # down around it crashes. Nothing is lost without it: the node is destroyed by now.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _initialise() -> None:
    """Raises `UserError` where ROS does not start, most often for the folder of its log."""
    try:
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:
        raise UserError(
            f"ROS cannot be initialised: {error}; if that is the folder of the log, set"
            " ROS_LOG_DIR to one that can be written"
        ) from error


def _spin(spin: Callable[[], None], fail: OnFailure, is_ending: Callable[[], bool]) -> None:
    try:
        spin()
    except ExternalShutdownException:
        pass
    except (AttributeError, InvalidHandle) as error:  # rclpy's, of an executor that is shut down
        if not is_ending():
            fail(error)
    except BaseException as error:  # of a callback: it must end the process, not just this thread
        fail(error)


def _one_line(error: BaseException) -> str:
    """One line for errors that the user can mend; a traceback for programming errors."""
    if isinstance(error, UserError):
        return str(error)
    return "".join(traceback.format_exception(error)).rstrip()
