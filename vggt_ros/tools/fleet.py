# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`vggt fleet SOURCES --out DIR`: a run of each of many bags, videos or folders of images.

With one worker in this process, one after another; with several as tasks of Ray, which are
processes of this machine or of a cluster. Either way it is `vggt run` that is done, and a worker
opens its network once.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

from vggt_ros.engine.interface import caution
from vggt_ros.errors import UserError
from vggt_ros.settings import Settings
from vggt_ros.tools.option_sets import check_limits, refuse_unused, with_options_of
from vggt_ros.tools.run import run
from vggt_ros.tools.runs.batch import DONE, FAILED, Batch, Entry
from vggt_ros.tools.runs.checks import LIMITS, check_offline

RUN = signature(run).parameters
ENGINE = ("model", "dtype", "device", "cache_dir", "seed")  # options of the network
Results = Iterator[tuple[int, Entry]]  # rows of the batch, in the order in which they are done


@with_options_of(run, without=("source", "out", "overwrite", "quiet", "engine"))
def fleet(
    sources: Sequence[Path],
    out: Path,
    *,
    workers: int = 1,
    address: str = "",
    gpus: float = 0.0,
    overwrite: bool = False,
    quiet: bool = False,
    **options: Any,
) -> int:
    """Reconstruct many sources, each into a folder of its own; the same command goes on.

    A source that cannot be read is named in the table and passed over. Exits 1 if any failed.

    Args:
        sources: Bags, videos and folders of images.
        out: Output directory: fleet.json, and a run directory for each source.
        workers: How many sources at a time; more than 1 needs Ray (the extra fleet).
        address: Of a Ray cluster (auto: the one that runs here); its machines need this package
            and the same paths. Without one, workers are processes of this machine.
        gpus: Of each worker; 0.5 lets two share one. 0 leaves the choice of a device to JAX.
        overwrite: Begin again, also in a directory that holds other files.
        quiet: Print the table alone.
    """
    if not sources:
        raise UserError("no sources given; name bags, videos or folders of images")
    if workers < 1 or gpus < 0:
        raise UserError("--workers must be 1 or more, and --gpus not negative")
    if workers == 1 and not address:
        text = "is of workers of Ray, and there is one without: add --workers or --address"
        refuse_unused(fleet, {"gpus": gpus}, {"gpus": text})
    _check(options)
    batch = Batch(out, sources, _changed(options), overwrite=overwrite)
    log = (lambda _: None) if quiet else (lambda line: print(line, file=sys.stderr, flush=True))
    if batch.kept:
        log(f"{batch.kept} of {len(batch.entries)} sources are done already")
    tasks = {row: batch.entries[row] for row in batch.waiting}
    if workers == 1 and not address:
        results = _one_by_one(tasks, out, options)
    else:
        from vggt_ros.tools.fleet_workers import ray_tasks

        results = ray_tasks(tasks, _worker(out, options), workers, address, gpus)
    _collect(batch, results, quiet=quiet, log=log)
    print(batch.table(), flush=True)
    done = {(entry.model, entry.random_weights) for entry in batch.entries if entry.model}
    for warning in filter(None, (caution(*network) for network in sorted(done))):
        log(f"warning: {warning}")
    if apart := [entry for entry in batch.entries if entry.as_one_sequence]:
        log(
            f"warning: {sum(entry.as_one_sequence for entry in apart)} of"
            f" {sum(entry.windows for entry in batch.entries)} windows, in {len(apart)} of"
            f" {len(batch.entries)} sources, were attended as one sequence, as in joint, though the"
            " weights' layout is view_time; `attention` in each summary.json says why"
        )
    return 1 if batch.count(FAILED) else 0


def reconstruct(entry: Entry, out: str, options: Mapping[str, Any]) -> Entry:
    """One source, in the process that calls; what is wrong with it is said in the result.

    Raises `UserError` for a network that cannot be opened, which no source can do without.
    """
    engine = open_once(*(options.get(name, RUN[name].default) for name in ENGINE),
                     tracks=options.get("queries") is not None)  # fmt: skip
    try:
        done = run(
            Path(entry.source), Path(out, entry.folder), engine=engine, quiet=True, **options
        )
    except UserError as error:
        return entry.failed(str(error))
    except Exception as error:  # whatever it is, the other sources are not to be lost
        return entry.failed(f"{type(error).__name__}: {error}")
    return entry.finished(done)


@cache
def open_once(model: str, dtype: str, device: str, cache_dir: Path | None, seed: int, *,
            tracks: bool) -> Any:  # fmt: skip
    """The network of this process, opened once."""
    from vggt_ros.engine.engine import open_engine

    return open_engine(model, dtype=dtype, device=device, seed=seed, tracks=tracks,
                       cache_dir=cache_dir and cache_dir.expanduser(),
                       progress=lambda _: None)  # fmt: skip


def _worker(out: Path, options: Mapping[str, Any]) -> Callable[[Entry], Entry]:
    where, chosen = str(out.resolve()), dict(options)

    def work(entry: Entry) -> Entry:
        return reconstruct(entry, where, chosen)

    return work


def _one_by_one(tasks: Mapping[int, Entry], out: Path, options: Mapping[str, Any]) -> Results:
    work = _worker(out, options)
    return ((row, work(entry)) for row, entry in tasks.items())


def _collect(batch: Batch, results: Results, *, quiet: bool, log: Callable[[str], None]) -> None:
    """Take results as they come; the estimate of what is left is by the size of the sources."""
    from tqdm import tqdm

    total = sum(entry.bytes for entry in batch.entries if entry.state != DONE)
    bar = tqdm(total=total, unit="B", unit_scale=True, disable=quiet, dynamic_ncols=True)
    try:
        for row, entry in results:
            batch.put(row, entry)
            if entry.state == FAILED and not quiet:
                bar.write(f"failed: {entry.source}: {entry.reason}", file=sys.stderr)
            bar.set_postfix_str(f"{len(batch.entries) - len(batch.waiting)} of"
                                f" {len(batch.entries)} sources")  # fmt: skip
            bar.update(entry.bytes)
    finally:
        bar.close()
        batch.save(interrupted=bool(batch.waiting))
        if batch.waiting:
            log(f"{len(batch.waiting)} sources are left: the same command goes on")


def _check(options: Mapping[str, Any]) -> None:
    """Raises `UserError` for options that no source could be reconstructed with."""
    unknown = options.keys() - RUN.keys()
    if unknown:
        raise UserError(f"there is no option {', '.join(sorted(unknown))}; see vggt run --help")
    names = {row.name for row in fields(Settings)}
    check_limits(options, **LIMITS)
    check_offline(
        Settings(**{name: options[name] for name in options.keys() & names}),
        is_rig=bool(options.get("cameras")),
    )


def _changed(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are not the defaults: what the result depends on."""
    return {name: value for name, value in options.items() if value != RUN[name].default}
