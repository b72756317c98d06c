"""One row of the benchmark in a process of its own, so that its peak memory is its own.

Called by benchmark.py: `benchmark_row.py SETTINGS.json RESULT.json`; prints Nerfstudio's log.
"""

from __future__ import annotations

import copy
import json
import os
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

Split = Literal["all", "3", "6", "9", "masked"]
Method = Literal["2dgs", "genfusion-identity", "splatfacto"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class Row:
    """What one row measures; equal rows on equal code give equal results on a CPU."""

    scene: str
    """Folder of the scene."""
    split: Split
    """All training views, that many of them, or a moving window of a quarter of each photo."""
    method: Method
    """Our model without loop, with a loop that repairs nothing, or Nerfstudio's splatfacto."""
    max_num_iterations: int | None
    """Training steps; None = the method's preset."""
    width: int | None
    """Longest side of the photos in training and evaluation; None = the preset's."""
    seed: int


def trainer_config(row: Row, output_dir: Path) -> Any:
    """Nerfstudio's trainer configuration of a row. All methods see the same photos, held-out views and first points:
    the datamanager is ours in each."""
    from nerfstudio.configs.method_configs import all_methods

    ours = copy.deepcopy(all_methods["genfusion"])
    name = "splatfacto" if row.method == "splatfacto" else "genfusion"
    config = cast(Any, copy.deepcopy(all_methods[name]))
    data = cast(Any, ours).pipeline.datamanager
    data.data = Path(row.scene)
    data.seed = config.machine.seed = row.seed
    if row.split == "masked":
        data.mask = "moving"
    elif row.split != "all":
        data.dataparser.sparse_views = int(row.split)
    data.loop.repairer = "identity"
    if row.method != "genfusion-identity":
        data.loop.every = 0
    if row.width is not None:
        data.max_image_side = row.width
    config.pipeline.datamanager = data
    config.max_num_iterations = row.max_num_iterations or config.max_num_iterations
    if name == "genfusion":
        config.pipeline.model.seed = row.seed
    config.output_dir, config.experiment_name, config.timestamp = output_dir, Path(row.scene).name, "run"
    config.vis = "tensorboard"
    config.steps_per_eval_image = config.steps_per_eval_batch = config.steps_per_eval_all_images = 0
    config.steps_per_save = config.max_num_iterations
    return config


def measure(row: Row, output_dir: Path) -> dict[str, Any]:
    """Train and evaluate a row; its settings, metrics and costs as plain JSON values."""
    import torch
    from held_out import held_out_metrics

    config = trainer_config(row, output_dir)
    config.set_timestamp()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    started = time.perf_counter()
    trainer.train()
    minutes = (time.perf_counter() - started) / 60
    pipeline = trainer.pipeline
    metrics = held_out_metrics(pipeline)
    gpu = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None
    return {
        **asdict(row),
        "max_num_iterations": config.max_num_iterations,
        **metrics,
        "minutes": minutes,
        "peak_memory_mib": _peak_rss_mib(),
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
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1))
    os.replace(partial, target)


if __name__ == "__main__":
    main()
