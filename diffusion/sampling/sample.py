"""The sampling loop and its parts: the guided denoiser, and the start from the noised renderings."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion.errors import UserError
from diffusion.models.denoiser import LiteVideoUNet
from diffusion.models.unet import RGBDVideoUNet
from diffusion.sampling.guidance import guide


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance: `scale` (1 = off), `rescale` in [0, 1], and the `interval` of noise levels, as shares
    of the training timesteps, in which it is used. Outside, only the conditional branch is computed
    (Kynkaanniemi et al. 2024). `batched`: both branches in one pass; else one after the other, with half the memory."""

    scale: float = 1.0
    rescale: float = 0.0
    interval: tuple[float, float] = (0.0, 1.0)
    batched: bool = True

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise UserError(f"guidance_scale is {self.scale}; expected a finite number, 1 = no guidance")
        if not 0 <= self.rescale <= 1:
            raise UserError(f"guidance_rescale is {self.rescale}; expected a number in [0, 1]")
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise UserError(f"guidance_interval is {self.interval}; expected (low, high) with 0 <= low <= high <= 1")

    def is_on(self, timestep: int, train_timesteps: int) -> bool:
        """Whether the unconditional branch is needed at this timestep of the training schedule."""
        low, high = self.interval
        return self.scale != 1.0 and low <= timestep / train_timesteps <= high


@dataclass
class Denoiser:
    """The network with everything that stays fixed over the steps of a run.

    `conditions` [B, C', T, h, w] are stacked below the noisy latents; `context` and `null_context` [B, L, D] are the
    tokens of the `references` photos and of none.
    """

    unet: RGBDVideoUNet | LiteVideoUNet
    conditions: Tensor
    context: Tensor
    null_context: Tensor | None
    guidance: Guidance
    train_timesteps: int
    references: int = 1
    fps: int | None = None

    def __call__(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """Noisy latents [B, c, T, h, w] as the network wants them, and a timestep [] -> guided prediction, float32."""
        guidance = self.guidance
        if self.null_context is None or not guidance.is_on(int(timestep), self.train_timesteps):
            return self._predict(latents, self.conditions, self.context, timestep)
        if guidance.batched:
            latents, conditions = torch.cat([latents] * 2), torch.cat([self.conditions] * 2)
            context = torch.cat([self.context, self.null_context])
            both = self._predict(latents, conditions, context, timestep)
            conditional, unconditional = both.chunk(2)
        else:
            conditional = self._predict(latents, self.conditions, self.context, timestep)
            unconditional = self._predict(latents, self.conditions, self.null_context, timestep)
        return guide(conditional, unconditional, guidance.scale, guidance.rescale)

    def _predict(self, latents: Tensor, conditions: Tensor, context: Tensor, timestep: Tensor) -> Tensor:
        sample = torch.cat([latents, conditions], dim=1).to(self.unet.dtype)
        output = self.unet(
            sample, timestep, context.to(sample), fps=self.fps, references=self.references, return_dict=False
        )
        return output[0].float()


@dataclass
class RenderStart:
    """Start from the renderings instead of pure noise (SDEdit, Meng et al. 2022), by pixel where `opacity` is given.

    A pixel of opacity a is held at the noised rendering for round(N a (1 - strength)) of the N steps and denoised from
    there on, as in Differential Diffusion (Levin and Fried 2023): what was seen well keeps its look, and holes are made
    from noise. Without opacity every pixel counts as 1, and the held steps need not be computed.

    `latents`, `noise`: [B, c, T, h, w]; `strength` in (0, 1], 1 = no influence; `opacity` [B, 1, T, h, w] or None.
    """

    latents: Tensor
    noise: Tensor
    strength: float
    opacity: Tensor | None = None

    def first_step(self, steps: int) -> int:
        """Index of the first step that has to be computed."""
        return 0 if self.opacity is not None else int(self._held_steps(torch.ones(()), steps))

    def impose(self, sample: Tensor, index: int, steps: int, scheduler: Any) -> Tensor:
        """Put the noised rendering where it is still held when step `index` begins; elsewhere keep the sample."""
        opacity = torch.ones_like(sample[:, :1]) if self.opacity is None else self.opacity
        held_steps = self._held_steps(opacity, steps)
        held = (held_steps >= index) & (held_steps > 0)
        if not held.any():
            return sample
        timestep = scheduler.timesteps[index].expand(len(sample))
        noised = scheduler.add_noise(self.latents, self.noise, timestep)
        return torch.where(held, noised, sample)

    def _held_steps(self, opacity: Tensor, steps: int) -> Tensor:
        return (steps * opacity * (1 - self.strength)).round().clamp(max=steps - 1)


def sample_latents(
    scheduler: Any,
    denoiser: Denoiser,
    start: RenderStart,
    steps: int,
    options: dict[str, Any],
    step_noise: Tensor | None,
    after_step: Callable[[int, int, Tensor], Tensor],
) -> Tensor:
    """The sampling loop: noise -> clean latents [B, c, T, h, w], float32 throughout.

    Args:
        options: handed to the scheduler's `step`, as far as it takes them; None = its default.
        step_noise: [steps, B, c, T, h, w] what the sampler adds; None = it draws its own.
        after_step: told each step's index, its timestep and the latents, which it may replace.
    """
    scheduler.set_timesteps(steps, device=start.noise.device)
    first = start.first_step(steps)
    if first and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    latents = start.noise * scheduler.init_noise_sigma
    accepted = set(inspect.signature(scheduler.step).parameters)
    options = {k: v for k, v in options.items() if k in accepted and v is not None}
    for index in range(first, steps):
        timestep = scheduler.timesteps[index]
        latents = start.impose(latents, index, steps, scheduler)
        prediction = denoiser(scheduler.scale_model_input(latents, timestep), timestep)
        if step_noise is not None:
            options["variance_noise"] = step_noise[index].to(latents)
        latents = scheduler.step(prediction, timestep, latents, **options, return_dict=False)[0]
        latents = after_step(index, int(timestep), latents)
    return latents
