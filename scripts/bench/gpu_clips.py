"""Seconds and memory of whole repairs: the bundled weights and the official network with random weights."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.configurations import CONFIGURATIONS, Configuration, get_configuration
from diffusion.factory import make_modules, make_scheduler
from diffusion.loading import BUNDLED, bundled_names
from diffusion.memory.blueprint import Blueprint, read_blueprint
from diffusion.memory.memory_plan import MemoryPlan, Run, plan_memory
from diffusion.pipeline import RGBDVideoRepairPipeline

SHARE_OF_FREE = 0.9


@dataclass(frozen=True)
class Clips:
    """What to measure."""

    sizes: tuple[tuple[int, int], ...]
    frames: int
    repeats: int
    steps: int | None
    compiled: bool


def clip(frames: int, height: int, width: int) -> dict[str, Tensor]:
    """Arguments of a call of the pipeline: random frames with holes, and one photo."""
    random = torch.Generator().manual_seed(0)
    depth = 1 + torch.rand(frames, height, width, 1, generator=random)
    depth[torch.rand(depth.shape, generator=random) < 0.2] = 0
    rgb = torch.rand(frames, height, width, 3, generator=random)
    return {"rgb": rgb, "depth": depth, "references": torch.rand(height, width, 3, generator=random)}


def seconds_per_clip(pipe: RGBDVideoRepairPipeline, repeats: int, **kwargs: Any) -> dict[str, float]:
    """Median and extremes of `repeats` calls, and the first call (which may compile) by itself."""
    cuda = pipe._execution_device.type == "cuda"
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        pipe(**kwargs, generator=torch.Generator().manual_seed(0))
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    first, rest = times[0], times[1:]
    return {"first": first, "median": statistics.median(rest), "min": min(rest), "max": max(rest)}


def measure_clips(names: tuple[str, ...], clips: Clips, device: torch.device) -> list[dict[str, Any]]:
    """A row for each kind of weights and each size (width, height), eager and compiled. What does not fit is left out
    with its reason, and the rest goes on."""
    results = []
    for name in names or (*bundled_names(), "official"):
        for width, height in clips.sizes:
            row: dict[str, Any] = {"weights": name, "size": f"{width}x{height}"}
            try:
                results += [row | found for found in measured(name, clips, width, height, device)]
            except torch.cuda.OutOfMemoryError as error:
                results.append(row | {"left_out": str(error).splitlines()[0]})
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return results


def measured(name: str, clips: Clips, width: int, height: int, device: torch.device) -> list[dict[str, Any]]:
    """One pipeline, eager and then compiled, with the settings of the memory plan for what is free."""
    plan = planned(name, clips, width, height, device)
    pipe = placed(name, plan, device)
    arguments = clip(plan.run.frames, height, width)
    results = []
    for compiled in (False, True) if clips.compiled else (False,):
        if compiled:
            pipe.compile()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        calls = {"num_inference_steps": plan.run.steps, "vae_chunk": plan.vae_chunk}
        seconds = seconds_per_clip(pipe, clips.repeats, **calls, batch_guidance=plan.batch_guidance, **arguments)
        results.append(
            {
                "frames": plan.run.frames,
                "steps": plan.run.steps,
                "guidance": plan.run.guidance,
                "dtype": str(plan.run.dtype).removeprefix("torch."),
                "offload": plan.offload,
                "vae_chunk": plan.vae_chunk,
                "batch_guidance": plan.batch_guidance,
                "compiled": compiled,
                "seconds": seconds,
                "planned_bytes": plan.peak,
                "peak_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
            }
        )
    return results


def planned(name: str, clips: Clips, width: int, height: int, device: torch.device) -> MemoryPlan:
    """The plan for the memory that is free now; none is looked at on a CPU."""
    bundled = name in bundled_names()
    blueprint = read_blueprint(BUNDLED / name) if bundled else Blueprint.of(get_configuration(name))
    cuda = device.type == "cuda"
    dtype = torch.float32
    if cuda:  # float16 of random weights may overflow, and takes as long
        dtype = torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    settings = {"default_steps": 25, "default_guidance_scale": 3.2} | blueprint.settings
    run = Run(
        clips.frames,
        height,
        width,
        dtype=dtype,
        steps=clips.steps or settings["default_steps"],
        guidance=settings["default_guidance_scale"] != 1.0,
    )
    budget = int(SHARE_OF_FREE * torch.cuda.mem_get_info(device)[0]) if cuda else None
    return plan_memory(blueprint, run, budget, shorten=True)


def placed(name: str, plan: MemoryPlan, device: torch.device) -> RGBDVideoRepairPipeline:
    """The pipeline where it will run, or beside it where the plan moves modules off."""
    offload = plan.offload and device.type != "cpu"
    if name in bundled_names():
        pipe = RGBDVideoRepairPipeline.from_pretrained(name, torch_dtype=plan.run.dtype)
    else:
        pipe = with_random_weights(CONFIGURATIONS[name], plan.run.dtype, "cpu" if offload else device)
    pipe.set_progress_bar_config(disable=True)
    if offload:
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.to(device)
    return pipe


def with_random_weights(
    configuration: Configuration, dtype: torch.dtype, device: torch.device | str
) -> RGBDVideoRepairPipeline:
    """Made where it will be, since a CPU takes a minute for two billion random numbers."""
    torch.manual_seed(0)
    with torch.device(device):
        modules = make_modules(configuration)
    for module in modules.values():
        nn.Module.to(module.eval(), dtype=dtype)
    return RGBDVideoRepairPipeline(
        **modules,  # pyright: ignore[reportArgumentType]
        scheduler=make_scheduler(configuration),
        **configuration.settings,
    )
