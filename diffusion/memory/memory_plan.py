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
from diffusion.inputs.source_views import CHANNELS, PHOTOS
from diffusion.memory.blueprint import Blueprint
from diffusion.memory.tracing import peak_bytes
from diffusion.models.vae import spatial_factor

MIB = 2**20
CHUNKS = (8, 4, 2, 1)
# Convolution workspaces and the allocator's rounding, which shapes do not tell.
ALLOWANCE = 1.25
# Shorter clips are no longer worth the name of a video; frames then no longer agree with their neighbours.
LEAST_FRAMES = 4
USERS = {
    "fuse": ("fusion",),
    "encode": ("vae",),
    "references": ("image_encoder", "resampler"),
    "denoise": ("unet",),
    "decode": ("vae",),
}
"""The networks that each phase needs on the device; without an image encoder, photos pass through the autoencoder."""


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


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a run needs, and the settings of the pipeline's call that they hold for.

    `weights` by network; `activations` by phase (see `USERS`), each the largest sum of tensors alive at once; `clip` is
    what stays throughout: frames and latents in float32. `run` has the frames that are repaired at once, of the `asked`
    ones.
    """

    name: str
    run: Run
    weights: dict[str, int]
    activations: dict[str, int]
    clip: int
    vae_chunk: int
    batch_guidance: bool
    offload: bool
    asked: int
    budget: int | None = None

    @property
    def peak(self) -> int:
        """Bytes on the device that computes, with an allowance of a quarter on activations."""
        return self.clip + max(
            self._present(phase) + int(needed * ALLOWANCE) for phase, needed in self.activations.items()
        )

    def _present(self, phase: str) -> int:
        """Bytes of the weights that are on the device in a phase."""
        users = USERS[phase]
        if phase == "references" and "image_encoder" not in self.weights:
            users += ("vae",)
        return sum(size for network, size in self.weights.items() if not self.offload or network in users)

    @property
    def fits(self) -> bool | None:
        """None without a budget."""
        return None if self.budget is None else self.peak <= self.budget

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
    def summary(self) -> str:
        """The plan in a line."""
        run = self.run
        title = f"{self.name}: {run.frames} frames of {run.width}x{run.height}, {str(run.dtype)[6:]}, {run.steps} steps"
        budget = "" if self.budget is None else f" of {self.budget / MIB:,.0f}"
        lacking = "" if self.fits is not False else ", NOT enough"
        offload = ", modules moved off between uses" if self.offload else ""
        guidance = "on" if run.guidance else "off"
        return f"{title}, guidance {guidance}; peak {self.peak / MIB:,.0f}{budget} MiB{lacking}{offload}"

    def __str__(self) -> str:
        """The summary, and a table of what takes the memory."""
        rows = [("weights", key, value) for key, value in self.weights.items()]
        rows += [("activations", key, value) for key, value in self.activations.items()]
        rows += [("frames and latents", "", self.clip), ("peak", "", self.peak)]
        lines = [f"  {kind:<20}{key:<14}{value / MIB:>12,.1f} MiB" for kind, key, value in rows]
        branches = "one pass for both branches" if self.batch_guidance else "one branch after the other"
        return "\n".join([self.summary, *lines, f"  settings: {self.vae_chunk} frames per VAE call, {branches}"])


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
    if min(run.frames, run.height, run.width, run.steps, run.references) < 1:
        raise UserError(f"{run} has a number below 1; expected sizes and counts of at least 1")
    traced, padded = _trace(blueprint, run)
    weights = {name: _bytes(module, run.dtype) for name, module in blueprint.modules.items()}
    plans = []
    for frames in _lengths(run.frames) if shorten and budget is not None else [run.frames]:
        part = replace(run, frames=frames)
        # what sees a clip at once costs in proportion to its length
        fuse, denoise = (traced[phase] * frames // run.frames for phase in ("fuse", "denoise"))
        clip = _clip_bytes(blueprint, replace(padded, frames=frames))
        for offload, batched, chunk in _choices(part, budget):
            activations = {
                "fuse": fuse,
                "encode": traced["encode"] * chunk,
                "references": traced["references"],
                "denoise": denoise * (2 if run.guidance and batched else 1),
                "decode": traced["decode"] * chunk,
            }
            settings = chunk, batched, offload
            plan = MemoryPlan(blueprint.name, part, weights, activations, clip, *settings, run.frames, budget)
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


def _trace(blueprint: Blueprint, run: Run) -> tuple[dict[str, int], Run]:
    """Bytes of each phase at the padded size, for one clip, one frame in the autoencoder, one photo and one branch of
    guidance; and the run at that size."""
    modules: dict[str, Any] = {key: nn.Module.to(m, dtype=run.dtype) for key, m in blueprint.modules.items()}
    traced = dict.fromkeys(USERS, 0)
    if "fusion" in modules:
        traced["fuse"] = _trace_fusion(modules["fusion"], run)
    if "unet" not in modules:
        return traced, run
    unet, vae = modules["unet"], modules["vae"]
    factor = spatial_factor(vae)
    multiple = factor * 2 ** (len(unet.config["block_out_channels"]) - 1)
    height, width = _rounded(run.height, multiple), _rounded(run.width, multiple)
    latent = (height // factor, width // factor)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=run.dtype, device="meta")

    channels, latent_channels = vae.config["in_channels"], vae.config["latent_channels"]
    noisy = empty(1, unet.config["in_channels"], run.frames, *latent)
    tokens = modules["resampler"].config["num_queries"] * run.references
    context = empty(1, tokens, unet.config["cross_attention_dim"])
    moment = torch.empty((), dtype=torch.long, device="meta")
    with torch.device("meta"):
        traced["encode"] = peak_bytes(lambda: vae.encode(empty(1, channels, height, width)).latent_dist.parameters)
        traced["decode"] = peak_bytes(lambda: vae.decode(empty(1, latent_channels, *latent)).sample)
        traced["references"] = _trace_reference(blueprint, modules, empty)
        traced["denoise"] = peak_bytes(lambda: unet(noisy, moment, context).sample)
    return traced, replace(run, height=height, width=width)


def _rounded(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple


def _trace_fusion(fusion: Any, run: Run) -> int:
    """A whole clip through the fusion network, with as many photos as it was trained with."""
    size = _rounded(run.height, fusion.multiple), _rounded(run.width, fusion.multiple)
    with torch.device("meta"):
        clip = [torch.empty(1, run.frames, *n, *size) for n in ((3,), (1,), (1,), (PHOTOS, CHANNELS))]
        return peak_bytes(lambda: fusion(*clip))


def _trace_reference(blueprint: Blueprint, modules: dict[str, Any], empty: Callable[..., Tensor]) -> int:
    """From one photo to context tokens; the two networks run one after the other."""
    resampler, encoder = modules["resampler"], modules.get("image_encoder")
    if encoder is not None:
        config = encoder.config
        pixels = empty(1, 3, config.image_size, config.image_size)
        first = peak_bytes(lambda: encoder(pixel_values=pixels).last_hidden_state)
        count = (config.image_size // config.patch_size) ** 2 + 1
    else:
        vae = modules["vae"]
        height, width = blueprint.settings.get("reference_size", (192, 320))
        first = peak_bytes(
            lambda: vae.encode(empty(1, vae.config["in_channels"], height, width)).latent_dist.parameters
        )
        cell = spatial_factor(vae) * blueprint.settings.get("token_patch", 2)
        count = (height // cell) * (width // cell)
    tokens = empty(1, count, resampler.config["embed_dims"])
    return max(first, peak_bytes(lambda: resampler(tokens)))


def _bytes(module: nn.Module, dtype: torch.dtype) -> int:
    tensors = itertools.chain(module.parameters(), module.buffers())
    return sum(t.numel() * (dtype.itemsize if t.is_floating_point() else t.element_size()) for t in tensors)


def _clip_bytes(blueprint: Blueprint, padded: Run) -> int:
    """Given frames, padded frames, decoded frames and result, what photos show, and six sets of latents, in float32."""
    pixels = padded.frames * padded.height * padded.width
    total = 16 * pixels
    if "fusion" in blueprint.modules:
        total += 2 * PHOTOS * CHANNELS * pixels  # as given, and padded
    if "vae" in blueprint.modules:
        vae: Any = blueprint.modules["vae"]
        factor = spatial_factor(vae)
        total += 4 * (vae.config["in_channels"] - 4) * pixels + 6 * vae.config["latent_channels"] * pixels // factor**2
    return 4 * total
