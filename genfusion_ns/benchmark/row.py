"""One row of the benchmark in a process of its own, so that its peak memory is its own.

Called by `run`: `python -m genfusion_ns.benchmark.row SETTINGS.json RESULT.json`; shows Nerfstudio's log.
"""

from __future__ import annotations

import copy
import json
import resource
import sys
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, cast

from genfusion_ns.benchmark.methods import recipe_of
from genfusion_ns.data.points import PointsMode
from genfusion_ns.files import write_atomic

Split = Literal["all", "3", "6", "9", "masked", "masked-half", "masked-quarter"]
Recipes = Literal["ours", "paper"]


@dataclass(frozen=True)
class Row:
    """What one row measures; equal rows on equal code give equal results on a CPU."""

    scene: str
    """Folder of the scene, as `layouts.recognise` names it."""
    title: str
    """What to call the scene."""
    layout: str
    """Which benchmark's folder it is."""
    split: Split
    """All training views, that many of them, or a moving window of a quarter of each photo."""
    method: str
    """See `methods`."""
    max_num_iterations: int | None
    """Training steps; None = the recipe's."""
    width: int | None
    """Longest side of the photos in training and evaluation; None = the recipe's."""
    seed: int
    recipes: Recipes = "ours"
    """Our settings, or the paper's: its sparse one, its masked one where photos are masked."""
    initial_points: PointsMode = "depth"
    """Where the first splats lie; 'official' and 'all' leak geometry from the held-out photos."""
    downscale_factor: int | None = None
    """Which reduced photos are read."""
    train_every: int = 0
    """Every so many-th photo trains and all others are held out; 0 = every eighth is held out."""
    split_folder: str | None = None
    """Where train_test_split_{n}.json lies, if not in the scene."""
    weights_hash: str = ""
    """Content of the video model's weights, so that others of the same name are measured anew."""

    @property
    def masked(self) -> bool:
        """Whether only a window of each training photo is seen."""
        return self.split.startswith("masked")

    @property
    def leaks(self) -> bool:
        """Whether the first points know more than the training photos tell."""
        return self.initial_points in ("official", "all")


def trainer_config(row: Row, output_dir: Path) -> Any:
    """Nerfstudio's trainer configuration of a row. All methods see the same photos, held-out views and first points:
    the datamanager is ours in each."""
    from genfusion_ns.plugin import config as methods

    ours = copy.deepcopy(cast(Any, _base(row, methods)))
    recipe = recipe_of(row.method)
    data = ours.pipeline.datamanager
    _choose_views(data, row)
    data.seed = ours.machine.seed = ours.pipeline.model.seed = row.seed
    data.initial_points = row.initial_points
    if recipe.repairer is None:
        data.loop.every = 0
    else:
        data.loop.repairer = recipe.repairer
        data.loop.diffusion.weights = recipe.weights
        if not recipe.expand:
            data.loop.expand = 0
        data.loop.every = recipe.every or data.loop.every
    if not recipe.sparsity_aware:
        ours.pipeline.model.densifier = gradient_densifier(ours.pipeline.model.densifier)
    config = _splatfacto(ours) if recipe.model == "splatfacto" else ours
    config.max_num_iterations = row.max_num_iterations or config.max_num_iterations
    config.output_dir, config.experiment_name, config.timestamp = output_dir, row.title, "run"
    config.vis = "tensorboard"
    config.steps_per_eval_image = config.steps_per_eval_batch = config.steps_per_eval_all_images = 0
    config.steps_per_save = config.max_num_iterations
    return config


def _base(row: Row, methods: Any) -> Any:
    if row.recipes == "ours":
        return methods.genfusion.config
    return (methods.genfusion_masked if row.masked else methods.genfusion_sparse).config


def _choose_views(data: Any, row: Row) -> None:
    """What is seen of which photos."""
    data.data, parser = Path(row.scene), data.dataparser
    data.mask = "moving" if row.masked else "none"
    parser.downscale_factor, parser.train_every = row.downscale_factor, row.train_every
    if row.split in ("3", "6", "9"):
        parser.sparse_views = int(row.split)
        parser.splits = None if row.split_folder is None else Path(row.split_folder)
    if row.masked and row.recipes == "ours":
        # Three quarters of each photo are missing where it was taken; new places come second.
        data.loop.trajectories = ("captured", "interpolate")
    if row.width is not None:
        data.max_image_side = row.width


def _splatfacto(ours: Any) -> Any:
    from nerfstudio.configs.method_configs import method_configs

    config = cast(Any, copy.deepcopy(method_configs["splatfacto"]))
    config.machine.seed, config.pipeline.datamanager = ours.machine.seed, ours.pipeline.datamanager
    return config


def gradient_densifier(densifier: Any) -> Any:
    """3DGS's densifier with the thresholds and steps of a sparsity-aware one."""
    from genfusion_ns.gaussians.densify import GradientDensifier

    return replace(GradientDensifier(), **{f.name: getattr(densifier, f.name) for f in fields(GradientDensifier)})


def measure(row: Row, output_dir: Path) -> dict[str, Any]:
    """Train and evaluate a row; its settings, metrics and costs as plain JSON values. Two pictures of its middle
    held-out view go into `output_dir`."""
    import torch

    from genfusion_ns.benchmark.metrics import Perceptual, held_out_metrics, save_pictures

    config = trainer_config(row, output_dir)
    config.set_timestamp()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    started = time.perf_counter()
    trainer.train()
    minutes = (time.perf_counter() - started) / 60
    pipeline = trainer.pipeline
    # Before evaluation, which brings networks of its own along.
    gpu = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None
    memory = _peak_rss_mib()
    metrics = held_out_metrics(pipeline, Perceptual())
    save_pictures(pipeline, output_dir)
    return {
        **asdict(row),
        "weights": recipe_of(row.method).weights,
        "max_num_iterations": config.max_num_iterations,
        **metrics,
        "train_views": len(pipeline.datamanager.train_dataset),
        "minutes": minutes,
        "peak_memory_mib": memory,
        "peak_gpu_memory_mib": gpu,
        "gaussians": pipeline.model.num_points,
        "device": torch.cuda.get_device_name() if gpu is not None else f"CPU, {torch.get_num_threads()} threads",
    }


def _peak_rss_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # macOS counts bytes


def main() -> None:
    """Measure the row in argv[1] and write it to argv[2] at once or not at all."""
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    result = measure(Row(**json.loads(source.read_text())), target.parent / "runs" / target.stem)
    write_atomic(target, json.dumps(result, indent=1).encode())


if __name__ == "__main__":
    main()
