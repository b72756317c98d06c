"""Long runs with rounds to the end, and irregular geometry: does anything grow without bound, or get worse?

    python scripts/checks/long_run.py                # 20,000 steps on the demo's room: the curve
    python scripts/checks/long_run.py --irregular    # loop against no loop on clouds of balls and on fractals

Exits with status 1 if a bar is missed; the last lines say which.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import psutil
import torch
import tyro
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from rich.console import Console
from rich.table import Table

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
IRREGULAR = ("points", "menger", "tree")
CONSOLE = Console(width=120, file=sys.stdout)


@dataclass
class Check:
    """Train on a small procedural scene with rounds almost to the end; print what grows, and how good it is."""

    scene: Literal["demo", "points", "menger", "tree", "rooms", "tables", "facades", "clutter", "terrains"] = "demo"
    """Family of the scene, as genfusion-scene names it."""
    irregular: bool = False
    """Instead of the long run, compare the loop with no loop on points, menger and tree."""
    steps: int | None = None
    """Training steps; 20,000 for the long run, 400 for each irregular one."""
    every: int | None = None
    """Steps between two measurements; a twentieth of the run."""
    size: tuple[int, int] = (64, 40)
    """Width and height of the photos."""
    views: Literal["all", "3", "6", "9"] = "all"
    """Training photos, out of 40 with every eighth held out."""
    rounds: int = 20
    """How many rounds a run has, evenly from its first tenth to its last twentieth."""
    repairer: str = "classical"
    """Who repairs the renders."""
    max_gaussians: int = 6000
    """The densifier's bound."""
    pool: int = 128
    """Bound of the pool of generated views."""
    seeds: tuple[int, ...] = (0,)
    """Scenes of a family, and the trainings' seeds."""
    json: Path | None = None
    """Write the figures to this file too."""


@dataclass(frozen=True)
class Row:
    """One point of the curve."""

    step: int
    gaussians: int
    pool: int
    rounds: int
    rss: float
    """Resident memory in MiB."""
    psnr: float
    """On the held-out photos, in dB."""
    seconds: float
    """Since the start of the training."""


@dataclass
class Curve:
    """What became of a run; called after each measured step."""

    every: int
    total: int
    show: Callable[[Row], None] = lambda row: None
    rows: list[Row] = field(default_factory=list)
    resets: tuple[int, int] = (0, 0)
    """Steps between opacity resets, and step from which there are none."""
    began: float = field(default_factory=time.monotonic)

    def watch(self, trainer: Any) -> None:
        """Measure `trainer` while it trains."""
        densifier = trainer.pipeline.model.densifier
        self.resets = densifier.reset_every, densifier.stop
        after_step = [TrainingCallbackLocation.AFTER_TRAIN_ITERATION]
        # First of all: the same step may split splats and pull opacities down, which takes some steps to heal.
        trainer.callbacks.insert(0, TrainingCallback(after_step, self.measure, args=[trainer.pipeline]))

    def measure(self, pipeline: Any, step: int) -> None:
        """Add a row where one is due."""
        k = step + 1
        if k % self.every and k != self.total:
            return
        state = pipeline.datamanager.loop_state
        row = Row(
            step=k,
            gaussians=pipeline.model.num_points,
            pool=len(state.pool),
            rounds=len(state.reports),
            rss=psutil.Process().memory_info().rss / 2**20,
            psnr=held_out_psnr(pipeline),
            seconds=time.monotonic() - self.began,
        )
        self.rows.append(row)
        self.show(row)

    def recovering(self, step: int) -> bool:
        """Whether opacities were pulled down so shortly before `step` that renders cannot have recovered."""
        every, stop = self.resets
        last = step // every * every if every else 0
        return 0 < last < stop and step - last < self.every // 2

    def drops(self) -> list[float]:
        """How far each row lies below the best so far, in dB; right after an opacity reset nothing is counted."""
        best, found = -math.inf, []
        for row in self.rows:
            best = max(best, row.psnr)
            found.append(0.0 if self.recovering(row.step) else best - row.psnr)
        return found


def held_out_psnr(pipeline: Any) -> float:
    """Mean over the evaluation photos, in dB; training goes on as before."""
    training = pipeline.training
    found = [
        float(losses.psnr(outputs["rgb"], photo_of(pipeline, outputs, batch)))
        for outputs, batch in held_out_views(pipeline)
    ]
    pipeline.train(training)
    return fmean(found)


def config_of(args: Check, scene: Path, seed: int, steps: int, loop: bool) -> GenFusionTrainerConfig:
    """The CPU preset for a scene of that size, with rounds up to the last twentieth of the run."""
    config = cpu_config("genfusion-check")
    data, model = config.pipeline.datamanager, config.pipeline.model
    config.data = data.data = scene
    config.output_dir, config.experiment_name, config.timestamp = scene.parent, "runs", f"{scene.name}_{seed}_{loop}"
    config.vis, config.logging.local_writer.enable = "tensorboard", False
    config.max_num_iterations, config.steps_per_save, config.steps_per_eval_image = steps, steps, 0
    config.machine.seed = data.seed = model.seed = seed
    data.dataparser.sparse_views = 0 if args.views == "all" else int(args.views)  # type: ignore[attr-defined]
    data.max_seed_points, model.densifier.max_gaussians = args.max_gaussians // 3, args.max_gaussians
    reference = data.reference_iterations
    data.loop.repairer, data.loop.pool, data.loop.max_side = args.repairer, args.pool, max(args.size)
    data.loop.start, data.loop.until = reference // 10, reference - reference // 20
    data.loop.every = max(1, (data.loop.until - data.loop.start) // args.rounds) if loop else 0
    data.loop.frames, data.loop.clip_length, data.loop.expand = 16, 8, 500
    return config


def train(config: GenFusionTrainerConfig, every: int, show: Callable[[Row], None]) -> tuple[Curve, Any]:
    """Train and measure; Nerfstudio's own output goes nowhere."""
    with contextlib.redirect_stdout(io.StringIO()):
        trainer: Any = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        curve = Curve(every, config.max_num_iterations, show)
        curve.watch(trainer)
        trainer.train()
    return curve, trainer.pipeline


def all_finite(pipeline: Any) -> bool:
    """Whether no parameter, and no pixel of a held-out view, is NaN or infinite."""
    maps = [value for outputs, _ in held_out_views(pipeline) for value in outputs.values()]
    tensors = [*pipeline.model.gauss_params.values(), *(m for m in maps if isinstance(m, torch.Tensor))]
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def faults_of(curve: Curve, args: Check) -> list[str]:
    """Which bars of the long run are missed."""
    rows, faults = curve.rows, []
    middle = next(row for row in rows if row.step >= curve.total / 2)
    last = rows[-1]
    for row, drop in zip(rows, curve.drops(), strict=True):
        if not drop <= MOST_DROP:
            faults.append(f"step {row.step:,}: {drop:.2f} dB below the best before it")
        if row.gaussians > args.max_gaussians or row.pool > args.pool:
            faults.append(f"step {row.step:,}: {row.gaussians:,} Gaussians, {row.pool} frames are beyond the bounds")
    if last.gaussians > (1.0 + MOST_SPLAT_GROWTH) * middle.gaussians:
        faults.append(f"Gaussians grew from {middle.gaussians:,} at half of the run to {last.gaussians:,}")
    if last.rss > middle.rss + MOST_MEMORY_GROWTH:
        faults.append(f"memory grew from {middle.rss:.0f} MiB at half of the run to {last.rss:.0f} MiB")
    return faults


def long_run(args: Check, folder: Path) -> tuple[list[str], Any]:
    """The long run on one scene; its faults and figures."""
    steps = args.steps or 20_000
    faults, figures = [], {}
    for seed in args.seeds:
        scene = folder / f"{args.scene}_{seed}"
        make_scene(MakeScene(scene, size=args.size, family=args.scene, seed=seed))
        config = config_of(args, scene, seed, steps, loop=True)
        curve, pipeline = train(config, args.every or max(1, steps // 20), show_row)
        CONSOLE.print(curve_table(curve, f"{args.scene}, seed {seed}, {args.views} views, {args.repairer}"))
        outcomes = [report.outcome for report in pipeline.datamanager.loop_state.reports]
        CONSOLE.print(", ".join(f"{outcomes.count(name)} {name}" for name in sorted(set(outcomes))) + " rounds")
        faults += [f"{scene.name}: {fault}" for fault in faults_of(curve, args)]
        faults += [] if all_finite(pipeline) else [f"{scene.name}: NaN or infinity"]
        figures[scene.name] = [asdict(row) for row in curve.rows]
    return faults, figures


def irregular_runs(args: Check, folder: Path) -> tuple[list[str], Any]:
    """The loop against no loop on scenes without flat walls; faults and figures."""
    steps = args.steps or 400
    table = Table(title=f"held-out PSNR after {steps:,} steps, {args.views} views, {args.repairer}")
    for name in ("scene", "seed", "no loop", "loop", "difference", "Gaussians", "rounds", "finite"):
        table.add_column(name, justify="left" if name == "scene" else "right")
    faults: list[str] = []
    figures: list[dict[str, Any]] = []
    for family in IRREGULAR:
        for seed in args.seeds:
            scene = folder / f"{family}_{seed}"
            make_scene(MakeScene(scene, size=args.size, family=family, seed=seed))
            runs = [train(config_of(args, scene, seed, steps, loop), steps, lambda _: None) for loop in (False, True)]
            (without, plain), (with_loop, looped) = runs
            a, b = without.rows[-1], with_loop.rows[-1]
            finite = all_finite(plain) and all_finite(looped)
            counts = f"{a.gaussians:,} / {b.gaussians:,}", str(b.rounds), "yes" if finite else "NO"
            table.add_row(family, str(seed), f"{a.psnr:.2f}", f"{b.psnr:.2f}", f"{b.psnr - a.psnr:+.2f}", *counts)
            CONSOLE.print(f"{family} {seed}: no loop {a.psnr:.2f} dB, loop {b.psnr:.2f} dB")
            figures.append({"scene": family, "seed": seed, "no loop": asdict(a), "loop": asdict(b), "finite": finite})
            if not b.psnr >= a.psnr - MOST_DROP:
                faults.append(f"{family} {seed}: the loop costs {a.psnr - b.psnr:.2f} dB")
            if not finite:
                faults.append(f"{family} {seed}: NaN or infinity")
    CONSOLE.print(table)
    return faults, figures


def show_row(row: Row) -> None:
    """One line while the run goes on."""
    CONSOLE.print(
        f"step {row.step:,}: {row.psnr:.2f} dB, {row.gaussians:,} Gaussians, {row.pool} frames, {row.rss:.0f} MiB, "
        f"{row.seconds:.0f} s",
        highlight=False,
    )


def curve_table(curve: Curve, title: str) -> Table:
    """The curve."""
    table = Table(title=title, caption="* shortly after an opacity reset, not counted")
    for name in ("step", "PSNR (dB)", "below best", "Gaussians", "pool frames", "rounds", "RSS (MiB)", "seconds"):
        table.add_column(name, justify="right")
    for row, drop in zip(curve.rows, curve.drops(), strict=True):
        below = "*" if curve.recovering(row.step) else f"{drop:.2f}"
        counts = f"{row.gaussians:,}", str(row.pool), str(row.rounds), f"{row.rss:.0f}", f"{row.seconds:.0f}"
        table.add_row(f"{row.step:,}", f"{row.psnr:.2f}", below, *counts)
    return table


def print_faults(faults: Sequence[str]) -> None:
    """The verdict."""
    if not faults:
        CONSOLE.print("[green]all bars held[/]")
    for fault in faults:
        CONSOLE.print(f"[red]missed:[/] {fault}", highlight=False)


def main(args: Check) -> int:
    """Run what was asked for; the exit status."""
    quiet.third_parties()
    logging.getLogger("genfusion_ns").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        faults, figures = (irregular_runs if args.irregular else long_run)(args, Path(folder))
    if args.json is not None:
        args.json.write_text(json.dumps({"faults": faults, "figures": figures}, indent=1))
    print_faults(faults)
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Check)))
