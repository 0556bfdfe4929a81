# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Programs that live exactly as long as the block that started them, whatever ends it."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

# Becomes the program itself, with the kernel's promise of a SIGTERM when we die.  Not a preexec_fn:
# that would run Python between fork and exec, where JAX's threads may hold any lock.
DIE_WITH_PARENT = (
    "import ctypes, os, sys; PR_SET_PDEATHSIG = 1; SIGTERM = 15;"
    "ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGTERM); os.execv(sys.argv[1], sys.argv[1:])"
)
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
        """Start all of them (each command begins with a path), then pass on what they print."""
        for name, command in commands.items():
            self._running[name] = subprocess.Popen(
                [sys.executable, "-S", "-c", DIE_WITH_PARENT, *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
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
