# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The worker's thread: `put_latest` replaces a waiting item, `put_and_wait` loses none."""

from collections.abc import Callable, Iterator
from threading import Event, Thread, current_thread

import pytest

from vggt_ros.errors import UserError
from vggt_ros.ros.worker import Worker, ask

pytestmark = pytest.mark.ros  # like all of vggt_ros.ros

TIMEOUT = 60.0  # seconds; only ever waited for by a test that fails


class BlockingWork:
    """Work that signals its start and ends when `gate` is set."""

    def __init__(self) -> None:
        self.done: list[object] = []
        self.started, self.gate = Event(), Event()

    def __call__(self, item: object) -> None:
        self.started.set()
        assert self.gate.wait(TIMEOUT)
        self.done.append(item)


@pytest.fixture
def work() -> BlockingWork:
    return BlockingWork()


@pytest.fixture
def failures() -> list[BaseException]:
    return []


@pytest.fixture
def worker(work: BlockingWork, failures: list[BaseException]) -> Iterator[Worker]:
    worker = Worker()
    worker.start(lambda: None, work, failures.append)
    yield worker
    work.gate.set()
    assert worker.stop(TIMEOUT)


def test_the_latest_item_replaces_one_that_waits(worker: Worker, work: BlockingWork):
    assert not worker.put_latest("a")
    assert work.started.wait(TIMEOUT)
    assert not worker.put_latest("b")
    assert worker.put_latest("c")
    work.gate.set()
    assert worker.wait_until_idle(TIMEOUT)
    assert work.done == ["a", "c"]


def test_items_that_are_put_and_waited_for_are_done_in_order(worker: Worker, work: BlockingWork):
    assert worker.put_and_wait(0)
    assert work.started.wait(TIMEOUT)
    returned: list[int] = []

    def produce() -> None:
        for i in range(1, 20):
            assert worker.put_and_wait(i)
            returned.append(i)

    producer = Thread(target=produce)
    producer.start()
    assert not worker.wait_until_idle(0.0)
    assert not returned, "the first is still at work"
    work.gate.set()
    producer.join(TIMEOUT)
    assert worker.wait_until_idle(TIMEOUT)
    assert work.done == list(range(20))


@pytest.mark.parametrize("end", ["stop", "failure"])
def test_a_waiting_producer_is_released_when_the_thread_ends(
    worker: Worker, work: BlockingWork, failures: list[BaseException], end: str
):
    worker.put_and_wait("a")
    assert work.started.wait(TIMEOUT)
    if end == "failure":
        worker.call_soon(lambda: 1 / 0)  # type: ignore[arg-type]
    results: list[bool] = []
    producer = Thread(target=lambda: results.append(worker.put_and_wait("b")))
    producer.start()
    if end == "stop":
        assert not worker.stop(0.0), "the first is still at work"
    else:
        work.gate.set()
    producer.join(TIMEOUT)
    assert results == [False]
    assert [type(error) for error in failures] == [ZeroDivisionError] * (end == "failure")


def test_calls_are_made_before_the_next_item(worker: Worker, work: BlockingWork):
    worker.put_latest("a")
    assert work.started.wait(TIMEOUT)
    worker.put_latest("b")
    worker.call_soon(lambda: work.done.append("call"))
    work.gate.set()
    assert worker.wait_until_idle(TIMEOUT)
    assert work.done == ["a", "call", "b"]


# ---- questions ----------------------------------------------------------------------------------


def test_what_a_function_returns_or_refuses_comes_back(worker: Worker):
    assert ask(worker, lambda: current_thread().name, TIMEOUT) == "vggt_worker"

    def refuse() -> None:
        raise UserError("not now")

    with pytest.raises(UserError, match="not now"):
        ask(worker, refuse, TIMEOUT)


def test_a_question_that_was_given_up_is_not_answered_later(worker: Worker, work: BlockingWork):
    worker.put_latest("a")
    assert work.started.wait(TIMEOUT)
    called: list[int] = []
    with pytest.raises(UserError, match="it was not begun, and will not be"):
        ask(worker, lambda: called.append(1), 0.0)
    work.gate.set()
    assert worker.wait_until_idle(TIMEOUT)
    assert called == []


@pytest.mark.parametrize("error", [None, UserError("the disk is full"), OSError("no space")])
def test_the_outcome_of_what_took_too_long_is_told(worker: Worker, error: Exception | None):
    begun, gate, outcomes = Event(), Event(), []

    def function() -> str:
        begun.set()
        assert gate.wait(TIMEOUT)
        if error is not None:
            raise error
        return "saved"

    class Eager(Worker):
        """It has begun what it is asked before the caller waits."""

        def call_soon(self, function: Callable[[], None]) -> None:
            worker.call_soon(function)
            assert begun.wait(TIMEOUT)

    with pytest.raises(UserError, match="it goes on"):
        ask(Eager(), function, 0.0, outcomes.append)
    assert outcomes == []
    gate.set()
    assert worker.wait_until_idle(TIMEOUT)
    (outcome,) = outcomes
    if error is None:
        assert outcome == "saved"
    else:
        assert isinstance(outcome, UserError) and str(error) in str(outcome)
