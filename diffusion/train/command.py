"""`genfusion-train-repairer`: trains the bundled model's networks on fits that `genfusion-make-fits` wrote."""

from __future__ import annotations

import logging
from typing import Annotated

import tyro
from rich.console import Console
from rich.logging import RichHandler

from diffusion.errors import exits_cleanly
from diffusion.train import denoiser, fusion

Command = (
    Annotated[fusion.FusionConfig, tyro.conf.subcommand("fusion", prefix_name=False)]
    | Annotated[denoiser.DenoiserConfig, tyro.conf.subcommand("denoiser", prefix_name=False)]
)


@exits_cleanly
def main() -> None:
    """Entry point."""
    config = tyro.cli(Command, prog="genfusion-train-repairer")  # pyright: ignore[reportCallIssue, reportArgumentType]
    logging.basicConfig(level="INFO", format="%(message)s", handlers=[RichHandler(console=Console(stderr=True))])
    if isinstance(config, fusion.FusionConfig):
        fusion.train(config)
    else:
        denoiser.train(config)


if __name__ == "__main__":
    main()
