"""Holes filled from their surroundings, against analytic cases and the classical repairer's own filling."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion.inputs.filling import filled, pull_push
from genfusion_ns.loop.repairers.classical import fill


def test_one_colour_is_continued_everywhere() -> None:
    alpha = torch.zeros(1, 1, 13, 21)
    alpha[..., :5, :9] = 1
    alpha[..., 6:8, :4] = 0.4
    guess = pull_push(0.7 * alpha.expand(-1, 3, -1, -1), alpha)
    assert torch.allclose(guess, torch.full_like(guess, 0.7), atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 999))
def test_guesses_lie_between_what_is_seen(height: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = 0.2 + 0.5 * torch.rand(1, 3, height, width, generator=generator)
    alpha = (torch.rand(1, 1, height, width, generator=generator) * 2 - 0.5).clamp(0, 1)
    guess = pull_push(values * alpha, alpha)
    if (alpha > 0).any():
        assert guess.min() >= 0.2 - 1e-4 and guess.max() <= 0.7 + 1e-4
    else:
        assert (guess == 0).all()


def test_agrees_with_the_classical_filling() -> None:
    coarse = torch.rand(1, 3, 3, 5, generator=torch.Generator().manual_seed(1))
    rgb = torch.nn.functional.interpolate(coarse, size=(32, 64), mode="bilinear")[0].permute(1, 2, 0)
    alpha = torch.ones(32, 64, 1)
    alpha[8:20, 10:40] = 0
    ours = pull_push((rgb * alpha).permute(2, 0, 1)[None], alpha.permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    theirs = fill((rgb * alpha).numpy(), alpha.numpy())
    hole = np.broadcast_to(alpha.numpy() == 0, ours.shape)
    assert np.abs(ours - theirs)[hole].mean() < 0.03


def test_rounding_of_an_empty_render_lights_nothing_up():
    """uint8 may make 1/255 of a colour and 0 of an opacity that were both all but zero."""
    rgb, alpha = torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)
    rgb[..., 0:4] = 1 / 255
    alpha[..., 12, 12] = 1 / 255
    assert filled(rgb, alpha).max() <= 1
