"""Does the loop earn its keep, and is a bad repairer harmless? Trains on the procedural scene with repairers of known
quality, and fails where a bar is missed: `python scripts/checks/loop.py`.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import tyro
from rich.console import Console

from genfusion_ns import quiet
from genfusion_ns.cameras import Camera, invert_rigid
from genfusion_ns.commands.make_scene import MakeScene
from genfusion_ns.commands.make_scene import run as make_scene
from genfusion_ns.errors import UserError, exits_cleanly
from genfusion_ns.raster.api import Render
from genfusion_ns.synthetic.demo import demo_scene
from genfusion_ns.synthetic.render import Studio

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "loop"))
from oracle import OracleRepairer  # pyright: ignore[reportMissingImports]

from genfusion_ns.benchmark.metrics import held_out_metrics

Truth = Callable[[Camera], Render]
OTHER = 7
"""Seed of the other scene, whose pictures are passed off as this one's."""
SHARPEST_FOG = 0.6
"""Least sharpness of held-out views, as a share of the photos'."""
SIZE, VIEWS = (96, 64), 3
"""Width and height of the photos, and how many train."""


@dataclass(frozen=True)
class Row:
    """A repairer, and how far from "no loop" it may or must be, in dB."""

    title: str
    least: float
    most: float = float("inf")
    lies: int = 0
    """Every so many-th clip shows the other scene; 0 = none."""
    built_in: str = ""
    """Name of the repairer; empty = the oracle."""

    def passes(self, gains: Sequence[float], sharp: Sequence[float]) -> bool:
        """Whether the differences to "no loop", one per seed, all lie within the bar, and no picture is fog."""
        return self.least <= min(gains) and max(gains) <= self.most and min(sharp) >= SHARPEST_FOG


ROWS: dict[str, Row] = {
    "identity": Row("identity", -0.2, 0.2, built_in="identity"),
    "classical": Row("classical", -0.2, built_in="classical"),
    "oracle": Row("the truth, noise 0.02", 3.0),
    "half": Row("the truth, half lies", -0.3, lies=2),
    "all": Row("all lies", -0.3, lies=1),
}


@dataclass
class CheckLoop:
    """Train with several repairers and without loop, compare held-out PSNR and sharpness; exit status 1 where a bar is
    missed."""

    rows: tuple[str, ...] = tuple(ROWS)
    """Which repairers: identity, classical, oracle, half, all."""
    seeds: tuple[int, ...] = (42, 7)
    """Each row is trained once per seed; each has to pass."""
    steps: int = 700
    """Training steps of each run."""


def pictures_of(seed: int, outputs: Any, upside_down: bool = False) -> Truth:
    """What a procedural scene shows at cameras of a Nerfstudio run; turned by half a turn and inverted on
    request, so that nothing of it can fit by chance (rooms are alike)."""
    studio, scale = Studio(demo_scene(seed)), float(outputs.dataparser_scale)
    to_run = torch.eye(4, dtype=torch.float64)
    to_run[:3] = outputs.dataparser_transform.double()

    def show(camera: Camera) -> Render:
        c2w = invert_rigid(camera.w2c.double().cpu())
        c2w[:3, 3] /= scale
        photo = studio.photo(replace(camera, w2c=invert_rigid(invert_rigid(to_run) @ c2w)), 3)
        rgb, depth = torch.from_numpy(photo.rgb).float() / 255.0, torch.from_numpy(photo.depth).float()[..., None]
        if upside_down:
            rgb, depth = 1.0 - rgb.flip(0, 1), depth.flip(0, 1)
        rgb, depth, none = rgb.to(camera.K), scale * depth.to(camera.K), torch.zeros(0)
        return Render(
            rgb, torch.ones_like(depth), depth, depth, torch.zeros_like(rgb), torch.zeros_like(depth), none, none
        )

    return show


def train(row: Row | None, seed: int, args: CheckLoop, scene: Path, folder: Path) -> tuple[float, float, list[str]]:
    """Held-out PSNR and sharpness after a training of the CPU preset, and what became of the rounds; None = without
    loop."""
    from genfusion_ns.plugin.config import cpu_config

    config: Any = cpu_config("genfusion")
    data = config.pipeline.datamanager
    data.data, data.seed, data.dataparser.sparse_views = scene, seed, VIEWS
    data.max_image_side = data.loop.max_side = max(SIZE)
    data.loop.start = 1000  # GenFusion's: what a perfect repairer adds grows with the time that it has
    config.machine.seed = config.pipeline.model.seed = seed
    if row is None:
        data.loop.every = 0
    elif row.built_in:
        data.loop.repairer = row.built_in
    config.max_num_iterations, config.steps_per_save, config.vis = args.steps, 10 * args.steps, "tensorboard"
    config.steps_per_eval_image = config.steps_per_eval_all_images = 0
    config.output_dir, config.experiment_name, config.timestamp = folder, "check", "run"
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        manager = trainer.pipeline.datamanager
        if row is not None and not row.built_in:
            outputs = manager.train_dataparser_outputs
            lies = pictures_of(OTHER, outputs, upside_down=True) if row.lies else None
            manager.loop.repairer = OracleRepairer(pictures_of(0, outputs), 0.02, lies, max(1, row.lies))
        trainer.train()
        found = held_out_metrics(trainer.pipeline)
    return found["psnr"], found["sharpness"], [report.outcome for report in manager.loop_state.reports]


@exits_cleanly
def run(args: CheckLoop) -> None:
    """Train all rows, print what they reach, exit with status 1 where a bar is missed.

    Raises:
        UserError: a row that there is not.
    """
    unknown = [name for name in args.rows if name not in ROWS]
    if unknown:
        raise UserError(f"there is no row '{unknown[0]}'; expected some of: {', '.join(ROWS)}.")
    console, began, missed = Console(highlight=False), time.perf_counter(), 0
    with tempfile.TemporaryDirectory() as temporary:
        scene, folder = Path(temporary) / "scene", Path(temporary) / "runs"
        make_scene(MakeScene(out=scene, size=SIZE))
        base: list[float] = []
        for row in (None, *(ROWS[name] for name in args.rows)):
            results = [train(row, seed, args, scene, folder) for seed in args.seeds]
            values, sharp, outcomes = (list(column) for column in zip(*results, strict=True))
            base = base or values
            gains = [value - other for value, other in zip(values, base, strict=True)]
            passed = row is None or row.passes(gains, sharp)
            missed += not passed
            told = [outcome for found in outcomes for outcome in found]
            counts = ", ".join(f"{told.count(name)} {name}" for name in dict.fromkeys(told))
            shown = [" ".join(f"{x:.2f}" for x in xs) for xs in (values, gains, sharp)]
            bar = "no loop" if row is None else f"{row.title} (gain of {row.least:+.1f} to {row.most:+.1f})"
            console.print(
                f"{'[green]ok[/]' if passed else '[red]missed[/]'} {bar}: {shown[0]} dB, gain {shown[1]}, mean "
                f"{fmean(gains):+.2f}; sharpness {shown[2]}; rounds: {counts or 'none'}; "
                f"{time.perf_counter() - began:.0f} s",
                soft_wrap=True,
            )
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    quiet.third_parties()
    run(tyro.cli(CheckLoop, description=CheckLoop.__doc__))
