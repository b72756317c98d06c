#!/usr/bin/env python
"""What this machine's GPU does, as JSON: training steps beside gsplat's own, and repairs of clips.

    python scripts/bench/gpu.py --json gpu.json

runs from a checkout; the project need not be installed, nor Nerfstudio. It needs torch for CUDA and

    pip install gsplat==1.4.0 ninja torchmetrics scipy "numpy<2" diffusers transformers accelerate safetensors tyro rich

gsplat compiles its kernels at the first step (minutes), for which it needs a CUDA toolkit of torch's major version.
Weights of the official network are random; time and memory don't depend on them. `--device cpu` tries the script
itself, with numba instead of gsplat.
"""

from __future__ import annotations

import json
import logging
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gpu_clips import Clips, measure_clips
from gpu_steps import measure_steps

from diffusion.errors import UserError as DiffusionError
from genfusion_ns import gpu
from genfusion_ns.errors import UserError, exits_cleanly

PACKAGES = ("torch", "gsplat", "diffusers", "transformers", "accelerate", "numpy")


@dataclass
class BenchGpu:
    """Measure this machine's GPU."""

    gaussians: tuple[int, ...] = (100_000, 300_000, 1_000_000)
    """Numbers of splats, one after the other; none leaves the training steps out."""
    photo: tuple[int, int] = (960, 540)
    """Width and height of the photos that are trained on."""
    steps: int = 20
    """Steps of a block; a step's time is its share of the block."""
    blocks: int = 10
    """Blocks that are timed, after one that is not."""
    weights: tuple[str, ...] = ()
    """Repair models: bundled weights by name, or a configuration with random weights; none = all bundled ones and
    `official`."""
    clips: tuple[tuple[int, int], ...] = ((512, 320), (960, 512))
    """Widths and heights of the clips; none leaves the repairs out."""
    frames: int = 16
    """Frames of a clip; fewer where the memory plan says so, and then the row does too."""
    sampler_steps: int | None = None
    """Steps of the sampler; None = what the weights advise (official: 25)."""
    repeats: int = 3
    """Repairs that are timed, after one that is not."""
    compile: bool = True
    """Whether to measure the repairs compiled too (minutes more)."""
    device: Literal["cuda", "cpu"] = "cuda"
    """Where to run; cpu only tries the script."""
    json: Path | None = None
    """Write the figures to this file; - = standard output, and no tables."""


def check_device(args: BenchGpu) -> torch.device:
    """Raises UserError without a GPU that torch can use."""
    if args.device == "cuda" and not torch.cuda.is_available():
        found = gpu.unused_gpu(torch.__version__, torch.version.cuda)
        raise UserError(
            "scripts/bench/gpu.py measures an NVIDIA GPU (--device cpu with small numbers only tries the script): "
            + (found or f"torch {torch.__version__} sees none here.")
        )
    return torch.device(args.device)


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures belong to."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    found: dict[str, Any] = {"device": str(device), "python": platform.python_version(), "packages": packages}
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        found |= {
            "gpu": torch.cuda.get_device_name(device),
            "capability": list(torch.cuda.get_device_capability(device)),
            "cuda": torch.version.cuda,
            "driver": gpu.driver_version(gpu.run_nvidia_smi()),
            "free_bytes": free,
            "total_bytes": total,
        }
    return found


def show(report: dict[str, Any], console: Console) -> None:
    """The figures as two tables."""
    table = Table("trainer", "splats", "size", "ms/step", "min-max", "peak GiB", title="training steps")
    for row in report["steps"]:
        times = [f"{row['median_ms']:.2f}", f"{row['min_ms']:.2f}-{row['max_ms']:.2f}"] if "median_ms" in row else []
        cells = [*times, gibibytes(row.get("peak_bytes"))] if times else [row["left_out"]]
        table.add_row(row["trainer"], f"{row['splats']:,}", row["size"], *cells)
    console.print(table)
    table = Table("weights", "size", "frames", "steps", "compiled", "s/clip", "first", "peak GiB", "planned", "offload")
    table.title = "repairs"
    for row in report["clips"]:
        if "left_out" in row:
            table.add_row(row["weights"], row["size"], row["left_out"])
            continue
        seconds = row["seconds"]
        table.add_row(
            row["weights"],
            row["size"],
            str(row["frames"]),
            str(row["steps"]),
            "yes" if row["compiled"] else "no",
            f"{seconds['median']:.2f}",
            f"{seconds['first']:.1f}",
            gibibytes(row["peak_bytes"]),
            gibibytes(row["planned_bytes"]),
            "yes" if row["offload"] else "no",
        )
    console.print(table)


def gibibytes(size: int | None) -> str:
    """'' where it was not measured."""
    return "" if size is None else f"{size / 2**30:.2f}"


@exits_cleanly
def main() -> None:
    """Entry point."""
    args = tyro.cli(BenchGpu, description=__doc__)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    device = check_device(args)
    clips = Clips(args.clips, args.frames, args.repeats, args.sampler_steps, args.compile)
    try:
        report = {
            "machine": machine(device),
            "steps": measure_steps(args.gaussians, args.photo, args.steps, args.blocks, device),
            "clips": measure_clips(args.weights, clips, device) if args.clips else [],
        }
    except DiffusionError as error:
        raise UserError(str(error)) from error
    text = json.dumps(report, indent=2)
    if str(args.json) == "-":
        print(text)
        return
    if args.json is not None:
        args.json.write_text(text + "\n")
    show(report, Console())


if __name__ == "__main__":
    main()
