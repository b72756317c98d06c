"""The conversion as a whole."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import diffusers
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from diffusion.components import PATH
from diffusion.convert.card import model_card
from diffusion.convert.checkpoint import Checkpoint, sha256
from diffusion.convert.pieces import NetworkPlan
from diffusion.convert.plan import Hints, Plan, find_problems, make_plan
from diffusion.convert.schedule import plan_scheduler
from diffusion.convert.write import atomic_folder, write_network
from diffusion.errors import UserError

logger = logging.getLogger(__name__)

DTYPES = {"fp16": torch.float16, "fp32": torch.float32}


def convert(
    checkpoint: Path, out: Path, dtype: str = "fp16", hints: Hints | None = None, overwrite: bool = False
) -> tuple[Plan, str]:
    """Convert an official checkpoint to a pipeline folder.

    Args:
        checkpoint: GenFusion's or DynamiCrafter's file.
        out: the folder to write; it appears when all is done.
        dtype: "fp16" or "fp32".
        hints: what the tensors do not tell.
        overwrite: replace an existing folder.

    Returns:
        What became of every tensor, and the checkpoint's SHA-256.

    Raises:
        UserError: for a file that is no such checkpoint, complete and healthy. All missing, unexpected and
            misshapen names are then in `<out>.report.txt`.
    """
    with atomic_folder(out, overwrite) as folder:
        file = Checkpoint(checkpoint)
        plan = make_plan(file.shapes, hints or Hints())
        problems = find_problems(plan, file.shapes)
        if problems:
            report = out.with_name(out.name + ".report.txt")
            report.write_text(problems.report())
            raise UserError(f"{checkpoint} does not fit. {problems.summary()} All names: {report}.")
        plan_scheduler(file).save_pretrained(folder / "scheduler")
        _write_networks(plan, file, folder, DTYPES[dtype])
        (folder / "model_index.json").write_text(json.dumps(_model_index(plan.networks), indent=2) + "\n")
        logger.info("computing the checkpoint's SHA-256")
        digest = sha256(checkpoint)
        (folder / "README.md").write_text(model_card(checkpoint, digest, plan.networks, dtype, plan.ignored))
    return plan, digest


def _write_networks(plan: Plan, file: Checkpoint, folder: Path, dtype: torch.dtype) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeRemainingColumn()) as progress:
        for network in plan.networks:
            task = progress.add_task(network.folder, total=network.parameters)
            write_network(
                network, file, folder / network.folder, dtype, lambda count, task=task: progress.advance(task, count)
            )


def _model_index(networks: list[NetworkPlan]) -> dict[str, object]:
    """diffusers' description of the pipeline: component -> [module, class]."""
    index: dict[str, object] = {
        "_class_name": "RGBDVideoRepairPipeline",
        "_diffusers_version": diffusers.__version__,
        "scheduler": [PATH, "RescaledDDIMScheduler"],
    }
    for network in networks:
        kind = type(network.model)
        library = kind.__module__.split(".")[0]
        index[network.folder] = [PATH if library == "diffusion" else library, kind.__name__]
    return index
