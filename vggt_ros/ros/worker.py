# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One thread with a slot of one in front of it: the newest job wins, or the next one waits.

The node has two: one owns the network, where an image gives way to a newer one (`offer`); the
other publishes what the first has seen, where nothing may be lost (`hand`).
"""

from collections.abc import Callable
from threading import Condition, Thread
from typing import Generic, TypeVar

Job = TypeVar("Job")
Errand = Callable[[], None]


class Worker(Generic[Job]):
    """Runs errands in order and the newest job, all in its own thread, once it is started."""

    def __init__(self) -> None:
        self._news = Condition()
        self._job: Job | None = None
        self._errands: list[Errand] = []
        self._busy = False
        self._stopping = False
        self._thread: Thread | None = None

    def start(
        self,
        begin: Errand,
        work: Callable[[Job], None],
        on_death: Callable[[BaseException], object],
    ) -> None:
        """Run `begin`, then errands and jobs until `stop`.

        These deal with their own errors; one that escapes ends the thread and goes to `on_death`.
        """
        self._thread = Thread(
            target=self._run, args=(begin, work, on_death), name="vggt_worker", daemon=True
        )
        self._thread.start()

    def offer(self, job: Job) -> bool:
        """Leave a job; True if an older one that nobody had begun gave way to it."""
        with self._news:
            gave_way, self._job = self._job is not None, job
            self._news.notify_all()
        return gave_way

    def hand(self, job: Job) -> bool:
        """Leave a job once all before it is done, and wait for that; False if the thread ends."""
        with self._news:
            self._news.wait_for(lambda: self._stopping or self._is_idle)
            if not self._stopping:
                self._job = job
                self._news.notify_all()
            return not self._stopping

    def rest(self, timeout: float) -> bool:
        """Wait until nothing is left to do; True if that came within `timeout` seconds."""
        with self._news:
            return self._news.wait_for(lambda: self._is_idle, timeout)

    def ask(self, errand: Errand) -> None:
        """Have something small done in the worker's thread, before the next job."""
        with self._news:
            self._errands.append(errand)
            self._news.notify_all()

    def clear(self) -> None:
        """Forget the waiting job."""
        with self._news:
            self._job = None

    @property
    def _is_idle(self) -> bool:
        return not (self._busy or self._errands or self._job is not None)

    @property
    def stopping(self) -> bool:
        return self._stopping

    def stop(self, timeout: float) -> bool:
        """Ask the thread to end; True if it did within `timeout` seconds."""
        with self._news:
            self._stopping = True
            self._news.notify_all()
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(
        self,
        begin: Errand,
        work: Callable[[Job], None],
        on_death: Callable[[BaseException], object],
    ) -> None:
        try:
            begin()
            while not self._stopping:
                self._next(work)
        except BaseException as error:
            with self._news:
                asked, self._stopping = self._stopping, True
                self._news.notify_all()
            if not asked:
                on_death(error)

    def _next(self, work: Callable[[Job], None]) -> None:
        with self._news:
            self._news.wait_for(lambda: self._stopping or not self._is_idle)
            errands, self._errands = self._errands, []
            job = None
            if not errands:  # a job that waits behind errands is taken next time, still the newest
                job, self._job = self._job, None
            self._busy = True
        if self._stopping:
            return
        for errand in errands:
            errand()
        if job is not None:
            work(job)
        with self._news:
            self._busy = False
            self._news.notify_all()
