"""`genfusion-convert`: an official checkpoint -> a diffusers pipeline folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from diffusion.errors import exits_cleanly


@dataclass
class Convert:
    """Convert a GenFusion or DynamiCrafter checkpoint to a folder that RGBDVideoRepairPipeline loads.

    The checkpoint is memory-mapped, and written network by network in safetensors; it takes the disk space of the
    result and about 2.5 GB of memory, whatever the checkpoint's size. Of pickles only tensors are read.
    """

    checkpoint: Annotated[str, tyro.conf.Positional]
    """Lightning .ckpt, DeepSpeed mp_rank_00_model_states.pt, or .safetensors file with the official tensor names; or a
    hub id to download it from, such as Sibo2rr/GenFusion-GenerationModel."""
    out: Annotated[Path, tyro.conf.Positional]
    """Folder to write; it appears when the conversion is complete."""
    file: str = "epoch=59-step=34000.ckpt"
    """The checkpoint's name in the hub repository, where a hub id is given."""
    ignore: tuple[str, ...] = ()
    """Tensors to leave out that are neither used nor known leftovers: patterns such as 'extra_head.*'."""
    dtype: Literal["fp16", "fp32"] = "fp16"
    """Precision of the written weights; the official code samples in fp16, which is why that is the default."""
    overwrite: bool = False
    """Replace the output folder if it exists."""
    clip_heads: int | None = None
    """Attention heads of the image encoder; by default from its width, for OpenCLIP's own sizes."""
    resampler_head_width: int | None = None
    """Width of the resampler's attention heads; 64 by default, as in the official network."""


@exits_cleanly
def main() -> None:
    """Entry point of `genfusion-convert`: convert, and print what became of the checkpoint."""
    options = tyro.cli(Convert)
    # Imported late, so that --help is quick.
    from diffusion.convert.fetch import find_checkpoint
    from diffusion.convert.plan import Hints
    from diffusion.convert.run import convert

    console = Console()
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=console)])
    hints = Hints(options.clip_heads, options.resampler_head_width, options.ignore)
    checkpoint = find_checkpoint(options.checkpoint, options.file)
    plan, digest = convert(checkpoint, options.out, options.dtype, hints, options.overwrite)
    table = Table("part", "tensors", "parameters")
    for network in plan.networks:
        table.add_row(network.folder, str(len(network.pieces)), f"{network.parameters:,}")
    for kind, names in plan.ignored.items():
        table.add_row(f"left out: {kind}", str(len(names)), "")
    console.print(table)
    console.print("No missing and no unexpected tensors.")
    console.print(f"{checkpoint}: SHA-256 {digest}", soft_wrap=True)
    console.print(f"Written to {options.out}", soft_wrap=True)
