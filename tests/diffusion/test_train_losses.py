"""What training minimises, against formulas."""

from __future__ import annotations

import math

import pytest
import torch

from diffusion.schedulers import RescaledDDIMScheduler
from diffusion.train.losses import (
    PIXEL_FLOOR,
    clean_estimate,
    draw_timesteps,
    ema_decay,
    kl_divergence,
    learning_rate,
    log_frame_error,
    reconstruction,
    relative_error,
)


def test_learning_rate_rises_and_falls() -> None:
    rates = [learning_rate(k, 100, 2.0, 10, "cosine") for k in range(100)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == pytest.approx(2.0) and rates[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert learning_rate(99, 100, 2.0, 10, "constant") == 2.0


def test_average_forgets_the_start_first() -> None:
    assert ema_decay(0, 0.999) == pytest.approx(0.1)
    assert ema_decay(10**6, 0.999) == 0.999


def test_divergence_matches_torch() -> None:
    mean, logvar = torch.randn(50), torch.randn(50)
    normal = torch.distributions.Normal(mean, (0.5 * logvar).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).mean()
    assert kl_divergence(mean, logvar) == pytest.approx(float(expected), rel=1e-5)


def test_velocity_says_the_clean_latent() -> None:
    schedule = RescaledDDIMScheduler(rescale_base=1.0)
    clean, noise = torch.randn(3, 4), torch.randn(3, 4)
    timesteps = torch.tensor([5, 600, 999])
    noisy, velocity = (f(clean, noise, timesteps) for f in (schedule.add_noise, schedule.get_velocity))
    abar = schedule.alphas_cumprod[timesteps][:, None]
    assert torch.allclose(clean_estimate(noisy, velocity, abar), clean, atol=1e-5)
    # at the last timestep nothing of the clean latent is left in the input: v-prediction is its regression
    assert torch.allclose(velocity[2], -clean[2], atol=1e-6)


def test_timesteps_are_last_as_often_as_asked() -> None:
    drawn = draw_timesteps(4000, 1000, 0.75, torch.Generator().manual_seed(0))
    assert float((drawn == 999).float().mean()) == pytest.approx(0.75, abs=0.03)
    assert int(drawn.min()) < 20
    assert (draw_timesteps(50, 1000, 1.0, torch.Generator()) == 999).all()


def test_reconstruction_counts_disparity_only_where_it_is_known() -> None:
    output, target = torch.zeros(1, 4, 1, 2, 2), torch.zeros(1, 4, 1, 2, 2)
    target[:, 3, :, 0] = 1.0
    known = torch.ones(1, 1, 1, 2, 2)
    assert reconstruction(output, target, known, 0.5) == pytest.approx(0.25)
    known[:, :, :, 0] = 0
    assert reconstruction(output, target, known, 0.5) == 0
    target[:, :3] = 0.2
    assert reconstruction(output[:, :3], target[:, :3], known, 0.5) == pytest.approx(0.2)
    assert reconstruction(output, target, known * 0, 0.5).isfinite().all()


def test_relative_errors_have_the_gradient_of_the_gain() -> None:
    error = torch.tensor([0.2, 0.05], requires_grad=True)
    (gradient,) = torch.autograd.grad(relative_error(error, error, 0.0).sum(), error)
    (gain,) = torch.autograd.grad(error.log().sum(), error)
    assert torch.allclose(gradient, gain)
    assert float(relative_error(error, error, 0.05)[1]) == pytest.approx(0.5)


def test_log_errors_count_decibels_alike_in_hard_and_easy_frames() -> None:
    target = torch.zeros(1, 3, 2, 4, 4)
    known = torch.ones(1, 1, 2, 4, 4)
    # far above the floor, a frame twice as far off costs log 2, whichever frame it is
    far = torch.tensor([100.0, 10.0]).reshape(1, 1, 2, 1, 1).expand_as(target)
    found = log_frame_error(far, target, known, 0.0)
    assert float(found) == pytest.approx((math.log(100.0) + math.log(10.0)) / 2, abs=2e-3)
    for frame in range(2):
        doubled = far.clone()
        doubled[:, :, frame] *= 2
        more = log_frame_error(doubled, target, known, 0.0) - found
        assert float(more) == pytest.approx(math.log(2) / 2, abs=2e-3)
    # a frame that is right already has nothing to gain
    assert float(log_frame_error(target, target, known, 0.0)) == pytest.approx(math.log(PIXEL_FLOOR), abs=0.06)


def test_frames_without_weight_cost_nothing() -> None:
    target = torch.zeros(1, 3, 2, 4, 4)
    known = torch.ones(1, 1, 2, 4, 4)
    output = torch.tensor([0.3, 0.5]).reshape(1, 1, 2, 1, 1).expand_as(target)
    only_first = log_frame_error(output, target, known, 0.0, weight=torch.tensor([[1.0, 0.0]]))
    assert float(only_first) == pytest.approx(math.log(0.3 + PIXEL_FLOOR), abs=1e-4)
    assert float(log_frame_error(output, target, known, 0.0, weight=torch.zeros(1, 2))) == 0.0
