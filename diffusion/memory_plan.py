"""How much memory a run will take, found from shapes alone before anything is loaded, and settings to fit a budget."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.blueprint import Blueprint
from diffusion.errors import UserError
from diffusion.models.vae import spatial_factor
from diffusion.preprocess import letterbox
from diffusion.source_views import CHANNELS
from diffusion.tracing import Cost, trace

MIB = 2**20
CHUNKS = (8, 4, 2, 1)
# Convolution workspaces and the allocator's rounding, which shapes do not tell.
ALLOWANCE = 1.25
PHOTOS = 4
"""Photos per frame that a fusion network is planned with."""


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
    that computes, with an allowance of a quarter on activations; `flops` of the whole run. `fits` is None without a
    budget.
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
    budget: int | None = None

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


def plan_memory(blueprint: Blueprint, run: Run, budget: int | None = None) -> MemoryPlan:
    """Predict what a run needs, with the fastest settings that fit the budget.

    Without a budget: 4 frames per VAE call, both branches of guidance at once, nothing moved off. With one, smaller
    chunks are tried first, since they cost nothing, then separate branches, then moving modules off the device.

    Args:
        blueprint: the networks; their weights are not looked at.
        run: what is to be done.
        budget: bytes on the device that computes.

    Returns:
        The plan; if nothing fits, the smallest one, whose `fits` is False.

    Raises:
        UserError: for a run without frames or of size 0.
    """
    if min(run.frames, run.height, run.width, run.steps, run.references, run.batch) < 1:
        raise UserError(f"{run} has a number below 1; expected sizes and counts of at least 1")
    costs, padded = _trace(blueprint, run)
    weights = {name: _bytes(module, run.dtype) for name, module in blueprint.modules.items()}
    clip = _clip_bytes(blueprint, padded)
    choices: list[tuple[bool, bool, int]]
    if budget is None:
        choices = [(False, True, min(4, run.frames))]
    else:
        chunks = [c for c in CHUNKS if c <= run.frames]
        choices = list(itertools.product((False, True), (True, False) if run.guidance else (True,), chunks))
    plans = [
        _plan(blueprint.name, run, costs, weights, clip, offload, batched, chunk, budget)
        for offload, batched, chunk in choices
    ]
    return next((p for p in plans if p.fits is not False), min(plans, key=lambda p: p.peak))


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


def _plan(
    name: str,
    run: Run,
    costs: _Costs,
    weights: dict[str, int],
    clip: int,
    offload: bool,
    batched: bool,
    chunk: int,
    budget: int | None,
) -> MemoryPlan:
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
    peak = 0
    for phase, needed in activations.items():
        present = [size for key, size in weights.items() if not offload or key in users[phase]]
        peak = max(peak, sum(present) + clip + int(needed * ALLOWANCE))
    frames = run.frames * run.batch
    flops = frames * (costs.encode.flops + costs.decode.flops)
    flops += run.batch * (costs.fuse.flops + run.references * costs.reference.flops)
    flops += run.batch * run.steps * branches * costs.denoise.flops
    return MemoryPlan(name, run, weights, activations, clip, flops, chunk, batched, offload, peak, budget)


def _trace(blueprint: Blueprint, run: Run) -> tuple[_Costs, Run]:
    """Costs at the padded size, and the run at that size."""
    modules: dict[str, Any] = {key: nn.Module.to(m, dtype=run.dtype) for key, m in blueprint.modules.items()}
    size = (run.frames, run.height, run.width)
    if "unet" not in modules:
        none = Cost(0, 0)
        return _Costs(_trace_fusion(modules.get("fusion"), size, run.dtype), none, none, none, none), run
    unet, vae = modules["unet"], modules["vae"]
    factor = spatial_factor(vae)
    multiple = factor * 2 ** (len(unet.config["block_out_channels"]) - 1)
    box = letterbox(*size, multiple)
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
            fuse=_trace_fusion(modules.get("fusion"), size, run.dtype),
            encode=trace(lambda: vae.encode(empty(1, channels, height, width)).latent_dist.parameters),
            decode=trace(lambda: vae.decode(empty(1, latent_channels, *latent)).sample),
            reference=_trace_reference(blueprint, modules, empty),
            denoise=trace(lambda: unet(noisy, moment, context).sample),
        )
    return costs, replace(run, height=height, width=width)


def _trace_fusion(fusion: Any, size: tuple[int, int, int], dtype: torch.dtype) -> Cost:
    """A whole clip through the fusion network, with as many photos as it was trained with."""
    if fusion is None:
        return Cost(0, 0)
    frames, height, width = size
    height, width = (-(-side // fusion.multiple) * fusion.multiple for side in (height, width))
    channels = ((3,), (1,), (1,), (PHOTOS, CHANNELS))
    clip = [torch.empty(1, frames, *n, height, width, dtype=dtype, device="meta") for n in channels]
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
