"""A few-step sampler: diffusers' DPM-Solver++, given the dynamic rescale by a change of variables."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401 (looked up here to load a pipeline)
from torch import Tensor

from diffusion.schedulers.tables import alphas_cumprod_zero_snr, latent_scales

# Signal power that stands for 0 at the last timestep, so that its log-SNR is finite; the stock solver's own choice.
SMALLEST_ALPHA = 2.0**-24


class RescaledDPMSolverScheduler(DPMSolverMultistepScheduler):
    """DPM-Solver++ (Lu et al. 2022) for a v-predicting network trained with zero terminal SNR and dynamic rescale.

    The process x_t = sqrt(abar_t) s_t z0 + sqrt(1 - abar_t) eps does not preserve variance, which the stock solver
    takes for granted. Divided by c_t = sqrt(abar_t s_t^2 + 1 - abar_t) it does, with signal power
    abar'_t = abar_t s_t^2 / c_t^2. So the solver works on x' = x / c with the table abar', the network sees c_t x'
    (`scale_model_input`), and its v becomes an estimate of z0 itself (`convert_model_output`), whose scale is the same
    at every timestep; the solver may therefore extrapolate it from step to step. Without rescale, c = 1.

    Args:
        num_train_timesteps, beta_start, beta_end, rescale_base, rescale_steps: as in `RescaledDDIMScheduler`.
        timestep_spacing: "trailing" (starts at pure noise), "leading" or "linspace".
        solver_order: 1, 2 or 3.
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        timestep_spacing: str = "trailing",
        solver_order: int = 2,
        rescale_base: float = 0.7,
        rescale_steps: int = 400,
        prediction_type: str = "v_prediction",
    ) -> None:
        if prediction_type != "v_prediction":
            raise ValueError(f"only prediction_type 'v_prediction' is known, but it is {prediction_type!r}")
        super().__init__(
            num_train_timesteps=num_train_timesteps,
            beta_start=beta_start,
            beta_end=beta_end,
            beta_schedule="scaled_linear",
            timestep_spacing=timestep_spacing,  # pyright: ignore[reportArgumentType]
            steps_offset=1 if timestep_spacing == "leading" else 0,
            solver_order=solver_order,
            algorithm_type="dpmsolver++",
            prediction_type="v_prediction",
            final_sigmas_type="zero",
            rescale_betas_zero_snr=True,
        )
        abar = alphas_cumprod_zero_snr(num_train_timesteps, beta_start, beta_end)
        scales = latent_scales(num_train_timesteps, rescale_base, rescale_steps)
        norms = (abar * scales**2 + 1 - abar).sqrt()
        solver_abar = (abar * scales**2 / norms**2).clamp(min=SMALLEST_ALPHA)
        self._set_solver_tables(solver_abar)
        self.network_alphas_cumprod = abar.float()
        self.latent_scales = scales.float()
        self.norms = norms.float()

    def _set_solver_tables(self, abar: Tensor) -> None:
        """Replace the tables that the stock class made in its constructor; abar [num_train_timesteps]."""
        self.alphas_cumprod = abar.float()
        self.alpha_t = abar.sqrt().float()
        self.sigma_t = (1 - abar).sqrt().float()
        self.lambda_t = (0.5 * (abar.log() - torch.log1p(-abar))).float()
        self.sigmas = ((1 - abar) / abar).sqrt().float()

    def scale_model_input(self, sample: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The solver's x' -> the network's x_t = c_t x'. Takes the timestep as its second argument."""
        timestep = args[0] if args else kwargs["timestep"]
        return sample * self.norms[int(timestep)].to(sample)

    def convert_model_output(self, model_output: Tensor, *args: Any, sample: Tensor, **kwargs: Any) -> Tensor:
        """The network's v at x_t = c_t x' -> its z0 = (sqrt(abar) x_t - sqrt(1 - abar) v) / s_t, float32."""
        timestep = int(self.timesteps[self.step_index])  # pyright: ignore[reportArgumentType, reportCallIssue]
        abar = float(self.network_alphas_cumprod[timestep])
        x = float(self.norms[timestep]) * sample.float()
        clean = abar**0.5 * x - (1 - abar) ** 0.5 * model_output.float()
        return clean / float(self.latent_scales[timestep])
