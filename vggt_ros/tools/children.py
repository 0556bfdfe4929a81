# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Child processes that live exactly as long as the block that started them, whatever ends it."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

# Asks the kernel for a SIGTERM when this process dies, then executes the program.  Not a
# preexec_fn: that runs Python between fork and exec, where JAX's threads may hold any lock.
DIE_WITH_PARENT = (
    "import ctypes, os, sys; PR_SET_PDEATHSIG = 1; SIGTERM = 15;"
    "ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGTERM); os.execv(sys.argv[1], sys.argv[1:])"
)
OnOutput = Callable[[str, str], None]  # name of the process, a line that it printed


class ChildProcesses:
    """Processes started by name; stopped with SIGINT, then SIGTERM, then SIGKILL.

    Each has a session of its own, so that Ctrl-C reaches only this process, which then stops them
    in order; if this process is killed, the kernel sends them SIGTERM.
    """

    def __init__(self, on_output: OnOutput):
        """`on_output` is called for every line, from the threads that read the outputs."""
        self._on_output = on_output
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._last: dict[str, str] = {}
        self._readers: list[threading.Thread] = []

    def __enter__(self) -> "ChildProcesses":
        return self

    def start(self, **commands: Sequence[str]) -> None:
        """Start all of them (each command begins with a path), then read their outputs."""
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

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name."""
        return {name: process.pid for name, process in self._running.items()}

    def failure(self) -> str:
        """Name, exit code and last line of a process that has ended; "" while all run."""
        for name, process in self._running.items():
            if (code := process.poll()) is not None:
                line = self._last.get(name, "no output")
                return f"the {name} ended with exit code {code}: {line}"
        return ""

    def __exit__(self, *_: object) -> None:
        self._on_output = lambda name, line: None  # output during the shutdown is not reported
        for number, timeout_s in ((signal.SIGINT, 6), (signal.SIGTERM, 3), (signal.SIGKILL, 3)):
            for process in self._running.values():
                if process.poll() is None:
                    process.send_signal(number)
            for process in self._running.values():
                try:
                    process.wait(timeout_s)
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
                self._on_output(name, line)
