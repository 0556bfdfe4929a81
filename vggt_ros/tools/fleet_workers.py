# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Sources as tasks of Ray: over processes of this machine, or over a cluster.

A worker that dies (killed, out of memory) costs its source a try, and no other; a source that has
cost three is passed over. A machine that is lost costs no source anything.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vggt_ros.errors import UserError, install_extra
from vggt_ros.tools.runs.batch import Entry

TRIES = 3
OBJECTS = 80_000_000  # bytes for Ray's store; what is passed around is a few names


def ray_tasks(
    tasks: Mapping[int, Entry],
    work: Callable[[Entry], Entry],
    workers: int,
    address: str,
    gpus: float,
) -> Iterator[tuple[int, Entry]]:
    """Results as they are done, `workers` tasks at a time.

    Raises `UserError` where Ray is missing or does not start, and what `work` raises.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    # A worker without a share of a GPU sees all of them, as any process does.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise UserError(
            f"several workers need Ray; install it {install_extra('fleet')}, or omit --workers"
        ) from None
    start = {"address": address} if address else {
        "num_cpus": workers, "object_store_memory": OBJECTS, "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",
    }  # fmt: skip
    _start(ray, start)
    try:
        yield from _results(ray, tasks, _remote(ray, work, gpus), workers)
    finally:
        ray.shutdown()


def _start(ray: Any, options: Mapping[str, Any]) -> None:
    """Start Ray, or join its cluster; tried again where Ray's 30 s were too short (a busy machine).

    Raises `UserError` where it does not start.
    """
    for left in reversed(range(TRIES)):
        try:
            ray.init(**options, log_to_driver=False, logging_level="ERROR")
            return
        except Exception as error:  # no cluster there, no memory, no free port
            ray.shutdown()
            why = " ".join(str(error).split())
            if not left or "timed out during startup" not in why:
                raise UserError(f"Ray does not start: {why[:200]}") from None


def _remote(ray: Any, work: Callable[[Entry], Entry], gpus: float) -> Any:
    """The task. Workers that share a GPU divide its memory."""
    share = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 * gpus:.3f}"} if 0 < gpus < 1 else {}
    return ray.remote(work).options(
        num_cpus=1, num_gpus=gpus, max_retries=0, runtime_env={"env_vars": share}
    )


def _results(
    ray: Any, tasks: Mapping[int, Entry], remote: Any, workers: int
) -> Iterator[tuple[int, Entry]]:
    """Of the tasks in their order; one whose worker died goes back to the end of the queue."""
    queue, tries = deque(tasks), dict.fromkeys(tasks, 0)
    running: dict[Any, int] = {}
    died = (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError)
    losses = 0
    while queue or running:
        while queue and len(running) < workers:
            row = queue.popleft()
            running[remote.remote(tasks[row])] = row
        (done,), _ = ray.wait(list(running), num_returns=1)
        row = running.pop(done)
        try:
            yield row, ray.get(done)
        except ray.exceptions.RayTaskError as error:  # raised by `work`: of all sources alike
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise
        except died as error:
            tries[row] += 1
            if tries[row] < TRIES:
                queue.append(row)
            else:
                why = str(error).splitlines()[0]
                yield row, tasks[row].failed(f"its worker died {TRIES} times, the last time: {why}")
        except ray.exceptions.RayError as error:  # a machine is gone, which is no fault of a source
            losses += 1
            if losses > TRIES * workers:
                raise UserError(
                    f"Ray lost its workers: {str(error).splitlines()[0]}; the same command goes on"
                ) from None
            queue.append(row)
