"""`genfusion-train-repairer`: trains the bundled model's networks on fits that `genfusion-make-fits` wrote."""

from __future__ import annotations

import logging

import tyro
from rich.console import Console
from rich.logging import RichHandler

from diffusion.errors import exits_cleanly
from diffusion.train.fusion import FusionConfig, train


@exits_cleanly
def main() -> None:
    """Entry point."""
    config = tyro.cli(FusionConfig, prog="genfusion-train-repairer")
    logging.basicConfig(level="INFO", format="%(message)s", handlers=[RichHandler(console=Console(stderr=True))])
    train(config)


if __name__ == "__main__":
    main()
