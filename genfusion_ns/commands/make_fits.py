"""`genfusion-make-fits`: sparse reconstructions of scenes with depth, to train the fusion network on."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import tyro
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from genfusion_ns.bounds import COUNT, NATURAL, Bound, Bounds, check_bounds
from genfusion_ns.errors import UserError, exits_cleanly
from genfusion_ns.training_data.fanout import Unit, run_units
from genfusion_ns.training_data.make import Recipe


@dataclass
class MakeFits:
    """Fit 2DGS to a few photos, or parts of photos, of scenes with depth, and store what it renders beside the truth.

    The same arguments give the same files; those that are there already are kept, so an interrupted run goes on.
    """

    scenes: Path = Path("stereo/scenes")
    """Folder of scenes that `genfusion-train-stereo scenes` wrote."""
    output: Path = Path("fits")
    """Folder for the fits."""
    fits: int = 2
    """How many fits of each scene; half a minute each on one core at the default size."""
    first: int = 0
    """Number of the first fit of each scene, to add to an older set."""
    side: int = 160
    """Longer side in pixels; every eighth fit has twice as many."""
    seed: int = 0
    """Another seed gives other fits of the same scenes."""
    processes: int = 1
    """Processes on this machine, one fit each."""

    BOUNDS: ClassVar[Bounds] = {
        "fits": COUNT,
        "first": NATURAL,
        "side": Bound(32),
        "seed": NATURAL,
        "processes": COUNT,
    }


@exits_cleanly
def run(args: MakeFits) -> None:
    """Make what is missing.

    Raises:
        UserError: no scenes, numbers out of range, a full disk, or fits that failed.
    """
    check_bounds(args, "--")
    scenes = sorted(args.scenes.glob("*.safetensors"))
    if not scenes:
        raise UserError(f"{args.scenes} holds no scenes; make some with genfusion-train-stereo scenes")
    units = [Unit(scene, number) for number in range(args.first, args.first + args.fits) for scene in scenes]
    console = Console()
    failed = 0
    columns = (TextColumn("fits"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("fits", total=len(units))
            recipe = Recipe(side=args.side, seed=args.seed)
            for outcome in run_units(units, recipe, args.output, args.processes):
                if outcome.failure:
                    failed += 1
                    console.print(f"[red]failed:[/] {outcome.name}: {outcome.failure}", soft_wrap=True)
                progress.advance(task)
    except OSError as error:
        raise UserError(
            f"writing to {args.output} failed ({error}). What was written is whole and stays; make room, and run the "
            "same command again to go on."
        ) from error
    if failed:
        raise UserError(f"{failed} of {len(units)} fits failed, see above; the same command tries them again.")


def main() -> None:
    """Entry point."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[RichHandler(show_path=False)])
    run(tyro.cli(MakeFits))


if __name__ == "__main__":
    main()
