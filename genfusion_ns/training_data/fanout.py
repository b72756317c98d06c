"""Many fits at once, in this process or in several. Every fit has a file of its own, so they know nothing of each
other, and an interrupted run goes on where it was."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from genfusion_ns.errors import UserError
from genfusion_ns.stereo.estimator import StereoEstimator
from genfusion_ns.training_data.make import Recipe, fit_path, write_scene_fit

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unit:
    """One fit to make."""

    scene: Path
    """Scene file."""
    number: int
    """Number of the fit among those of its scene."""


@dataclass(frozen=True)
class Outcome:
    """What became of one unit."""

    name: str
    done: bool
    """False where its file was there already, or it failed."""
    failure: str = ""
    """Why there is no file, empty if there is one."""


def run_units(units: Sequence[Unit], recipe: Recipe, folder: Path, processes: int = 1) -> Iterator[Outcome]:
    """Make all units, in any order; yields one outcome each. A unit that fails is reported and does not stop others.

    Raises:
        UserError: the folder cannot be made, or a process died.
        OSError: a file cannot be written (the disk is full); what was written stays.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error}). Name another --output.") from error
    if processes == 1:
        for unit in units:
            yield attempt(unit, recipe, folder)
    else:
        yield from _in_processes(units, recipe, folder, processes)


def attempt(unit: Unit, recipe: Recipe, folder: Path) -> Outcome:
    """Make one fit; a mistake in its scene becomes part of the outcome, a failing disk does not."""
    torch.set_num_threads(1)
    path = fit_path(folder, unit.scene, unit.number)
    if path.exists():
        return Outcome(path.stem, False)
    try:
        write_scene_fit(unit.scene, unit.number, recipe, folder, _estimator())
    except (ValueError, ArithmeticError, RuntimeError) as error:
        return Outcome(path.stem, False, f"{type(error).__name__}: {error}")
    return Outcome(path.stem, True)


@cache
def _estimator() -> StereoEstimator:
    """One per process: its weights take longer to read than a photo to estimate."""
    return StereoEstimator()


def _in_processes(units: Sequence[Unit], recipe: Recipe, folder: Path, processes: int) -> Iterator[Outcome]:
    # fork would copy the rasteriser's thread pool without its threads
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        futures = [pool.submit(attempt, unit, recipe, folder) for unit in units]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise UserError(
                f"a process died, most likely for want of memory ({error}). Start the same command again with fewer "
                f"--processes than {processes}; what was written stays."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
