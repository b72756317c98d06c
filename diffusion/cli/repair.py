"""The work behind `python -m diffusion repair`: plan, load, repair window by window, write."""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from diffusion.cli.options import Repair
from diffusion.cli.preview import shown_disparity, side_by_side, write_sheet, write_video
from diffusion.configurations import get_configuration
from diffusion.errors import UserError, first_line
from diffusion.inputs.clips import Array, Clip, read_clip, read_image, windows, write_repaired
from diffusion.inputs.preprocess import resize_depth, resize_rgb
from diffusion.loading import locate_weights
from diffusion.memory.blueprint import Blueprint, read_blueprint
from diffusion.memory.memory_plan import MemoryPlan, Run, parse_bytes, plan_memory
from diffusion.pipeline import RGBDVideoRepairPipeline
from diffusion.random_weights import make_pipeline

logger = logging.getLogger(__name__)


def repair_clip(args: Repair, console: Console) -> None:
    """Run the command. Raises UserError for anything that the user can mend."""
    _check(args)
    clip = _load_clip(args)
    device = _device(args.device)
    blueprint, folder = _blueprint(args)
    plan = _plan(args, clip, blueprint, device)
    console.print(str(plan) if args.plan_only or plan.fits is False else plan.summary, highlight=False, soft_wrap=True)
    if plan.fits is False:
        raise UserError(
            f"the smallest way to run this needs {plan.peak / 2**20:,.0f} MiB, and the budget is "
            f"{(plan.budget or 0) / 2**20:,.0f} MiB; take a smaller --size or --window, or --dtype bfloat16"
        )
    if plan.shortened:
        console.print(plan.shortened, style="yellow", highlight=False, soft_wrap=True)
    if args.plan_only:
        return
    pipe = _pipeline(args, folder, plan, device)
    if args.random_weights is not None:
        console.print("[bold yellow]RANDOM WEIGHTS: a smoke test. The output is noise, not a repair.[/]")
    started = time.perf_counter()
    rgb, disparity = _repair_windows(args, pipe, clip, plan, console)
    console.print(f"{len(rgb)} frames in {time.perf_counter() - started:.1f} s on {device}")
    _write(args, clip, rgb, disparity, console)


def _check(args: Repair) -> None:
    """Numbers that can't work, and a folder that can't be written to, before anything is read."""
    if args.window < 1:
        raise UserError(f"--window is {args.window}; expected at least 1 frame")
    if args.steps is not None and args.steps < 1:
        raise UserError(f"--steps is {args.steps}; expected at least 1, or leave it out for what the weights advise")
    if args.guidance_scale is not None and not 0 <= args.guidance_scale < float("inf"):
        raise UserError(f"--guidance-scale is {args.guidance_scale}; expected a number of at least 0")
    if args.size is not None and min(args.size) < 1:
        raise UserError(f"--size is {args.size}; expected height and width of at least 1")
    in_the_way = next((path for path in (args.out, *args.out.parents) if path.exists() and not path.is_dir()), None)
    if in_the_way is not None:
        raise UserError(f"can't write to {args.out}: {in_the_way} is a file; give another --out")


def _load_clip(args: Repair) -> Clip:
    clip = read_clip(args.clip)
    clip.references += [read_image(path) for path in args.reference]
    if not clip.references:
        raise UserError(
            f"{args.clip} has no reference photo; expected at least one in reference/ (or the array `reference`), "
            f"or give --reference PHOTO"
        )
    if args.size is not None:
        clip.rgb = _resized(clip.rgb, args.size, is_depth=False)
        clip.alpha = None if clip.alpha is None else _resized(clip.alpha, args.size, is_depth=False)
        clip.depth = None if clip.depth is None else _resized(clip.depth, args.size, is_depth=True)
    return clip


def _resized(frames: Array, size: tuple[int, int], is_depth: bool) -> Array:
    resize = resize_depth if is_depth else resize_rgb
    return resize(torch.from_numpy(frames)[None], *size)[0].numpy()


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"the device {name!r} can't be used here: {first_line(error)}; expected auto, cpu or cuda"
        ) from error
    return device


def _blueprint(args: Repair) -> tuple[Blueprint, str]:
    """The networks' shapes, and the folder of their weights ("" for random ones)."""
    if args.random_weights is not None:
        return Blueprint.of(get_configuration(args.random_weights)), ""
    folder = locate_weights(args.weights)
    return read_blueprint(folder), str(folder)


def _dtype(args: Repair, device: torch.device) -> torch.dtype:
    if args.dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return getattr(torch, args.dtype)


def _plan(args: Repair, clip: Clip, blueprint: Blueprint, device: torch.device) -> MemoryPlan:
    settings = {"default_steps": 25, "default_guidance_scale": 3.2} | blueprint.settings
    scale = settings["default_guidance_scale"] if args.guidance_scale is None else args.guidance_scale
    run = Run(
        frames=min(len(clip.rgb), args.window),
        height=clip.rgb.shape[1],
        width=clip.rgb.shape[2],
        dtype=_dtype(args, device),
        steps=settings["default_steps"] if args.steps is None else args.steps,
        guidance=scale != 1.0,
        references=len(clip.references),
    )
    budget = None if args.memory_budget is None else parse_bytes(args.memory_budget)
    if budget is None and device.type == "cuda":
        budget = torch.cuda.mem_get_info(device)[0]
    return plan_memory(blueprint, run, budget, shorten=True)


def _pipeline(args: Repair, folder: str, plan: MemoryPlan, device: torch.device) -> RGBDVideoRepairPipeline:
    if args.random_weights is not None:
        pipe = make_pipeline(args.random_weights, dtype=plan.run.dtype)
    else:
        pipe = RGBDVideoRepairPipeline.from_pretrained(folder, torch_dtype=plan.run.dtype)
    pipe.use_channels_last()
    if plan.offload and device.type != "cpu":
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.to(device)
    return pipe


def _repair_windows(
    args: Repair, pipe: RGBDVideoRepairPipeline, clip: Clip, plan: MemoryPlan, console: Console
) -> tuple[Array, Array | None]:
    """All frames: rgb [T, H, W, 3] and disparity [T, H, W, 1]. Every window draws the same noise."""
    length = plan.run.frames
    parts = windows(len(clip.rgb), length)
    rgb: list[Array] = []
    disparity: list[Array] = []
    columns = (TextColumn("repairing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("steps", total=plan.run.steps * len(parts))
        for index, (start, first_new) in enumerate(parts):

            def advance(pipe: Any, step: int, timestep: int, tensors: dict, done: int = index) -> None:
                progress.update(task, completed=done * plan.run.steps + step + 1)

            part = slice(start, start + length)
            output = pipe(
                rgb=clip.rgb[part],
                depth=None if clip.depth is None else clip.depth[part],
                alpha=None if clip.alpha is None else clip.alpha[part],
                references=clip.references,
                num_inference_steps=plan.run.steps,
                guidance_scale=args.guidance_scale,
                generator=torch.Generator().manual_seed(args.seed),
                vae_chunk=plan.vae_chunk,
                batch_guidance=plan.batch_guidance,
                output_type="np",
                callback_on_step_end=advance,
            )
            rgb.append(np.asarray(output.rgb, np.float32)[first_new - start :])
            if output.disparity is not None:
                disparity.append(np.asarray(output.disparity, np.float32)[first_new - start :])
    return np.concatenate(rgb), np.concatenate(disparity) if disparity else None


def _write(args: Repair, clip: Clip, rgb: Array, disparity: Array | None, console: Console) -> None:
    columns = {"rendering": clip.rgb.clip(0, 1), "repaired": rgb}
    if clip.depth is not None:
        columns["its depth"] = shown_disparity(clip.depth)
    if disparity is not None:
        columns["repaired depth"] = disparity
    frames = side_by_side(columns)
    try:
        write_repaired(args.out, rgb, disparity, clip.names)
        write_sheet(args.out / "side_by_side.png", frames)
        write_video(args.out / "side_by_side.mp4", frames)
    except OSError as error:
        raise UserError(f"can't write to {args.out}: {error}; give another --out or make room there") from error
    if clip.depth is None:
        console.print(
            "note: the clip has no depth; the networks were trained with it and change little without. Put one .npy or "
            "16-bit .png per frame into depth/, named like the frames.",
            soft_wrap=True,
        )
    console.print(
        f"wrote {args.out}: frames, side_by_side.mp4, side_by_side.png; from the left: {', '.join(columns)}",
        markup=False,
        soft_wrap=True,
    )
