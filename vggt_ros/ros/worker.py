# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A thread with room for one waiting item: a newer item replaces it, or its producer waits.

The node has two: one owns the network, where a newer image replaces an older one (`put_latest`);
the other publishes the results, none of which may be lost (`put_and_wait`).
"""

import time
from collections.abc import Callable
from threading import Condition, Event, Lock, Thread
from typing import Generic, TypeVar

from vggt_ros.errors import UserError

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Call = Callable[[], None]

MEANWHILE = 0.05  # seconds of a wait after which something else has its turn


class Worker(Generic[Item]):
    """Processes items and short calls one at a time in its own thread, once it is started."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._item: Item | None = None
        self._calls: list[Call] = []
        self._busy = False
        self._stopping = False
        self._thread: Thread | None = None

    def start(
        self,
        begin: Call,
        work: Callable[[Item], None],
        on_failure: Callable[[BaseException], object],
        fetch: Call = lambda: None,
    ) -> None:
        """Run `begin`, then calls and items until `stop`; after each of them `fetch`.

        That may leave an item, which is taken next. All handle their own errors; one that escapes
        ends the thread and goes to `on_failure`.
        """
        self._thread = Thread(
            target=self._run, args=(begin, work, fetch, on_failure), name="vggt_worker", daemon=True
        )
        self._thread.start()

    def put_latest(self, item: Item) -> bool:
        """Leave an item; True if it replaced one that was still waiting."""
        with self._changed:
            replaced, self._item = self._item is not None, item
            self._changed.notify_all()
        return replaced

    def put_and_wait(self, item: Item) -> bool:
        """Wait until all before it is done, then leave an item; False if the thread ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._is_idle)
            if not self._stopping:
                self._item = item
                self._changed.notify_all()
            return not self._stopping

    def wait_until_idle(self, timeout: float) -> bool:
        """Wait until nothing is left to do; False if that takes longer than `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._is_idle, timeout)

    def call_soon(self, function: Call) -> None:
        """Have a short function called in the worker's thread, before the next item."""
        with self._changed:
            self._calls.append(function)
            self._changed.notify_all()

    def clear(self) -> bool:
        """Discard the waiting item; True if there was one."""
        with self._changed:
            was_waiting, self._item = self._item is not None, None
        return was_waiting

    @property
    def _is_idle(self) -> bool:
        return not (self._busy or self._calls or self._item is not None)

    @property
    def stopping(self) -> bool:
        """Whether the thread was asked to end, or has failed."""
        return self._stopping

    def stop(self, timeout: float) -> bool:
        """Ask the thread to end; True if it did within `timeout` seconds."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(
        self,
        begin: Call,
        work: Callable[[Item], None],
        fetch: Call,
        on_failure: Callable[[BaseException], object],
    ) -> None:
        try:
            begin()
            while not self._stopping:
                self._next(work, fetch)
        except BaseException as error:
            with self._changed:
                asked, self._stopping = self._stopping, True
                self._changed.notify_all()
            if not asked:
                on_failure(error)

    def _next(self, work: Callable[[Item], None], fetch: Call) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or not self._is_idle)
            calls, self._calls = self._calls, []
            item = None
            if not calls:  # an item behind calls is taken next time, when it is still the newest
                item, self._item = self._item, None
            self._busy = True
        if self._stopping:
            return
        for call in calls:
            call()
        if item is not None:
            work(item)
        fetch()
        with self._changed:
            self._busy = False
            self._changed.notify_all()


class _Question(Generic[Answer]):
    """A call whose result another thread waits for.

    Other exceptions than the expected ones become a `UserError` too: they concern who asked, not
    the thread. `late` is called with an outcome that came after its caller gave up.
    """

    def __init__(
        self,
        function: Callable[[], Answer],
        expected: type[Exception] = UserError,
        late: Callable[[Answer | Exception], object] = lambda _: None,
    ):
        self._function, self._lock, self._done = function, Lock(), Event()
        self._expected, self._late = expected, late
        self._begun, self._given_up = False, False
        self._answers: list[Answer] = []
        self._error: Exception | None = None

    def call(self) -> None:
        with self._lock:
            if self._given_up:
                return
            self._begun = True
        try:
            self._answers.append(self._function())
        except self._expected as error:
            self._error = error
        except Exception as error:
            self._error = UserError(f"it failed: {type(error).__name__}: {error}")
        finally:
            with self._lock:
                self._done.set()
                given_up = self._given_up
        if given_up:
            self._late(self._answers[0] if self._answers else self._failure)

    @property
    def _failure(self) -> Exception:
        return self._error or UserError("the thread that was asked has failed")

    def is_done(self, seconds: float) -> bool:
        return self._done.wait(seconds)

    def wait(self, seconds: float, meanwhile: Call = lambda: None) -> Answer:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self.is_done(min(left, MEANWHILE)):
            meanwhile()
        if not self._done.is_set():
            with self._lock:
                self._given_up = not self._done.is_set()
            if self._given_up:
                late = "it goes on" if self._begun else "it was not begun, and will not be"
                raise UserError(f"not done within {seconds:.0f} s; {late}")
        if self._answers:
            return self._answers[0]
        raise self._failure


def ask(
    worker: Worker,
    function: Callable[[], Answer],
    seconds: float,
    late: Callable[[Answer | Exception], object] = lambda _: None,
    meanwhile: Call = lambda: None,
) -> Answer:
    """What a function returns in a worker's thread, where it is called before the next item.

    Raises the `UserError` that it raises, one for any other error, or one after `seconds`: it is
    then not called any more, unless it began; `late` is called with the outcome of one that did.
    `meanwhile` is called every `MEANWHILE` seconds of the wait.
    """
    question = _Question(function, late=late)
    worker.call_soon(question.call)
    return question.wait(seconds, meanwhile)


def ask_patiently(
    worker: Worker, function: Callable[[], Answer], meanwhile: Call, period: float
) -> Answer:
    """The same however long it takes; `meanwhile` is called every `period` seconds.

    Raises what the function raises, or `UserError` where the thread ends before it.
    """
    question = _Question(function, Exception)
    worker.call_soon(question.call)
    while not question.is_done(period):
        if worker.stopping:
            raise UserError("the node ends")
        meanwhile()
    return question.wait(0.0)
