"""The sampling loop and the guided denoiser that it calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion.models.denoiser import LiteVideoUNet
from diffusion.models.unet import RGBDVideoUNet
from diffusion.sampling.guidance import guide


@dataclass
class Denoiser:
    """The network with everything that stays fixed over the steps of a run.

    `conditions` [B, C', T, h, w] are stacked below the noisy latents; `context` and `null_context` [B, L, D] are the
    tokens of the `references` photos and of none, which is None where guidance is off. `scale` and `rescale` are
    `guidance.guide`'s; `batched`: both branches in one pass; else one after the other, with half the memory.
    """

    unet: RGBDVideoUNet | LiteVideoUNet
    conditions: Tensor
    context: Tensor
    null_context: Tensor | None
    scale: float = 1.0
    rescale: float = 0.0
    batched: bool = True
    references: int = 1
    fps: int | None = None

    def __call__(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """Noisy latents [B, c, T, h, w] as the network wants them, and a timestep [] -> guided prediction, float32."""
        if self.null_context is None:
            return self._predict(latents, self.conditions, self.context, timestep)
        if self.batched:
            latents, conditions = torch.cat([latents] * 2), torch.cat([self.conditions] * 2)
            context = torch.cat([self.context, self.null_context])
            conditional, unconditional = self._predict(latents, conditions, context, timestep).chunk(2)
        else:
            conditional = self._predict(latents, self.conditions, self.context, timestep)
            unconditional = self._predict(latents, self.conditions, self.null_context, timestep)
        return guide(conditional, unconditional, self.scale, self.rescale)

    def _predict(self, latents: Tensor, conditions: Tensor, context: Tensor, timestep: Tensor) -> Tensor:
        sample = torch.cat([latents, conditions], dim=1).to(self.unet.dtype)
        output = self.unet(
            sample, timestep, context.to(sample), fps=self.fps, references=self.references, return_dict=False
        )
        return output[0].float()


def sample_latents(
    scheduler: Any,
    denoiser: Denoiser,
    noise: Tensor,
    steps: int,
    options: dict[str, Any],
    step_noise: Tensor | None,
    after_step: Callable[[int, int, Tensor], None],
) -> Tensor:
    """The sampling loop: noise -> clean latents [B, c, T, h, w], float32 throughout.

    Args:
        options: handed to the scheduler's `step`, as far as it takes them; None = its default.
        step_noise: [steps, B, c, T, h, w] what the sampler adds; None = it draws its own.
        after_step: told each step's index, its timestep and the latents.
    """
    scheduler.set_timesteps(steps, device=noise.device)
    latents = noise * scheduler.init_noise_sigma
    accepted = set(inspect.signature(scheduler.step).parameters)
    options = {k: v for k, v in options.items() if k in accepted and v is not None}
    for index, timestep in enumerate(scheduler.timesteps):
        prediction = denoiser(scheduler.scale_model_input(latents, timestep), timestep)
        if step_noise is not None:
            options["variance_noise"] = step_noise[index].to(latents)
        latents = scheduler.step(prediction, timestep, latents, **options, return_dict=False)[0]
        after_step(index, int(timestep), latents)
    return latents
