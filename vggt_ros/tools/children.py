# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Programs that live exactly as long as the block that started them, whatever ends it."""

import ctypes
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence

PR_SET_PDEATHSIG = 1
Say = Callable[[str, str], None]  # name of the program, what it printed


class Children:
    """Started by name; asked to end with SIGINT, then told, then killed.

    Each has a session of its own, so that Ctrl-C reaches only us, who then end them in order;
    should we be killed ourselves, the kernel tells them.
    """

    def __init__(self, say: Say):
        self._say = say
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._last: dict[str, str] = {}
        self._readers: list[threading.Thread] = []

    def __enter__(self) -> "Children":
        return self

    def start(self, **commands: Sequence[str]) -> None:
        """Start all of them, then pass on what they print."""
        for name, command in commands.items():
            self._running[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        for name in commands:
            reader = threading.Thread(target=self._read, args=[name], daemon=True)
            reader.start()
            self._readers.append(reader)

    def dead(self) -> str:
        """Why a program is no longer there: its name, exit code and last line; "" if all are."""
        for name, process in self._running.items():
            if (code := process.poll()) is not None:
                words = self._last.get(name, "silently")
                return f"the {name} ended with exit code {code}: {words}"
        return ""

    def __exit__(self, *_: object) -> None:
        self._say = lambda name, line: None  # what the dying say is no news
        for number, patience in ((signal.SIGINT, 6), (signal.SIGTERM, 3), (signal.SIGKILL, 3)):
            for process in self._running.values():
                if process.poll() is None:
                    process.send_signal(number)
            for process in self._running.values():
                try:
                    process.wait(patience)
                except subprocess.TimeoutExpired:
                    continue
        for reader in self._readers:
            reader.join(1)
        for process in self._running.values():
            if process.stdout:
                process.stdout.close()

    def _read(self, name: str) -> None:
        stream = self._running[name].stdout
        assert stream is not None
        for line in stream:
            if line := line.rstrip():
                self._last[name] = line
                self._say(name, line)


_libc = ctypes.CDLL(None)  # loaded before any fork: the child may only make calls


def _end_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
