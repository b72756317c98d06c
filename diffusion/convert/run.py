"""The conversion as a whole."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from diffusion.components import PATH
from diffusion.convert.card import SourceFile, model_card
from diffusion.convert.checkpoint import Checkpoint, sha256
from diffusion.convert.pieces import NetworkPlan
from diffusion.convert.plan import Hints, Plan, find_problems, make_plan
from diffusion.convert.schedule import plan_scheduler
from diffusion.convert.write import atomic_folder, write_network
from diffusion.errors import UserError

logger = logging.getLogger(__name__)

DTYPES = {"fp16": torch.float16, "fp32": torch.float32}


@dataclass
class Conversion:
    """What was converted."""

    out: Path
    plan: Plan
    sources: list[SourceFile]


def convert(
    checkpoint: Path,
    out: Path,
    dtype: str = "fp16",
    hints: Hints | None = None,
    vae: Path | None = None,
    allow_pickle: bool = False,
    overwrite: bool = False,
) -> Conversion:
    """Convert an official checkpoint to a pipeline folder.

    Args:
        checkpoint: GenFusion's or DynamiCrafter's file.
        out: the folder to write; it appears when all is done.
        dtype: "fp16" or "fp32".
        hints: what the tensors do not tell.
        vae: weights of an autoencoder that replaces the checkpoint's own (.safetensors or torch file).
        allow_pickle: see `Checkpoint`.
        overwrite: replace an existing folder.

    Raises:
        UserError: for a file that is no such checkpoint, complete and healthy. All missing, unexpected and
            misshapen names are then in `<out>.report.txt`.
    """
    hints = hints or Hints()
    with atomic_folder(out, overwrite) as folder:
        files = {"": Checkpoint(checkpoint, allow_pickle)}
        if vae is not None:
            files["vae"] = Checkpoint(vae, allow_pickle)
        vae_shapes = files["vae"].shapes if vae is not None else None
        main = files[""]
        plan = make_plan(main.shapes, hints, vae_shapes)
        problems = find_problems(plan, main.shapes, vae_shapes)
        if problems:
            report = out.with_name(out.name + ".report.txt")
            report.write_text(problems.report())
            raise UserError(f"{checkpoint} does not fit. {problems.summary()} All names: {report}.")
        plan_scheduler(main).save_pretrained(folder / "scheduler")
        weights = _write_networks(plan, files, folder, DTYPES[dtype])
        (folder / "model_index.json").write_text(json.dumps(_model_index(plan.networks), indent=2) + "\n")
        logger.info("computing SHA-256 of the checkpoint and of the written files")
        sources = [SourceFile(f.path, f.path.stat().st_size, sha256(f.path)) for f in files.values()]
        digests = {str(file.relative_to(folder)): sha256(file) for file in weights}
        card = model_card(sources, plan.networks, dtype, digests, plan.ignored)
        (folder / "README.md").write_text(card)
    return Conversion(out, plan, sources)


def _write_networks(plan: Plan, files: dict[str, Checkpoint], folder: Path, dtype: torch.dtype) -> list[Path]:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    weights = []
    with Progress(*columns, TimeRemainingColumn()) as progress:
        for network in plan.networks:
            total = sum(tensor.numel() for tensor in network.model.state_dict().values())
            task = progress.add_task(network.folder, total=total)
            weights += write_network(
                network,
                files.get(network.folder, files[""]),
                folder / network.folder,
                dtype,
                lambda count, task=task: progress.advance(task, count),
            )
    return weights


def _model_index(networks: list[NetworkPlan]) -> dict[str, object]:
    """diffusers' description of the pipeline: component -> [module, class]."""
    index: dict[str, object] = {
        "_class_name": "RGBDVideoRepairPipeline",
        "_diffusers_version": diffusers.__version__,
        "scheduler": [PATH, "RescaledDDIMScheduler"],
    }
    for network in networks:
        if network.folder == "text_encoder":
            continue  # The pipeline has no prompt.
        kind = type(network.model)
        library = kind.__module__.split(".")[0]
        index[network.folder] = [PATH if library == "diffusion" else library, kind.__name__]
    return index
