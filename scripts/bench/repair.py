"""Repairs of whole clips: milliseconds, peak memory, and what the memory plan expects.

    python scripts/bench/repair.py --json clips.json
    python scripts/bench/repair.py --weights official --sizes 512 320 960 512 --plan-only    # from shapes alone

Runs from a checkout (`PYTHONPATH=.` where the project is not installed), without Nerfstudio; it needs torch and `pip
install diffusers transformers accelerate safetensors tyro rich scipy`. Weights that are not bundled are random: time
and memory don't depend on them.
"""

from __future__ import annotations

import itertools
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure
import torch
import tyro
from torch import Tensor

from diffusion.configurations import get_configuration
from diffusion.errors import exits_cleanly
from diffusion.factory import make_scheduler
from diffusion.loading import BUNDLED, bundled_names
from diffusion.memory.blueprint import Blueprint, read_blueprint
from diffusion.memory.memory_plan import MemoryPlan, Run, plan_memory
from diffusion.pipeline import RGBDVideoRepairPipeline
from diffusion.random_weights import make_pipeline
from genfusion_ns import errors

SHARE_OF_FREE = 0.9
USUAL = {"cpu": (("lite",), ((320, 192),)), "cuda": ((*bundled_names(), "official"), ((512, 320), (960, 512)))}


@dataclass
class Args:
    """Measure the repair of clips."""

    weights: tuple[str, ...] = USUAL[measure.DEVICE][0]
    """Bundled weights by name, or a configuration with random weights."""
    sizes: tuple[tuple[int, int], ...] = USUAL[measure.DEVICE][1]
    """Widths and heights of the clips."""
    frames: int = 16
    """Frames of a clip; fewer where the memory plan says so, and then the row does too."""
    steps: int | None = None
    """Steps of the sampler; None = what the weights advise (official: 25)."""
    repeats: int = 3
    """Repairs that are timed, after one that is not."""
    plan_only: bool = False
    """Plan only, in bfloat16: nothing is loaded or run."""
    device: measure.Device = measure.DEVICE
    """Where to run."""
    json: Path | None = None
    """Write the figures to this file; - = standard output, and no table."""


def clip(frames: int, height: int, width: int) -> dict[str, Tensor]:
    """Arguments of a call of the pipeline: random frames with holes, and one photo."""
    random = torch.Generator().manual_seed(0)
    depth = 1 + torch.rand(frames, height, width, 1, generator=random)
    depth[torch.rand(depth.shape, generator=random) < 0.2] = 0
    rgb = torch.rand(frames, height, width, 3, generator=random)
    return {"rgb": rgb, "depth": depth, "references": torch.rand(height, width, 3, generator=random)}


def planned(name: str, size: tuple[int, int], args: Args, device: torch.device) -> MemoryPlan:
    """The plan for the memory that is free now; none is looked at on a CPU."""
    blueprint = read_blueprint(BUNDLED / name) if name in bundled_names() else Blueprint.of(get_configuration(name))
    budget, dtype = None, torch.bfloat16 if args.plan_only else torch.float32
    if device.type == "cuda":  # float16 of random weights may overflow, and takes as long
        dtype = torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
        budget = int(SHARE_OF_FREE * torch.cuda.mem_get_info(device)[0])
    settings = {"default_steps": 25, "default_guidance_scale": 3.2} | blueprint.settings
    steps, guidance = args.steps or settings["default_steps"], settings["default_guidance_scale"] != 1.0
    run = Run(args.frames, size[1], size[0], dtype=dtype, steps=steps, guidance=guidance)
    return plan_memory(blueprint, run, budget, shorten=True)


def placed(name: str, plan: MemoryPlan, device: torch.device) -> RGBDVideoRepairPipeline:
    """The pipeline where it will run, or beside it where the plan moves modules off."""
    offload = plan.offload and device.type != "cpu"
    if name in bundled_names():
        pipe = RGBDVideoRepairPipeline.from_pretrained(name, torch_dtype=plan.run.dtype)
    else:
        # made where it will be, since a CPU takes a minute for two billion random numbers
        with torch.device("cpu" if offload else device):
            pipe = make_pipeline(name, dtype=plan.run.dtype)
        pipe.register_modules(scheduler=make_scheduler(get_configuration(name)))  # its tables stay on the CPU
    pipe.set_progress_bar_config(disable=True)
    if offload:
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.to(device)
    return pipe


def measured(name: str, size: tuple[int, int], args: Args, device: torch.device) -> dict[str, Any]:
    """One pipeline with the settings of its plan."""
    plan = planned(name, size, args, device)
    row = {"frames": plan.run.frames, "steps": plan.run.steps, "dtype": str(plan.run.dtype).removeprefix("torch.")}
    row |= {"offload": plan.offload, "planned_bytes": plan.peak}
    if args.plan_only:
        return row
    pipe, arguments = placed(name, plan, device), clip(plan.run.frames, size[1], size[0])
    settings = {"vae_chunk": plan.vae_chunk, "batch_guidance": plan.batch_guidance}

    def repair() -> None:
        pipe(**arguments, **settings, num_inference_steps=plan.run.steps, generator=torch.Generator().manual_seed(0))

    return row | measure.timed(repair, args.repeats, device)


def measure_all(args: Args, device: torch.device) -> list[dict[str, Any]]:
    """Rows for each kind of weights and each size. What does not fit is left out with its reason, and the rest goes
    on."""
    rows = []
    for name, size in itertools.product(args.weights, args.sizes):
        row: dict[str, Any] = {"weights": name, "size": "{}x{}".format(*size)}
        try:
            rows.append(row | measured(name, size, args, device))
        except torch.cuda.OutOfMemoryError as error:
            rows.append(row | {"left_out": str(error).splitlines()[0]})
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return rows


@exits_cleanly
@errors.exits_cleanly
def main(args: Args) -> None:
    """Measure and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    device = measure.checked_device(args.device)
    measure.report(measure_all(args, device), device, "repairs of clips", args.json)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
