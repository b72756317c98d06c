"""Noise schedules and samplers: the official tables and trajectories, perfect denoisers, and an exact solution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_data import SLACK, Parity, gap
from torch import Tensor

from diffusion.convert.schedule import official_scheduler
from diffusion.sampling.guidance import guide
from diffusion.schedulers import RescaledDDIMScheduler, RescaledDPMSolverScheduler
from diffusion.schedulers import RescaledDPMSolverScheduler as few_step
from diffusion.schedulers.tables import alphas_cumprod_zero_snr, latent_scales

Scheduler = RescaledDDIMScheduler | RescaledDPMSolverScheduler

SPACINGS = {"uniform": "leading", "uniform_trailing": "trailing"}


def official(spacing: str, **changes: Any) -> RescaledDDIMScheduler:
    return RescaledDDIMScheduler.from_config(official_scheduler().config, timestep_spacing=SPACINGS[spacing], **changes)


def test_tables_are_the_official_ones(parity: Parity) -> None:
    tables = parity.io("schedule")
    scheduler = official_scheduler()
    exact = alphas_cumprod_zero_snr(1000, 0.00085, 0.012)
    assert gap(exact, tables["alphas_cumprod_f64"]) < 1e-12
    assert gap(scheduler.alphas_cumprod, tables["buffer.alphas_cumprod"]) < 1e-6
    assert gap(latent_scales(1000, 0.7, 400).float(), tables["buffer.scale_arr"][:1000]) < 1e-6
    assert scheduler.alphas_cumprod.dtype == scheduler.latent_scales.dtype == torch.float32
    assert float(scheduler.alphas_cumprod[-1]) == 0.0


def test_spaced_tables_are_the_official_ones(parity: Parity) -> None:
    tables = parity.io("schedule")
    cases = {tuple(name.split(".")[1:3]) for name in tables if name.startswith("ddim.")}
    assert cases
    for spacing, steps in cases:
        recorded = {k.split(".")[-1]: v for k, v in tables.items() if k.startswith(f"ddim.{spacing}.{steps}.")}
        scheduler = official(spacing)
        scheduler.set_timesteps(int(steps))
        assert torch.equal(scheduler.timesteps.flip(0), recorded["timesteps"]), (spacing, steps)
        levels = [scheduler._levels(int(t)) for t in recorded["timesteps"]]
        abar, abar_p, ratio = (torch.tensor(column, dtype=torch.float64) for column in zip(*levels, strict=True))
        assert gap(abar, recorded["ddim_alphas"]) < 1e-6
        assert gap(abar_p, recorded["ddim_alphas_prev"]) < 1e-6
        assert gap(ratio, recorded["ddim_scale_arr_prev"] / recorded["ddim_scale_arr"]) < 1e-6
        sigma = ((1 - abar_p) / (1 - abar) * (1 - abar / abar_p)).sqrt()
        assert gap(sigma, recorded["ddim_sigmas"]) < 3e-6


def analytic_velocity(x: Tensor, t: Tensor, c: Tensor) -> Tensor:
    """The denoiser of the recorded trajectories."""
    return 0.8 * torch.tanh(0.5 * x + c) + 0.2 * torch.sin(0.01 * t)


def test_trajectories_are_the_official_ones(parity: Parity) -> None:
    io = parity.io("tiny_ddim_io")
    cases = [name.removesuffix(".params") for name in io if name.endswith(".params")]
    assert cases
    for case in cases:
        steps, eta, scale, rescale_factor = io[f"{case}.params"].tolist()
        trailing = bool(io[f"{case}.trailing"])
        # From t = 999, the official code takes the square root of what is 0 up to rounding.
        tolerance = (1e-3 if trailing else 2e-6) * SLACK
        scheduler = official("uniform_trailing" if trailing else "uniform")
        scheduler.set_timesteps(int(steps))
        assert torch.equal(scheduler.timesteps, io[f"{case}.timesteps"])
        x = io[f"{case}.x_T"]
        for index, t in enumerate(scheduler.timesteps):
            v = analytic_velocity(x, t, io[f"{case}.cond"])
            if scale != 1.0:
                v = guide(v, analytic_velocity(x, t, io[f"{case}.uncond"]), scale, rescale_factor)
            out = scheduler.step(v, t, x, eta=eta, variance_noise=io[f"{case}.noise"][index])
            x = out.prev_sample
            assert gap(x, io[f"{case}.x"][index]) < tolerance, (case, index)
            assert gap(out.pred_original_sample, io[f"{case}.pred_x0"][index]) < tolerance, (case, index)


def test_noising_and_target_are_the_official_ones(parity: Parity) -> None:
    io = parity.io("tiny_train_io")
    scheduler = official_scheduler()
    assert gap(scheduler.add_noise(io["z0"], io["noise"], io["t"]), io["x_noisy"]) < 1e-5 * SLACK
    assert gap(scheduler.get_velocity(io["z0"], io["noise"], io["t"]), io["v_target"]) < 1e-5 * SLACK
    scale = scheduler.latent_scales[io["t"]].reshape(-1, 1, 1, 1, 1)
    assert gap(scale * io["z0"], io["x_start_scaled"]) < 1e-5 * SLACK


def all_schedulers(base: float = 0.7) -> dict[str, Scheduler]:
    ddim = {
        f"ddim {spacing} eta {eta}": RescaledDDIMScheduler(timestep_spacing=spacing, eta=eta, rescale_base=base)
        for spacing in ("leading", "trailing")
        for eta in (0.0, 1.0)
    }
    solver = {
        f"solver {spacing} order {order}": few_step(timestep_spacing=spacing, solver_order=order, rescale_base=base)
        for spacing in ("leading", "trailing", "linspace")
        for order in (1, 2, 3)
    }
    return ddim | solver


def perfect_velocity(x: Tensor, t: int, clean: Tensor, base: float = 0.7) -> Tensor:
    """What a network that knows the clean latent predicts at x_t = sqrt(abar) s z0 + sqrt(1 - abar) eps; float64."""
    abar = alphas_cumprod_zero_snr(1000, 0.00085, 0.012)[t]
    scaled = latent_scales(1000, base, 400)[t] * clean.double()
    eps = (x.double() - abar.sqrt() * scaled) / (1 - abar).sqrt()
    return (abar.sqrt() * eps - (1 - abar).sqrt() * scaled).float()


def sample(scheduler: Scheduler, steps: int, x: Tensor, velocity: Any, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scheduler.set_timesteps(steps)
    assert len(scheduler.timesteps) == steps
    x = x * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        v = velocity(scheduler.scale_model_input(x, t), int(t))
        x = scheduler.step(v, t, x, generator=generator, return_dict=False)[0]
        assert torch.isfinite(x).all(), int(t)
    return x


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2, 4, 8, 25, 50])
@pytest.mark.parametrize("name", all_schedulers())
@pytest.mark.parametrize("base", [0.7, 1.0])
def test_a_perfect_denoiser_returns_the_clean_latent(name: str, steps: int, base: float) -> None:
    scheduler = all_schedulers(base)[name]
    clean, noise = torch.randn(2, 1, 4, 2, 3, 3, generator=torch.Generator().manual_seed(steps))
    out = sample(scheduler, steps, noise, lambda x, t: perfect_velocity(x, t, clean, base))
    assert gap(out, clean) < 1e-5


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 25, 50])
@pytest.mark.parametrize("spacing", ["uniform", "uniform_trailing"])
def test_a_perfect_denoiser_under_the_official_ending(spacing: str, steps: int) -> None:
    """The official last step goes to the first noise level and keeps the last scale; that is all that remains."""
    scheduler = official(spacing)
    clean, noise = torch.randn(2, 1, 4, 2, 3, 3, generator=torch.Generator().manual_seed(steps))
    scheduler.set_timesteps(steps)
    start = scheduler.add_noise(clean, noise, scheduler.timesteps[:1])
    out = sample(scheduler, steps, start, lambda x, t: perfect_velocity(x, t, clean))
    abar = float(scheduler.alphas_cumprod[0])
    scale = float(scheduler.latent_scales[int(scheduler.timesteps[-1])])
    remainder = (out - abar**0.5 * scale * clean) / (1 - abar) ** 0.5
    assert remainder.abs().max() < 6.0
    assert 0.5 < remainder.std() < 1.5


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_last_timestep_makes_no_nan(eta: float) -> None:
    x, v, noise = torch.randn(3, 1, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    for steps in range(1, 60):
        scheduler = official("uniform_trailing", eta=eta)
        scheduler.set_timesteps(steps)
        assert int(scheduler.timesteps[0]) == 999
        out = scheduler.step(v, 999, x, variance_noise=noise)
        assert torch.isfinite(out.prev_sample).all() and torch.isfinite(out.pred_original_sample).all(), steps


def gaussian_velocity(x: Tensor, t: int, mean: float, std: float) -> Tensor:
    """The exact posterior mean's v for clean latents drawn from N(mean, std^2) per element."""
    abar = alphas_cumprod_zero_snr(1000, 0.00085, 0.012)[t]
    scale = latent_scales(1000, 0.7, 400)[t]
    amplitude, noise_power = abar.sqrt() * scale, 1 - abar
    gain = amplitude * std**2 / (amplitude**2 * std**2 + noise_power)
    scaled = scale * (mean + gain * (x.double() - amplitude * mean))
    eps = (x.double() - abar.sqrt() * scaled) / noise_power.sqrt()
    return (abar.sqrt() * eps - noise_power.sqrt() * scaled).float()


def distance_to_exact(scheduler: Scheduler, steps: int) -> float:
    """For Gaussian data, the probability flow maps the noise u to mean + std u, whatever the schedule."""
    mean, std = 0.8, 0.5
    noise = torch.linspace(-2, 2, 9)
    out = sample(scheduler, steps, noise, lambda x, t: gaussian_velocity(x, t, mean, std))
    return gap(out, mean + std * noise)


def test_samplers_approach_the_exact_solution() -> None:
    ddim = RescaledDDIMScheduler(timestep_spacing="trailing", eta=0.0)
    assert distance_to_exact(ddim, 400) < 0.02
    assert distance_to_exact(few_step(solver_order=2), 50) < 0.05
    assert distance_to_exact(few_step(solver_order=2), 400) < 0.005
    # The multistep solver is worth its order.
    assert distance_to_exact(few_step(solver_order=2), 100) < 0.5 * distance_to_exact(ddim, 100)


@pytest.mark.parametrize("steps", [1, 2, 5, 25])
def test_the_solver_of_order_one_is_deterministic_ddim(steps: int) -> None:
    """Two derivations of the same step: a change of variables here, a rescaled estimate there."""
    noise = torch.randn(1, 4, 2, 3, 3, generator=torch.Generator().manual_seed(steps))
    ddim = RescaledDDIMScheduler(timestep_spacing="trailing", eta=0.0)
    ends = [
        sample(s, steps, noise, lambda x, t: analytic_velocity(x, torch.tensor(t), torch.tensor(0.3)))
        for s in (ddim, few_step(solver_order=1))
    ]
    # The solver puts a little signal (2^-12) into the last timestep, where there is none.
    assert gap(*ends) < 2e-3


def test_without_rescale_the_solver_is_the_stock_one() -> None:
    stock = DPMSolverMultistepScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )
    noise = torch.randn(1, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    ends = [
        sample(s, 8, noise, lambda x, t: analytic_velocity(x, torch.tensor(t), torch.tensor(0.3)))
        for s in (stock, few_step(rescale_base=1.0))
    ]
    assert gap(*ends) < 1e-3


@settings(max_examples=20, deadline=None)
@given(step=st.integers(0, 7), seed=st.integers(0, 99))
def test_both_samplers_noise_alike(step: int, seed: int) -> None:
    """What the network sees of a latent that was noised to some level is the same with either."""
    clean, noise = torch.randn(2, 1, 4, 2, 3, 3, generator=torch.Generator().manual_seed(seed))
    ddim, solver = RescaledDDIMScheduler(timestep_spacing="trailing"), few_step()
    solver.set_timesteps(8)
    t = solver.timesteps[step : step + 1]
    seen = solver.scale_model_input(solver.add_noise(clean, noise, t), t[0])
    # The solver puts a little signal (2^-12) into the last timestep, where there is none.
    assert gap(seen, ddim.add_noise(clean, noise, t)) < 1e-3


@pytest.mark.parametrize("name", all_schedulers())
def test_saved_and_loaded_it_steps_the_same(name: str, tmp_path: Path) -> None:
    scheduler = all_schedulers()[name]
    scheduler.save_pretrained(tmp_path)
    loaded = type(scheduler).from_pretrained(tmp_path)
    x = torch.randn(1, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    runs = [sample(s, 5, x, lambda y, t: gaussian_velocity(y, t, 0.2, 1.0)) for s in (scheduler, loaded)]
    assert torch.equal(*runs)


def test_half_precision_samples_are_stepped_in_float32() -> None:
    x, v = torch.randn(2, 1, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0)).half()
    scheduler = RescaledDDIMScheduler(timestep_spacing="trailing", eta=0.0)
    scheduler.set_timesteps(25)
    for t in (999, 39):
        exact = scheduler.step(v.float(), t, x.float()).prev_sample
        rounded = scheduler.step(v, t, x).prev_sample
        assert rounded.dtype == torch.float16
        assert torch.equal(rounded, exact.half())


def test_bad_arguments_are_named() -> None:
    scheduler = RescaledDDIMScheduler()
    with pytest.raises(ValueError, match="set_timesteps"):
        scheduler.step(torch.zeros(1), 1, torch.zeros(1))
    for count in (0, 1000):
        with pytest.raises(ValueError, match=f"not {count}"):
            scheduler.set_timesteps(count)
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="timestep 2 "):
        scheduler.step(torch.zeros(1), 2, torch.zeros(1))
    with pytest.raises(ValueError, match="spacing"):
        RescaledDDIMScheduler(timestep_spacing="linspace")
    with pytest.raises(ValueError, match="epsilon"):
        RescaledDDIMScheduler(prediction_type="epsilon")
    with pytest.raises(ValueError, match="epsilon"):
        RescaledDPMSolverScheduler(prediction_type="epsilon")
