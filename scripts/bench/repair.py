#!/usr/bin/env python
"""Seconds and memory of the repair model: small configurations on this CPU, the official one on paper.

    python scripts/bench/repair.py                      # lite configurations, 16 frames of 320x192, 4 steps
    python scripts/bench/repair.py --json -             # the same as one JSON object on standard output
    python scripts/bench/repair.py --configurations     # only the official size, on paper

gpu.py measures on a GPU. Weights are random; time and memory don't depend on them.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gpu_clips import clip, seconds_per_clip

from diffusion.configurations import CONFIGURATIONS, get_configuration
from diffusion.errors import exits_cleanly
from diffusion.memory.blueprint import Blueprint
from diffusion.memory.memory_plan import Run, plan_memory
from diffusion.random_weights import make_pipeline

MIB = 2**20
FULL_SIZES = ((320, 512), (512, 960))
# DynamiCrafter's README, 16 frames and 50 steps on an A100: the nearest published figures.
ANCHORS = ({"size": "512x320", "seconds": 20}, {"size": "1024x576", "seconds": 75})


@dataclass
class Bench:
    """Measure the repair model."""

    configurations: tuple[str, ...] = ("lite",)
    """Configurations to run on the CPU, each in a process of its own; none skips this part."""
    frames: int = 16
    """Frames of a clip, for all parts."""
    height: int = 192
    """Height of the frames of the CPU part, in pixels."""
    width: int = 320
    """Width of the frames of the CPU part, in pixels."""
    steps: int = 4
    """Steps of the CPU part."""
    threads: int = 2
    """Threads that torch may use on the CPU."""
    repeats: int = 3
    """Runs that are timed, after one that is not; the median is shown."""
    few_steps: int = 8
    """Steps of the few-step path on paper; DDIM takes 25."""
    json: str | None = None
    """File for the figures as JSON; `-` = standard output, and no tables."""
    worker: str | None = None
    """For internal use: measure this configuration in this process, and print JSON."""


def measure_on_cpu(args: Bench, name: str) -> dict[str, Any]:
    """One configuration, in this process. Memory is that of the whole process, torch included."""
    torch.set_num_threads(args.threads)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    pipe = make_pipeline(name)
    pipe.set_progress_bar_config(disable=True)
    pipe.use_channels_last()
    arguments = clip(args.frames, args.height, args.width)
    seconds = seconds_per_clip(pipe, args.repeats, num_inference_steps=args.steps, **arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    run = Run(args.frames, args.height, args.width, steps=args.steps, guidance=False)
    plan = plan_memory(Blueprint.of(get_configuration(name)), run)
    return {
        "configuration": name,
        "seconds": seconds,
        "peak_rss_bytes": peak,
        "rss_before_bytes": before,
        "planned_bytes": plan.peak,
        "flops": plan.flops,
        "weight_bytes_float16": sum(plan.weights.values()) // 2,
    }


def cpu_part(args: Bench) -> list[dict[str, Any]]:
    """Every configuration in a fresh process, so that the peak of memory is its own."""
    results = []
    # As the command line sets it: spinning threads cost tenfold on a CPU shared with other programs.
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ, "OMP_NUM_THREADS": str(args.threads)}
    for name in args.configurations:
        get_configuration(name)
        command = [sys.executable, __file__, "--worker", name]
        for key in ("frames", "height", "width", "steps", "threads", "repeats"):
            command += [f"--{key}", str(getattr(args, key))]
        done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, text=True, check=True)
        results.append(json.loads(done.stdout.splitlines()[-1]))
    return results


def full_size_plans(args: Bench) -> list[dict[str, Any]]:
    """The official configuration in bfloat16: bytes and arithmetic, from shapes alone."""
    out = []
    for height, width in FULL_SIZES:
        for steps in (25, args.few_steps):
            run = Run(args.frames, height, width, torch.bfloat16, steps)
            plan = plan_memory(Blueprint.of(CONFIGURATIONS["official"]), run)
            figures = asdict(plan)
            figures["run"]["dtype"] = "bfloat16"
            out.append(figures)
    return out


def show(args: Bench, report: dict[str, Any], console: Console) -> None:
    """The figures as tables."""
    if report["cpu"]:
        title = f"CPU, {args.threads} threads: {args.frames} frames of {args.width}x{args.height}, {args.steps} steps"
        table = Table(
            "configuration", "float16 MiB", "s/clip", "min-max", "peak RSS MiB", "of it before", "TFLOP", title=title
        )
        for r in report["cpu"]:
            s = r["seconds"]
            table.add_row(
                r["configuration"],
                f"{r['weight_bytes_float16'] / MIB:.1f}",
                f"{s['median']:.1f}",
                f"{s['min']:.1f}-{s['max']:.1f}",
                f"{r['peak_rss_bytes'] / MIB:.0f}",
                f"{r['rss_before_bytes'] / MIB:.0f}",
                f"{r['flops'] / 1e12:.2f}",
            )
        console.print(table)
    table = Table(
        "size", "steps", "weights GiB", "peak GiB", "PFLOP", title="official size in bfloat16, with guidance, on paper"
    )
    for p in report["full_size"]:
        run = p["run"]
        weights = sum(p["weights"].values())
        table.add_row(
            f"{run['width']}x{run['height']}x{run['frames']}",
            str(run["steps"]),
            f"{weights / 2**30:.2f}",
            f"{p['peak'] / 2**30:.2f}",
            f"{p['flops'] / 1e15:.3f}",
        )
    console.print(table)
    for anchor in ANCHORS:
        console.print(f"anchor: DynamiCrafter {anchor['size']}x16, 50 steps, A100: {anchor['seconds']} s (published)")


@exits_cleanly
def main() -> None:
    """Entry point."""
    args = tyro.cli(Bench, description=__doc__)
    if args.worker is not None:
        print(json.dumps(measure_on_cpu(args, args.worker)))
        return
    report = {
        "cpu": cpu_part(args),
        "full_size": full_size_plans(args),
        "anchors": list(ANCHORS),
    }
    if args.json == "-":
        print(json.dumps(report, indent=2))
        return
    show(args, report, Console())
    if args.json is not None:
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
