# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One thread, one slot: an offered job gives way to a newer one, a handed one is never lost."""

from collections.abc import Iterator
from threading import Event, Thread

import pytest

from vggt_ros.ros.worker import Worker

LONG = 60.0  # seconds; only ever waited for by a test that fails


class Gated:
    """Work that says when it begins and ends when it is let."""

    def __init__(self) -> None:
        self.done: list[object] = []
        self.begun, self.gate = Event(), Event()

    def __call__(self, job: object) -> None:
        self.begun.set()
        assert self.gate.wait(LONG)
        self.done.append(job)


@pytest.fixture
def work() -> Gated:
    return Gated()


@pytest.fixture
def deaths() -> list[BaseException]:
    return []


@pytest.fixture
def worker(work: Gated, deaths: list[BaseException]) -> Iterator[Worker]:
    worker = Worker()
    worker.start(lambda: None, work, deaths.append)
    yield worker
    work.gate.set()
    assert worker.stop(LONG)


def test_an_offered_job_gives_way_to_a_newer_one(worker: Worker, work: Gated):
    assert not worker.offer("a")
    assert work.begun.wait(LONG)
    assert not worker.offer("b")
    assert worker.offer("c")
    work.gate.set()
    assert worker.rest(LONG)
    assert work.done == ["a", "c"]


def test_a_handed_job_waits_for_its_turn_and_none_is_lost(worker: Worker, work: Gated):
    assert worker.hand(0)
    assert work.begun.wait(LONG)
    returned: list[int] = []

    def hand() -> None:
        for i in range(1, 20):
            assert worker.hand(i)
            returned.append(i)

    hands = Thread(target=hand)
    hands.start()
    assert not worker.rest(0.0)
    assert not returned, "the first is still at work"
    work.gate.set()
    hands.join(LONG)
    assert worker.rest(LONG)
    assert work.done == list(range(20))


@pytest.mark.parametrize("end", ["stop", "death"])
def test_whoever_waits_to_hand_a_job_is_let_go_when_the_thread_ends(
    worker: Worker, work: Gated, deaths: list[BaseException], end: str
):
    worker.hand("a")
    assert work.begun.wait(LONG)
    if end == "death":
        worker.ask(lambda: 1 / 0)  # type: ignore[arg-type]
    answers: list[bool] = []
    hands = Thread(target=lambda: answers.append(worker.hand("b")))
    hands.start()
    if end == "stop":
        assert not worker.stop(0.0), "the first is still at work"
    else:
        work.gate.set()
    hands.join(LONG)
    assert answers == [False]
    assert [type(error) for error in deaths] == [ZeroDivisionError] * (end == "death")


def test_errands_are_done_before_the_next_job(worker: Worker, work: Gated):
    worker.offer("a")
    assert work.begun.wait(LONG)
    worker.offer("b")
    worker.ask(lambda: work.done.append("errand"))
    work.gate.set()
    assert worker.rest(LONG)
    assert work.done == ["a", "errand", "b"]
