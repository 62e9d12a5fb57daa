"""All cells of a sweep, over processes; what is done already is not done again."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sidecar.cli.simulate import store
from sidecar.cli.simulate.cells import Cell, Experiment, run_cell


def run_sweep(
    experiment: Experiment, cells: Sequence[Cell], jobs: int, out: Path | None, done: Callable[[], None]
) -> list[dict[str, Any]]:
    """Figures of every cell, in the order given. ``done`` is called as each is there.

    With ``out``, each cell is a file there as soon as it is run, and one that is there is read instead: a sweep that
    was stopped goes on where it was. Changed code or options make other files.
    """
    found: dict[Cell, dict[str, Any]] = {}
    missing: list[Cell] = []
    for cell in cells:
        stored = None if out is None else store.read(_path(out, experiment, cell))
        if stored is None:
            missing.append(cell)
        else:
            found[cell] = stored
            done()
    for cell, figures in _run(experiment, missing, jobs):
        if out is not None:
            store.write(_path(out, experiment, cell), figures)
        found[cell] = figures
        done()
    return [found[cell] for cell in cells]


def _run(experiment: Experiment, cells: Sequence[Cell], jobs: int) -> Iterator[tuple[Cell, dict[str, Any]]]:
    if jobs == 1 or len(cells) < 2:
        yield from ((cell, run_cell(experiment, cell)) for cell in cells)
        return
    # Spawned, for a fork would copy the progress bar's thread in whatever state it is.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(cells)), mp_context=context) as pool:
        running = {pool.submit(run_cell, experiment, cell): cell for cell in cells}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _path(out: Path, experiment: Experiment, cell: Cell) -> Path:
    name = f"{cell.policy}-load{cell.load:g}-seed{cell.seed}"
    return store.path_of(out, name, [asdict(experiment), cell.key], experiment.files)
