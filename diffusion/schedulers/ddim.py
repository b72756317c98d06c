"""DDIM with v-prediction, zero terminal SNR, and the dynamic rescale of the clean latent."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from diffusion.schedulers.tables import alphas_cumprod_zero_snr, latent_scales, per_sample, spaced_timesteps


class RescaledDDIMScheduler(SchedulerMixin, ConfigMixin):
    """DDIM (Song et al. 2021, eq. 12 and 16) for a process that shrinks the clean latent as the noise grows.

    With abar = `alphas_cumprod`, s = `latent_scales` and z0 the clean latent,

        x_t = sqrt(abar_t) s_t z0 + sqrt(1 - abar_t) eps,      v = sqrt(abar_t) eps - sqrt(1 - abar_t) s_t z0.

    So the network's estimate of the clean latent at t is s_t z0; a step from t to p multiplies it by s_p /
    s_t and leaves the estimate of eps alone. The tables are float32 and stay so whatever the networks' dtype.

    Args:
        num_train_timesteps: length of the schedule.
        beta_start, beta_end: ends of the schedule, see `alphas_cumprod_zero_snr`.
        timestep_spacing: "leading" (official: t = 961, 921, ..., 1 for 25 steps) or "trailing" (from 999).
        eta: 0 = deterministic, 1 = as much fresh noise as DDPM; used unless `step` is given another.
        rescale_base, rescale_steps: see `latent_scales`; base 1 switches the rescale off.
        clean_end: where the last step goes. True: to the clean latent (abar = 1, s = 1), so that a perfect
            network returns z0. False: to the first noise level, with no change of scale, as the official code
            does; what remains is noise of standard deviation 0.03 and the factor s of the last timestep.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        timestep_spacing: str = "leading",
        eta: float = 1.0,
        rescale_base: float = 0.7,
        rescale_steps: int = 400,
        clean_end: bool = True,
        prediction_type: str = "v_prediction",
    ) -> None:
        if prediction_type != "v_prediction":
            raise ValueError(f"only prediction_type 'v_prediction' is known, but it is {prediction_type!r}")
        spaced_timesteps(num_train_timesteps, 1, timestep_spacing)
        self.alphas_cumprod = alphas_cumprod_zero_snr(num_train_timesteps, beta_start, beta_end).float()
        self.latent_scales = latent_scales(num_train_timesteps, rescale_base, rescale_steps).float()
        self.init_noise_sigma = 1.0
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(num_train_timesteps).flip(0)

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Choose the timesteps of a run. Raises ValueError for fewer than 1 or too many steps."""
        spacing = self.config.timestep_spacing  # pyright: ignore[reportAttributeAccessIssue]
        self.timesteps = spaced_timesteps(len(self), num_inference_steps, spacing).to(device)
        self.num_inference_steps = num_inference_steps

    def scale_model_input(self, sample: Tensor, timestep: Tensor | int | None = None) -> Tensor:
        """What the network sees: the sample itself."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z0 [B, ...], eps [B, ...], t [B] -> x_t = sqrt(abar_t) s_t z0 + sqrt(1 - abar_t) eps."""
        abar = per_sample(self.alphas_cumprod, timesteps, original_samples)
        scale = per_sample(self.latent_scales, timesteps, original_samples)
        noisy = abar.sqrt() * scale * original_samples + (1 - abar).sqrt() * noise
        return noisy.to(original_samples.dtype)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z0 [B, ...], eps [B, ...], t [B] -> the target v = sqrt(abar_t) eps - sqrt(1 - abar_t) s_t z0."""
        abar = per_sample(self.alphas_cumprod, timesteps, sample)
        scale = per_sample(self.latent_scales, timesteps, sample)
        return (abar.sqrt() * noise - (1 - abar).sqrt() * scale * sample).to(sample.dtype)

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | int,
        sample: Tensor,
        eta: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple[Tensor, Tensor]:
        """One step of the sampler, computed in float32.

        Args:
            model_output: the network's v, any shape.
            timestep: one of `timesteps`.
            sample: x_t, like `model_output`.
            eta: overrides the configuration's.
            generator: makes the fresh noise, unless `variance_noise` is given.
            variance_noise: the fresh noise, like `sample`.

        Returns:
            `prev_sample`, the latent at the next, smaller noise level, and `pred_original_sample`, the estimate of the
            clean latent, times the scale of that next level; in the sample's dtype. A tuple if not `return_dict`.

        Raises:
            ValueError: before `set_timesteps`, or for a timestep that is not one of `timesteps`.
        """
        abar, abar_p, ratio = self._levels(int(timestep))
        eta = self.config.eta if eta is None else eta  # pyright: ignore[reportAttributeAccessIssue]
        x, v = sample.float(), model_output.float()
        clean = (abar**0.5 * x - (1 - abar) ** 0.5 * v) * ratio
        eps = abar**0.5 * v + (1 - abar) ** 0.5 * x
        sigma = eta * ((1 - abar_p) / (1 - abar) * (1 - abar / abar_p)) ** 0.5
        # From t = 999, where abar is 0, this is 0 up to rounding with eta = 1, and may come out below.
        direction = max(1 - abar_p - sigma**2, 0.0) ** 0.5
        prev = abar_p**0.5 * clean + direction * eps
        if sigma > 0:
            noise = variance_noise
            if noise is None:
                noise = randn_tensor(x.shape, generator, x.device, x.dtype)  # pyright: ignore[reportArgumentType]
            prev = prev + sigma * noise.to(x)
        prev, clean = prev.to(sample.dtype), clean.to(sample.dtype)
        return DDIMSchedulerOutput(prev_sample=prev, pred_original_sample=clean) if return_dict else (prev, clean)

    def _levels(self, timestep: int) -> tuple[float, float, float]:
        """abar at t and at the next timestep p, and s_p / s_t."""
        if self.num_inference_steps is None:
            raise ValueError("call set_timesteps before step")
        index = (self.timesteps == timestep).nonzero()
        if len(index) == 0:
            raise ValueError(f"timestep {timestep} is not one of this run's: {self.timesteps.tolist()}")
        abar, scale = float(self.alphas_cumprod[timestep]), float(self.latent_scales[timestep])
        following = int(index[0]) + 1
        if following < len(self.timesteps):
            p = int(self.timesteps[following])
            return abar, float(self.alphas_cumprod[p]), float(self.latent_scales[p]) / scale
        if self.config.clean_end:  # pyright: ignore[reportAttributeAccessIssue]
            return abar, 1.0, 1.0 / scale
        return abar, float(self.alphas_cumprod[0]), 1.0
