"""Long runs with rounds to the end, and irregular geometry: does anything grow without bound, or get worse?

    python scripts/checks/long_run.py                # 20,000 steps on the demo's room: the curve
    python scripts/checks/long_run.py --irregular    # loop against no loop on clouds of balls and on fractals

Exits with status 1 if a bar is missed; the last lines say which.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil
import torch
import tyro
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from rich.console import Console

from genfusion_ns import quiet
from genfusion_ns.benchmark.metrics import held_out_views, photo_of
from genfusion_ns.commands.make_scene import MakeScene
from genfusion_ns.commands.make_scene import run as make_scene
from genfusion_ns.gaussians import losses
from genfusion_ns.plugin.config import cpu_config
from genfusion_ns.plugin.trainer import GenFusionTrainerConfig

MOST_DROP = 0.3
"""How far, in dB, held-out PSNR may lie below its best so far, or below the run without loop."""
MOST_SPLAT_GROWTH = 0.1
"""By which share the splats may still become more in the second half of a run."""
MOST_MEMORY_GROWTH = 64.0
"""By how many MiB the process may still grow in the second half of a run."""
MOST_SPLATS, MOST_FRAMES = 6000, 128
"""The densifier's bound, and the pool's."""
SIZE = (64, 40)
"""Width and height of the photos: all of 40 but every eighth, which is held out."""
ROUNDS = 20
"""How many rounds a run has, evenly from its first tenth to its last twentieth."""
CONSOLE = Console(width=120, file=sys.stdout, highlight=False)


@dataclass
class Check:
    """Train on small procedural scenes with rounds almost to the end; print what grows, and how good it is."""

    irregular: bool = False
    """Instead of the long run, compare the loop with no loop on the families points, menger and tree."""
    steps: int | None = None
    """Training steps; 20,000 for the long run, 400 for each irregular one."""
    repairer: str = "classical"
    """Who repairs the renders."""
    seed: int = 0
    """Of the scenes and the trainings."""


@dataclass(frozen=True)
class Row:
    """One point of the curve."""

    step: int
    gaussians: int
    pool: int
    rss: float
    """Resident memory in MiB."""
    psnr: float
    """On the held-out photos, in dB."""

    def __str__(self) -> str:
        return (
            f"step {self.step:,}: {self.psnr:.2f} dB, {self.gaussians:,} Gaussians, {self.pool} frames, "
            f"{self.rss:.0f} MiB"
        )


def row_of(pipeline: Any, step: int) -> Row:
    """What a run has become after `step` steps; training goes on as before."""
    training = pipeline.training
    psnr = fmean(
        float(losses.psnr(out["rgb"], photo_of(pipeline, out, batch))) for out, batch in held_out_views(pipeline)
    )
    pipeline.train(training)
    rss = psutil.Process().memory_info().rss / 2**20
    return Row(step, pipeline.model.num_points, len(pipeline.datamanager.loop_state.pool), rss, psnr)


def config_of(args: Check, scene: Path, steps: int, loop: bool) -> GenFusionTrainerConfig:
    """The CPU preset for a scene of that size, with rounds up to the last twentieth of the run."""
    config = cpu_config("genfusion-check")
    data, model = config.pipeline.datamanager, config.pipeline.model
    config.data = data.data = scene
    config.output_dir, config.experiment_name, config.timestamp = scene.parent, "runs", f"{scene.name}_{loop}"
    config.vis, config.logging.local_writer.enable = "tensorboard", False
    config.max_num_iterations, config.steps_per_save, config.steps_per_eval_image = steps, steps, 0
    config.machine.seed = data.seed = model.seed = args.seed
    data.max_seed_points, model.densifier.max_gaussians = MOST_SPLATS // 3, MOST_SPLATS
    reference = data.reference_iterations
    data.loop.repairer, data.loop.pool, data.loop.max_side = args.repairer, MOST_FRAMES, max(SIZE)
    data.loop.start, data.loop.until = reference // 10, reference - reference // 20
    data.loop.every = max(1, (data.loop.until - data.loop.start) // ROUNDS) if loop else 0
    data.loop.frames, data.loop.clip_length, data.loop.expand = 16, 8, 500
    return config


def train(config: GenFusionTrainerConfig, every: int) -> tuple[list[Row], Any]:
    """Train on a scene and measure every so many steps and at the end: the curve and the pipeline. Nerfstudio's own
    output goes nowhere."""
    rows, began = [], time.monotonic()

    def measure(step: int) -> None:
        if (step + 1) % every == 0 or step + 1 == config.max_num_iterations:
            rows.append(row_of(trainer.pipeline, step + 1))
            CONSOLE.print(f"{rows[-1]}, {time.monotonic() - began:.0f} s")

    with contextlib.redirect_stdout(io.StringIO()):
        trainer: Any = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        # First of all: the same step may split splats, which takes some steps to heal.
        trainer.callbacks.insert(0, TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], measure))
        trainer.train()
    return rows, trainer.pipeline


def all_finite(pipeline: Any) -> bool:
    """Whether no parameter, and no pixel of a held-out view, is NaN or infinite."""
    maps = [value for outputs, _ in held_out_views(pipeline) for value in outputs.values()]
    tensors = [*pipeline.model.gauss_params.values(), *(m for m in maps if isinstance(m, torch.Tensor))]
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def faults_of(rows: Sequence[Row]) -> list[str]:
    """Which bars of the long run are missed."""
    faults, last, best = [], rows[-1], rows[0].psnr
    middle = next(row for row in rows if row.step >= last.step / 2)
    for row in rows:
        best = max(best, row.psnr)
        if not best - row.psnr <= MOST_DROP:
            faults.append(f"step {row.step:,}: {best - row.psnr:.2f} dB below the best before it")
        if row.gaussians > MOST_SPLATS or row.pool > MOST_FRAMES:
            faults.append(f"step {row.step:,}: {row.gaussians:,} Gaussians, {row.pool} frames are beyond the bounds")
    if last.gaussians > (1.0 + MOST_SPLAT_GROWTH) * middle.gaussians:
        faults.append(f"Gaussians grew from {middle.gaussians:,} at half of the run to {last.gaussians:,}")
    if last.rss > middle.rss + MOST_MEMORY_GROWTH:
        faults.append(f"memory grew from {middle.rss:.0f} MiB at half of the run to {last.rss:.0f} MiB")
    return faults


def made_scene(args: Check, folder: Path, family: str) -> Path:
    """The folder of a scene."""
    make_scene(MakeScene(folder / family, size=SIZE, family=family, seed=args.seed))
    return folder / family


def long_run(args: Check, folder: Path) -> list[str]:
    """The long run on the demo's room; its faults."""
    steps = args.steps or 20_000
    rows, pipeline = train(config_of(args, made_scene(args, folder, "demo"), steps, loop=True), max(1, steps // 20))
    outcomes = [report.outcome for report in pipeline.datamanager.loop_state.reports]
    CONSOLE.print(", ".join(f"{outcomes.count(name)} {name}" for name in sorted(set(outcomes))) + " rounds")
    return faults_of(rows) + ([] if all_finite(pipeline) else ["NaN or infinity"])


def irregular_runs(args: Check, folder: Path) -> list[str]:
    """The loop against no loop on scenes without flat walls; their faults."""
    steps = args.steps or 400
    faults: list[str] = []
    for family in ("points", "menger", "tree"):
        scene = made_scene(args, folder, family)
        (without, plain), (with_loop, looped) = (
            train(config_of(args, scene, steps, loop), steps) for loop in (False, True)
        )
        gain = with_loop[-1].psnr - without[-1].psnr
        CONSOLE.print(f"{family}: the loop gains {gain:+.2f} dB")
        faults += [] if gain >= -MOST_DROP else [f"{family}: the loop costs {-gain:.2f} dB"]
        faults += [] if all_finite(plain) and all_finite(looped) else [f"{family}: NaN or infinity"]
    return faults


def main(args: Check) -> int:
    """Run what was asked for; the exit status."""
    quiet.third_parties()
    logging.getLogger("genfusion_ns").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        faults = (irregular_runs if args.irregular else long_run)(args, Path(folder))
    for fault in faults:
        CONSOLE.print(f"[red]missed:[/] {fault}")
    if not faults:
        CONSOLE.print("[green]all bars held[/]")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Check)))
