"""Repair a clip without Nerfstudio: `python -m diffusion repair --clip IN --out OUT`, or `genfusion-repair`."""

from __future__ import annotations

import logging
import os
import sys

import tyro
from rich.console import Console
from rich.logging import RichHandler

from diffusion.cli.options import Repair
from diffusion.errors import UserError, exits_cleanly


@exits_cleanly
def main() -> None:
    """Entry point of `python -m diffusion` and `genfusion-repair`; the word `repair` in front may be left out."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["repair"]:
        arguments = arguments[1:]
    args = tyro.cli(Repair, prog="python -m diffusion repair", args=arguments)
    console = Console()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=console)])
    # Read when torch is loaded. Threads that spin while they wait cost tenfold on a CPU shared with other programs.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Loads torch, which --help can do without.
    from diffusion.cli.repair import repair_clip

    try:
        repair_clip(args, console)
    except KeyboardInterrupt:
        raise UserError("interrupted; nothing was written for the unfinished clip") from None


if __name__ == "__main__":
    main()
