"""Guidance settings and the start from the noised renderings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from diffusion.errors import UserError
from diffusion.sampling.sample import Denoiser, Guidance, RenderStart
from diffusion.schedulers import RescaledDDIMScheduler, make_few_step_scheduler


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def start(strength: float, opacity: Tensor | None = None) -> RenderStart:
    return RenderStart(noise(0, 1, 2, 1, 1, 4), noise(1, 1, 2, 1, 1, 4), strength, opacity)


@pytest.fixture(params=["ddim", "few-step"])
def scheduler(request) -> Any:
    made = RescaledDDIMScheduler() if request.param == "ddim" else make_few_step_scheduler()
    made.set_timesteps(10)
    return made


@pytest.mark.parametrize(("strength", "first"), [(1.0, 0), (0.99, 0), (0.7, 3), (0.5, 5), (0.01, 9)])
def test_without_opacity_the_held_steps_are_left_out(strength, first):
    assert start(strength).first_step(10) == first


def test_with_opacity_no_step_is_left_out():
    assert start(0.5, torch.ones(1, 1, 1, 1, 4)).first_step(10) == 0


def test_full_strength_imposes_nothing(scheduler):
    sample = noise(2, 1, 2, 1, 1, 4)
    for index in range(10):
        assert start(1.0).impose(sample, index, 10, scheduler) is sample


def test_pixels_are_released_in_the_order_of_their_opacity(scheduler):
    opacity = torch.tensor([0.0, 0.25, 0.5, 1.0]).reshape(1, 1, 1, 1, 4)
    begin = start(0.2, opacity)
    sample = noise(2, 1, 2, 1, 1, 4)
    held_until = [-1, 2, 4, 8]  # round(10 * opacity * 0.8); holes are never held
    for index in range(10):
        out = begin.impose(sample, index, 10, scheduler)
        noised = scheduler.add_noise(begin.latents, begin.noise, scheduler.timesteps[index : index + 1])
        for pixel, last in enumerate(held_until):
            wanted = noised if index <= last else sample
            assert torch.equal(out[..., pixel], wanted[..., pixel]), (index, pixel)


def test_the_last_step_is_always_the_networks():
    begin = start(1e-6, torch.ones(1, 1, 1, 1, 4))
    scheduler = RescaledDDIMScheduler()
    scheduler.set_timesteps(3)
    assert begin._held_steps(torch.ones(()), 3) == 2


@pytest.mark.parametrize(
    ("timestep", "on"), [(0, False), (199, False), (200, True), (500, True), (600, True), (601, False)]
)
def test_the_interval_of_guidance(timestep, on):
    assert Guidance(2.0, interval=(0.2, 0.6)).is_on(timestep, 1000) == on
    assert not Guidance(1.0, interval=(0.2, 0.6)).is_on(timestep, 1000)


def test_senseless_guidance_is_refused():
    for kwargs in ({"rescale": 2.0}, {"interval": (-0.1, 1.0)}, {"scale": float("inf")}):
        with pytest.raises(UserError, match="expected"):
            Guidance(**kwargs)


def test_the_denoiser_guides_the_two_branches():
    """A network that returns its context's first number, whatever it sees."""

    def network(sample: Tensor, timestep: Tensor, context: Tensor, **kwargs: Any) -> tuple[Tensor]:
        return (context[:, 0, 0].reshape(-1, 1, 1, 1, 1).expand(-1, 2, *sample.shape[2:]),)

    unet: Any = type("Unet", (), {"dtype": torch.float32, "__call__": staticmethod(network)})()
    sample = noise(0, 1, 2, 1, 2, 2)
    for batched in (True, False):
        denoiser = Denoiser(
            unet,
            conditions=torch.zeros(1, 3, 1, 2, 2),
            context=torch.full((1, 1, 1), 5.0),
            null_context=torch.full((1, 1, 1), 2.0),
            guidance=Guidance(4.0, batched=batched),
            train_timesteps=1000,
        )
        assert (denoiser(sample, torch.tensor(500)) == 2 + 4 * (5 - 2)).all()
        denoiser.null_context = None
        assert (denoiser(sample, torch.tensor(500)) == 5).all()
