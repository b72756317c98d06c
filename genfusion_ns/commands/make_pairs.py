"""`genfusion-make-pairs`: clips of poor renders beside what they should show, to train the repair model with."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import tyro
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from diffusion.train.shards import build_index
from genfusion_ns.bounds import COUNT, NATURAL, Bound, Bounds, check_bounds
from genfusion_ns.errors import UserError, exits_cleanly
from genfusion_ns.pairs.fanout import Engine, Outcome, run_units
from genfusion_ns.pairs.make import Recipe, Unit
from genfusion_ns.pairs.plan import plan_units
from genfusion_ns.pairs.variants import MOST_VARIANTS


@dataclass
class MakePairs:
    """Fit 2DGS to masked and sparse parts of scenes, and store what it renders beside the truth.

    The same arguments give the same shards; those that are there already are kept, so an interrupted run goes on.
    """

    output: Path
    """Folder for the shards, their index and the photos (footage/, which may be deleted afterwards)."""
    scenes: int = 40
    """How many scenes; about a minute each on one core at the default size."""
    first_scene: int = 0
    """Number of the first scene: gives more scenes to an older set, or parts of one set to several machines."""
    variants: int = 2
    """How many ways of hiding most of each scene, masked and sparse by turns."""
    named: tuple[str, ...] = ()
    """These ways instead of random ones, such as corner, moving, window10, polygon25, sparse3: for evaluation."""
    families: tuple[str, ...] = ()
    """Families of procedural scenes by turns; none named = all."""
    captures: tuple[Path, ...] = ()
    """Folders of real captures in Nerfstudio's format; each sixth scene is a path through one."""
    only_captures: bool = False
    """All scenes are paths through captures: for evaluation on real photos."""
    size: tuple[int, int] = (160, 96)
    """Width and height of the clips in pixels; multiples of 32 suit the video model."""
    frames: int = 32
    """Frames of each path."""
    clip_length: int = 16
    """Frames of each clip."""
    splats: int = 7000
    """Most splats of a fit; more are sharper and slower."""
    split: Literal["train", "val"] = "train"
    """Validation scenes have seeds of their own (1,000,000 higher)."""
    processes: int = 1
    """Processes on this machine, one unit each."""
    threads: int = 1
    """Threads of each process."""
    engine: Engine = "local"
    """local = this machine; ray = the cluster that RAY_ADDRESS names (`pip install 'genfusion-ns[ray]'`); the output
    must then be a folder that all machines share."""
    seed: int = 0
    """Another seed gives other scenes."""

    BOUNDS: ClassVar[Bounds] = {
        "scenes": COUNT,
        "first_scene": NATURAL,
        "variants": Bound(1, MOST_VARIANTS),
        "size": Bound(16),
        "frames": COUNT,
        "clip_length": COUNT,
        "splats": Bound(100),
        "processes": COUNT,
        "threads": COUNT,
        "seed": NATURAL,
    }


@exits_cleanly
def run(args: MakePairs) -> None:
    """Make what is missing, and index the folder.

    Raises:
        UserError: numbers that make no clips, an unknown family or capture; a full disk; units that failed.
    """
    recipe = check(args)
    chosen = (args.captures, args.families, args.first_scene, args.named, args.only_captures)
    units = plan_units(recipe, args.scenes, args.variants, *chosen)
    console = Console()
    try:
        failed = follow(units, run_units(units, recipe, args.output, args.processes, args.engine), console)
        clips = build_index(args.output)
    except OSError as error:
        raise UserError(
            f"writing to {args.output} failed ({error}). What was written is whole and stays; make room, and run the "
            "same command again to go on."
        ) from error
    console.print(f"{args.output}: {len(clips)} clips in {len({ref.shard for ref in clips})} shards", soft_wrap=True)
    if failed:
        raise UserError(f"{failed} of {len(units)} units failed, see above; the same command tries them again.")


def check(args: MakePairs) -> Recipe:
    """The recipe that the arguments describe.

    Raises:
        UserError: a number out of range.
    """
    width, height = args.size
    check_bounds(args, "--")
    if args.clip_length > args.frames:
        raise UserError(f"--clip-length is {args.clip_length}; expected 1 to {args.frames}, the frames of a path.")
    return Recipe(
        width=width,
        height=height,
        frames=args.frames,
        clip_length=args.clip_length,
        splats=args.splats,
        points=round(args.splats * 4 / 7),
        seed=args.seed,
        split=args.split,
        threads=args.threads,
    )


def follow(units: list[Unit], outcomes: Iterable[Outcome], console: Console) -> int:
    """Show progress; returns how many units failed."""
    failed = kept = 0
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("units", total=len(units))
        for outcome in outcomes:
            if outcome.failure:
                failed += 1
                console.print(f"[red]failed:[/] {outcome.name}: {outcome.failure}", soft_wrap=True)
            elif not outcome.done:
                kept += 1
            else:
                console.print(f"made {outcome.name}", highlight=False)
            progress.advance(task)
    if kept:
        console.print(f"{kept} units were there already")
    return failed


def main() -> None:
    """Entry point."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[RichHandler(show_path=False)])
    run(tyro.cli(MakePairs))


if __name__ == "__main__":
    main()
