"""`genfusion-prepare`: photos in, a Nerfstudio scene out."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Sequence

import tyro
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from genfusion_ns.data.prepare import PrepareConfig, Prepared, prepare
from genfusion_ns.errors import exits_cleanly


@exits_cleanly
def main(args: Sequence[str] | None = None) -> None:
    """Read the command line (or `args`), prepare the scene, and say what to do with it."""
    config = tyro.cli(PrepareConfig, args=args, prog="genfusion-prepare")
    console = Console(stderr=True)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=console)])
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        try:
            made = prepare(config, progress)
        except KeyboardInterrupt:
            console.print("interrupted; the same command continues where this one stopped.")
            sys.exit(130)
    _report(made, console)


def _report(made: Prepared, console: Console) -> None:
    for note in made.notes:
        console.print(f"[yellow]note:[/] {escape(note)}", highlight=False, soft_wrap=True)
    if made.skipped:
        console.print(f"done before, not repeated: {', '.join(made.skipped)}", highlight=False)
    console.print(
        f"{escape(str(made.scene))}: {made.registered} of {made.photos} photos posed, {made.points} sparse points.",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"next: ns-train genfusion --data {escape(shlex.quote(str(made.scene)))}", highlight=False, soft_wrap=True
    )


if __name__ == "__main__":
    main()
