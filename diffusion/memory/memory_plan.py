"""How much memory a run will take, found from shapes alone before anything is loaded, and settings to fit a budget."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.errors import UserError
from diffusion.inputs.preprocess import letterbox
from diffusion.inputs.source_views import CHANNELS, PHOTOS
from diffusion.memory.blueprint import Blueprint
from diffusion.memory.tracing import Cost, trace
from diffusion.models.vae import spatial_factor

MIB = 2**20
CHUNKS = (8, 4, 2, 1)
# Convolution workspaces and the allocator's rounding, which shapes do not tell.
ALLOWANCE = 1.25
# Shorter clips are no longer worth the name of a video; frames then no longer agree with their neighbours.
LEAST_FRAMES = 4


@dataclass(frozen=True)
class Run:
    """What is to be done. `guidance`: whether both branches are computed. Sizes in pixels, before padding."""

    frames: int
    height: int
    width: int
    dtype: torch.dtype = torch.float32
    steps: int = 25
    guidance: bool = True
    references: int = 1
    batch: int = 1


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a run needs, and the settings of the pipeline's call that they hold for.

    `weights` by network; `activations` by phase (fuse, encode, references, denoise, decode), each the largest sum
    of tensors alive at once; `clip` is what stays throughout: frames and latents in float32. `peak` is on the device
    that computes, with an allowance of a quarter on activations, and `expected` without; `flops` of the whole run.
    `run` has the frames that are repaired at once, of the `asked` ones. `fits` is None without a budget.
    """

    name: str
    run: Run
    weights: dict[str, int]
    activations: dict[str, int]
    clip: int
    flops: int
    vae_chunk: int
    batch_guidance: bool
    offload: bool
    peak: int
    expected: int
    asked: int
    budget: int | None = None

    @property
    def shortened(self) -> str | None:
        """A line about a clip that is too long for the budget; None where it is not."""
        run = self.run
        if run.frames == self.asked:
            return None
        return (
            f"{self.name}: a clip of {self.asked} frames of {run.width}x{run.height} does not fit the memory budget, "
            f"so {run.frames} frames are repaired at a time; they agree less with each other. Smaller frames or more "
            "memory keep the clip whole."
        )

    @property
    def fits(self) -> bool | None:
        return None if self.budget is None else self.peak <= self.budget

    @property
    def title(self) -> str:
        """What is to be done, by which weights."""
        run = self.run
        title = f"{self.name}: {run.frames} frames of {run.width}x{run.height}, {str(run.dtype)[6:]}, "
        return title + f"{run.steps} steps, guidance {'on' if run.guidance else 'off'}"

    @property
    def summary(self) -> str:
        """The plan in a line."""
        offload = ", modules moved off between uses" if self.offload else ""
        budget = "" if self.budget is None else f" of {self.budget / MIB:,.0f}"
        lacking = "" if self.fits is not False else ", NOT enough"
        return f"{self.title}; peak {self.peak / MIB:,.0f}{budget} MiB{lacking}{offload}"

    def __str__(self) -> str:
        rows = [("weights", key, value) for key, value in self.weights.items()]
        rows += [("activations", key, value) for key, value in self.activations.items()]
        rows += [("frames and latents", "", self.clip), ("peak", "", self.peak)]
        lines = [self.title] + [f"  {kind:<20}{key:<14}{value / MIB:>12,.1f} MiB" for kind, key, value in rows]
        lines.append(f"  arithmetic          {self.flops / 1e12:>26,.2f} TFLOP")
        offload = "modules moved off between uses" if self.offload else "all modules stay on the device"
        branches = "one pass for both branches" if self.batch_guidance else "one branch after the other"
        lines.append(f"  settings: {self.vae_chunk} frames per VAE call, {branches}, {offload}")
        if self.budget is not None:
            verdict = "fits" if self.fits else "does NOT fit"
            lines.append(f"  {verdict} the budget of {self.budget / MIB:,.0f} MiB")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Costs:
    """Of one clip through the fusion network, of one frame through the VAE, of one reference, and of one branch of the
    UNet for one clip."""

    fuse: Cost
    encode: Cost
    decode: Cost
    reference: Cost
    denoise: Cost

    def of_part(self, frames: int, whole: int) -> _Costs:
        """For fewer frames of the clip; whatever sees it at once costs in proportion to its length."""

        def part(cost: Cost) -> Cost:
            return Cost(cost.flops * frames // whole, cost.peak_bytes * frames // whole)

        return replace(self, fuse=part(self.fuse), denoise=part(self.denoise))


def plan_memory(blueprint: Blueprint, run: Run, budget: int | None = None, shorten: bool = False) -> MemoryPlan:
    """Predict what a run needs, with the fastest settings that fit the budget.

    Without a budget: 4 frames per VAE call, both branches of guidance at once, nothing moved off. With one, smaller
    chunks are tried first, since they cost nothing, then separate branches, then moving modules off the device, and
    last, if the caller can cut a clip into parts, parts of a half, a third, ... of its frames.

    Args:
        blueprint: the networks; their weights are not looked at.
        run: what is to be done.
        budget: bytes on the device that computes.
        shorten: whether the plan may be for fewer frames than `run` has, but at least `LEAST_FRAMES`.

    Returns:
        The plan; if nothing fits, the smallest one, whose `fits` is False.

    Raises:
        UserError: for a run without frames or of size 0.
    """
    if min(run.frames, run.height, run.width, run.steps, run.references, run.batch) < 1:
        raise UserError(f"{run} has a number below 1; expected sizes and counts of at least 1")
    costs, padded = _trace(blueprint, run)
    weights = {name: _bytes(module, run.dtype) for name, module in blueprint.modules.items()}
    plans = []
    for frames in _lengths(run.frames) if shorten and budget is not None else [run.frames]:
        part = _Part(replace(run, frames=frames), costs.of_part(frames, run.frames), weights)
        clip = _clip_bytes(blueprint, replace(padded, frames=frames))
        for offload, batched, chunk in _choices(part.run, budget):
            plan = _plan(blueprint.name, part, clip, offload, batched, chunk, run.frames, budget)
            if plan.fits is not False:
                return plan
            plans.append(plan)
    return min(plans, key=lambda p: p.peak)


def _lengths(frames: int) -> list[int]:
    """The frames of a clip, of its half, its third, ..., rounded up."""
    least = min(LEAST_FRAMES, frames)
    return list(dict.fromkeys(n for parts in range(1, frames + 1) if (n := -(-frames // parts)) >= least))


def _choices(run: Run, budget: int | None) -> list[tuple[bool, bool, int]]:
    """Settings (offload, both branches at once, frames per VAE call), the fastest first."""
    if budget is None:
        return [(False, True, min(4, run.frames))]
    chunks = [c for c in CHUNKS if c <= run.frames]
    return list(itertools.product((False, True), (True, False) if run.guidance else (True,), chunks))


def parse_bytes(text: str) -> int:
    """'6GiB', '6 GB', '512MiB' or a plain number of bytes -> bytes. Raises UserError for anything else."""
    match = re.fullmatch(r"\s*([0-9.]+)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    try:
        number = float(match[1]) if match else 0.0
    except ValueError:
        number = 0.0
    if match is None or number <= 0:
        raise UserError(f"{text!r} is no amount of memory; expected something like 6GiB or 512MB")
    base = 1024 if match[3] else 1000
    return int(number * base ** " KMGT".index(match[2].upper() or " "))


@dataclass(frozen=True)
class _Part:
    """What is repaired at once, and what it costs."""

    run: Run
    costs: _Costs
    weights: dict[str, int]


def _plan(
    name: str, part: _Part, clip: int, offload: bool, batched: bool, chunk: int, asked: int, budget: int | None
) -> MemoryPlan:
    run, costs, weights = part.run, part.costs, part.weights
    branches = 2 if run.guidance else 1
    activations = {
        "fuse": costs.fuse.peak_bytes * run.batch,
        "encode": costs.encode.peak_bytes * chunk,
        "references": costs.reference.peak_bytes,
        "denoise": costs.denoise.peak_bytes * run.batch * (branches if batched else 1),
        "decode": costs.decode.peak_bytes * chunk,
    }
    users = {
        "fuse": ("fusion",),
        "encode": ("vae",),
        "references": ("image_encoder", "resampler", "vae"),
        "denoise": ("unet",),
    }
    users["decode"] = ("vae",)
    if "image_encoder" in weights:
        users["references"] = ("image_encoder", "resampler")
    peak = expected = 0
    for phase, needed in activations.items():
        present = sum(size for key, size in weights.items() if not offload or key in users[phase])
        peak = max(peak, present + clip + int(needed * ALLOWANCE))
        expected = max(expected, present + clip + needed)
    frames = run.frames * run.batch
    flops = frames * (costs.encode.flops + costs.decode.flops)
    flops += run.batch * (costs.fuse.flops + run.references * costs.reference.flops)
    flops += run.batch * run.steps * branches * costs.denoise.flops
    found = name, run, weights, activations, clip, flops, chunk, batched, offload
    return MemoryPlan(*found, peak, expected, asked, budget)


def _trace(blueprint: Blueprint, run: Run) -> tuple[_Costs, Run]:
    """Costs at the padded size, and the run at that size."""
    modules: dict[str, Any] = {key: nn.Module.to(m, dtype=run.dtype) for key, m in blueprint.modules.items()}
    size = (run.frames, run.height, run.width)
    if "unet" not in modules:
        none = Cost(0, 0)
        return _Costs(_trace_fusion(modules.get("fusion"), size), none, none, none, none), run
    unet, vae = modules["unet"], modules["vae"]
    factor = spatial_factor(vae)
    multiple = factor * 2 ** (len(unet.config["block_out_channels"]) - 1)
    box = letterbox(*size[1:], multiple)
    height, width = run.height + box.top + box.bottom, run.width + box.left + box.right
    latent = (height // factor, width // factor)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=run.dtype, device="meta")

    channels, latent_channels = vae.config["in_channels"], vae.config["latent_channels"]
    noisy = empty(1, unet.config["in_channels"], run.frames, *latent)
    tokens = modules["resampler"].config["num_queries"] * run.references
    context = empty(1, tokens, unet.config["cross_attention_dim"])
    moment = torch.empty((), dtype=torch.long, device="meta")
    with torch.device("meta"):
        costs = _Costs(
            fuse=_trace_fusion(modules.get("fusion"), size),
            encode=trace(lambda: vae.encode(empty(1, channels, height, width)).latent_dist.parameters),
            decode=trace(lambda: vae.decode(empty(1, latent_channels, *latent)).sample),
            reference=_trace_reference(blueprint, modules, empty),
            denoise=trace(lambda: unet(noisy, moment, context).sample),
        )
    return costs, replace(run, height=height, width=width)


def _trace_fusion(fusion: Any, size: tuple[int, int, int]) -> Cost:
    """A whole clip through the fusion network, with as many photos as it was trained with."""
    if fusion is None:
        return Cost(0, 0)
    frames, height, width = size
    height, width = (-(-side // fusion.multiple) * fusion.multiple for side in (height, width))
    channels = ((3,), (1,), (1,), (PHOTOS, CHANNELS))
    clip = [torch.empty(1, frames, *n, height, width, device="meta") for n in channels]
    with torch.device("meta"):
        return trace(lambda: fusion(*clip))


def _trace_reference(blueprint: Blueprint, modules: dict[str, Any], empty: Callable[..., Tensor]) -> Cost:
    """From one photo to context tokens; the two networks run one after the other."""
    resampler, encoder = modules["resampler"], modules.get("image_encoder")
    if encoder is not None:
        config = encoder.config
        pixels = empty(1, 3, config.image_size, config.image_size)
        first = trace(lambda: encoder(pixel_values=pixels).last_hidden_state)
        count = (config.image_size // config.patch_size) ** 2 + 1
    else:
        vae = modules["vae"]
        height, width = blueprint.settings.get("reference_size", (192, 320))
        first = trace(lambda: vae.encode(empty(1, vae.config["in_channels"], height, width)).latent_dist.parameters)
        cell = spatial_factor(vae) * blueprint.settings.get("token_patch", 2)
        count = (height // cell) * (width // cell)
    tokens = empty(1, count, resampler.config["embed_dims"])
    second = trace(lambda: resampler(tokens))
    return Cost(first.flops + second.flops, max(first.peak_bytes, second.peak_bytes))


def _bytes(module: nn.Module, dtype: torch.dtype) -> int:
    tensors = itertools.chain(module.parameters(), module.buffers())
    return sum(t.numel() * (dtype.itemsize if t.is_floating_point() else t.element_size()) for t in tensors)


def _clip_bytes(blueprint: Blueprint, padded: Run) -> int:
    """Given frames, padded frames, decoded frames and result, what photos show, and six sets of latents, in float32."""
    pixels = padded.batch * padded.frames * padded.height * padded.width
    total = 16 * pixels
    if "fusion" in blueprint.modules:
        total += 2 * PHOTOS * CHANNELS * pixels  # as given, and padded
    if "vae" in blueprint.modules:
        vae: Any = blueprint.modules["vae"]
        factor = spatial_factor(vae)
        total += 4 * (vae.config["in_channels"] - 4) * pixels + 6 * vae.config["latent_channels"] * pixels // factor**2
    return 4 * total
