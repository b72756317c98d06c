"""`genfusion-train-stereo`: scenes with depth, and the stereo network trained on them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import track

from genfusion_ns.errors import UserError, exits_cleanly
from genfusion_ns.stereo.train.run import StereoTrainConfig, train


@dataclass(frozen=True)
class Scenes:
    """Write training scenes: procedural ones with exact depth, and captures with depth from a fit of all photos.

    Files that are there already are left alone, so that several processes can share the work by `stride`."""

    output: Path = Path("stereo/scenes")
    """Folder of the scenes."""
    captures: tuple[Path, ...] = ()
    """Undistorted captures in Nerfstudio's format with sparse/0; their photos also lend textures to the others."""
    fitted: bool = True
    """Fit all photos of a capture for their depth, which takes minutes; without it the depth is that of tracks."""
    first: int = 0
    """Seed of the first procedural scene."""
    count: int = 600
    """How many procedural scenes; each takes some 5 to 10 s of a core."""
    stride: int = 1
    """Distance of the seeds."""


def write_scenes(config: Scenes) -> None:
    """Write what is missing."""
    from genfusion_ns.stereo.train.captures import write_capture
    from genfusion_ns.stereo.train.scenes import capture_photographs, write_procedural

    if config.first < 0 or config.count < 0 or config.stride < 1:
        raise UserError(
            f"found first {config.first}, count {config.count}, stride {config.stride}; expected 0, 0, 1 up."
        )
    config.output.mkdir(parents=True, exist_ok=True)
    console = Console()
    for capture in track(config.captures, "captures", console=console):
        path = config.output / f"capture_{capture.resolve().name}.safetensors"
        if not path.exists():
            write_capture(path, capture, fitted=config.fitted)
    photographs = capture_photographs(config.captures)
    seeds = range(config.first, config.first + config.count * config.stride, config.stride)
    for seed in track(seeds, "procedural scenes", console=console):
        path = config.output / f"scene_{seed:05d}.safetensors"
        if not path.exists():
            write_procedural(path, seed, photographs)


Command = (
    Annotated[Scenes, tyro.conf.subcommand("scenes", prefix_name=False)]
    | Annotated[StereoTrainConfig, tyro.conf.subcommand("train", prefix_name=False)]
)


@exits_cleanly
def main() -> None:
    """Entry point of `genfusion-train-stereo`."""
    config = tyro.cli(Command)  # pyright: ignore[reportCallIssue, reportArgumentType]
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    if isinstance(config, Scenes):
        write_scenes(config)
    else:
        train(config)


if __name__ == "__main__":
    main()
