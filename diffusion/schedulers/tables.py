"""Tables of the noise schedule, as functions of the timestep."""

from __future__ import annotations

import torch
from torch import Tensor


def alphas_cumprod_zero_snr(num_steps: int, beta_start: float, beta_end: float) -> Tensor:
    """Signal power of each timestep, [num_steps] float64, falling to exactly 0.

    The betas come from a straight line in sqrt(beta) ("scaled linear"). Then sqrt(alphas_cumprod) is shifted
    so that its last entry is 0 and scaled so that its first is unchanged (Lin et al. 2023, "Common Diffusion
    Noise Schedules and Sample Steps are Flawed", algorithm 1).

    Args:
        num_steps: number of training timesteps, at least 2.
        beta_start, beta_end: noise added by the first and by the last step.
    """
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, num_steps, dtype=torch.float64) ** 2
    amplitude = torch.cumprod(1 - betas, dim=0).sqrt()
    amplitude = (amplitude - amplitude[-1]) * (amplitude[0] / (amplitude[0] - amplitude[-1]))
    return amplitude**2


def latent_scales(num_steps: int, base_scale: float, ramp_steps: int) -> Tensor:
    """Factor on the clean latent at each timestep, [num_steps] float64 ("dynamic rescale").

    A straight line from 1 to `base_scale` over the first `ramp_steps` timesteps, then `base_scale`: training
    noises `scale[t] * z0` instead of z0. `base_scale=1` switches it off.
    """
    ramp = torch.linspace(1.0, base_scale, ramp_steps, dtype=torch.float64)[:num_steps]
    rest = torch.full((num_steps - len(ramp),), base_scale, dtype=torch.float64)
    return torch.cat([ramp, rest])


def spaced_timesteps(num_steps: int, count: int, spacing: str) -> Tensor:
    """The timesteps that a sampler of `count` steps visits, [count] int64, in descending order.

    "leading" (the official "uniform"): multiples of num_steps // count, plus 1; it ends at 1, and starts
    below the last timestep. "trailing": num_steps - 1, down in equal steps of num_steps / count, rounded.

    Raises:
        ValueError: for another spacing, or a count outside [1, num_steps).
    """
    if not 1 <= count < num_steps:
        raise ValueError(f"the number of sampling steps must be between 1 and {num_steps - 1}, not {count}")
    if spacing == "leading":
        return torch.arange(count).flip(0) * (num_steps // count) + 1
    if spacing == "trailing":
        return (num_steps - torch.arange(count, dtype=torch.float64) * (num_steps / count)).round().long() - 1
    raise ValueError(f"spacing must be 'leading' or 'trailing', but is {spacing!r}")


def per_sample(table: Tensor, timesteps: Tensor, like: Tensor) -> Tensor:
    """Entries of a table at [B] timesteps, shaped to multiply `like` [B, ...]; float32."""
    values = table.to(like.device, torch.float32)[timesteps.to(like.device)]
    return values.reshape(-1, *[1] * (like.ndim - 1))
