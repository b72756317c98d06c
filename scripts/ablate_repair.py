"""What the parts of the repairer's training and sampling are worth: one table of gains over the rendering.

    python scripts/ablate_repair.py --pairs runs/lite/pairs/train --vae runs/lite/vae/vae \\
        --val-pairs runs/lite/pairs/val --output runs/ablations

Each row of the first part fits an autoencoder where it needs another and trains a chooser for the same number of steps
on a part of the pairs; each row of the second samples the given weights in another way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin while they wait cripple a busy machine

import torch
import tyro
from eval_repair import chosen_clips, make_method, score_clip, summary
from rich.console import Console
from rich.progress import track
from rich.table import Table

from diffusion.errors import UserError, exits_cleanly
from diffusion.train.command import train_chooser, train_vae
from diffusion.train.config import ChooserConfig, Stage, VaeConfig
from diffusion.train.shards import ClipRef
from diffusion.train.trainer import find_pairs
from genfusion_ns.files import write_atomic

QUADRANTS = ("corner", "window", "moving")
SAMPLERS = ("@1", "@4", "@25", "@4~0.8", "@4~0.5")
"""Suffixes of weights as eval_repair.py reads them: steps of the sampler, and the strength of a start from the noised
renderings, mixed by opacity."""


@dataclass(frozen=True)
class Options:
    """Settings of the ablation."""

    pairs: Path
    """Folder of training pairs."""
    val_pairs: tuple[Path, ...]
    """Folders of pairs to score; each gives rows by its kinds of clips."""
    vae: Path
    """Folder of the RGB-D autoencoder."""
    weights: str = "lite-small"
    """Trained weights for the samplers' rows."""
    output: Path = Path("runs/ablations")
    """Folder of runs, table.md and ablations.json."""
    steps: int = 300
    """Training steps of each chooser."""
    clips: int = 24
    """Clips per folder of val-pairs, evenly spread; 0 = all."""


def is_masked(variant: str, kinds: tuple[str, ...], share: str = "") -> bool:
    """Whether a variant of pairs, such as window25-every2, is of one of the kinds (and of that share of known pixels,
    where it says one: corner and moving are 25 %)."""
    kind = variant.partition("-")[0]
    name, number = kind.rstrip("0123456789"), kind[len(kind.rstrip("0123456789")) :]
    return name in kinds and (not share or (number or "25") == share)


PARTS: dict[str, Callable[[str], bool]] = {
    "all pairs, RGB-D": lambda variant: True,
    "all pairs, RGB": lambda variant: True,
    "mask share 10 %": lambda variant: is_masked(variant, (*QUADRANTS, "polygon"), "10"),
    "mask share 25 %": lambda variant: is_masked(variant, (*QUADRANTS, "polygon"), "25"),
    "mask share 50 %": lambda variant: is_masked(variant, (*QUADRANTS, "polygon"), "50"),
    "quadrants and windows": lambda variant: is_masked(variant, QUADRANTS),
    "irregular masks": lambda variant: is_masked(variant, ("polygon",)),
    "few photos": lambda variant: variant.startswith("sparse"),
}
"""Name of a row -> which variants it trains on."""


def part_of(pairs: Path, folder: Path, wanted: Callable[[str], bool]) -> Path:
    """A folder of links to the shards whose variant is wanted.

    Raises:
        UserError: there are none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = {ref.shard for ref in find_pairs(pairs) if wanted(str(ref.provenance.get("variant")))}
    if not shards:
        raise UserError(f"{pairs} has no pairs for {folder.name}; make more with genfusion-make-pairs")
    for shard in shards:
        link = folder / shard.name
        if not link.exists():
            link.symlink_to(shard.resolve())
    return folder


def trained(name: str, options: Options) -> tuple[Path, int]:
    """The pipeline of a row, trained unless it is there, and how many clips it learnt from."""
    folder = options.output / name.replace(" ", "_").replace(",", "").replace("%", "percent")
    pairs = part_of(options.pairs, folder / "pairs", PARTS[name])
    clips = len(find_pairs(pairs))
    if (folder / "pipeline" / "model_index.json").is_file():
        return folder / "pipeline", clips
    vae = options.vae
    if name.endswith("RGB"):
        stages = (Stage(60, frames=2, height=64, width=64, batch=8),)
        vae = train_vae(VaeConfig(pairs=pairs, output=folder, depth=False, stages=stages))
    stages = (Stage(options.steps, batch=2),)
    config = ChooserConfig(pairs=pairs, output=folder, vae=vae, stages=stages, ema=0.98, warmup=20)
    return train_chooser(config), clips


def gains(weights: str, refs: list[ClipRef], inputs: list[dict]) -> dict[str, float]:
    """Mean gain by kind of clip."""
    method = make_method(weights)
    rows = [score_clip(method, ref) for ref in track(refs, description=weights, transient=True)]
    means = summary({"input": inputs, weights: rows})
    return {kind: methods[weights]["gain"] for kind, methods in means.items()}


@exits_cleanly
def main(options: Options) -> None:
    """Train, score, print."""
    console = Console()
    refs = [ref for folder in options.val_pairs for ref in chosen_clips(folder, options.clips)]
    inputs = [score_clip(make_method("input"), ref) for ref in refs]
    found: dict[str, dict[str, float]] = {}
    for name in PARTS:
        weights, clips = trained(name, options)
        found[f"{name} ({clips} clips)"] = gains(str(weights), refs, inputs)
    for suffix in SAMPLERS:
        found[f"{options.weights}{suffix}"] = gains(options.weights + suffix, refs, inputs)
    table = Table(title=f"gain over the rendering, dB; choosers of {options.steps} steps")
    kinds = sorted({kind for row in found.values() for kind in row})
    for title in ("", *kinds):
        table.add_column(title, justify="left" if not title else "right")
    lines = [f"| | {' | '.join(kinds)} |", "|" + "---|" * (len(kinds) + 1)]
    for name, row in found.items():
        cells = [f"{row[kind]:+.2f}" for kind in kinds]
        table.add_row(name, *cells)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    console.print(table)
    write_atomic(options.output / "table.md", ("\n".join(lines) + "\n").encode())
    write_atomic(options.output / "ablations.json", json.dumps(found, indent=1).encode())


if __name__ == "__main__":
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    main(tyro.cli(Options))
