"""Holes filled from their surroundings, against analytic cases and the classical repairer's own filling."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion.filling import fill_clip, pull_push
from genfusion_ns.loop.classical import fill


def scene(seed: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Colours [H, W, 3], opacity [H, W, 1] with holes, and the frame over black [1, 4, 1, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    rgb = torch.rand(height, width, 3, generator=generator)
    alpha = (torch.rand(height, width, 1, generator=generator) * 2 - 0.5).clamp(0, 1)
    disparity = torch.where(alpha > 0, 0.3, -1.0)
    frame = torch.cat([2 * rgb * alpha - 1, disparity], dim=-1).permute(2, 0, 1)[None, :, None]
    return rgb, alpha, frame


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 999))
def test_what_is_opaque_stays_and_all_else_lies_between_what_is_seen(height: int, width: int, seed: int) -> None:
    _, alpha, frame = scene(seed, height, width)
    filled = fill_clip(frame, alpha.permute(2, 0, 1)[None, :, None])
    opaque = (alpha[..., 0] == 1)[None, None, None].expand_as(frame)
    assert torch.allclose(filled[opaque], frame[opaque], atol=1e-5)
    assert filled.isfinite().all() and filled.min() >= -1 and filled.max() <= 1
    if (alpha > 0).any():
        assert torch.allclose(filled[:, 3], torch.full_like(filled[:, 3], 0.3), atol=1e-3)


def test_one_colour_is_continued_everywhere() -> None:
    alpha = torch.zeros(1, 1, 1, 13, 21)
    alpha[..., :5, :9] = 1
    alpha[..., 6:8, :4] = 0.4
    frame = torch.cat([2 * (0.7 * alpha.expand(-1, 3, -1, -1, -1)) - 1, torch.where(alpha > 0, 0.1, -1.0)], dim=1)
    filled = fill_clip(frame, alpha)
    assert torch.allclose(filled[:, :3], torch.full_like(filled[:, :3], 0.4), atol=1e-5)


def test_nothing_seen_stays_black() -> None:
    frame = torch.full((1, 4, 2, 8, 8), -1.0)
    assert torch.equal(fill_clip(frame, torch.zeros(1, 1, 2, 8, 8)), frame)


def test_agrees_with_the_classical_filling() -> None:
    coarse = torch.rand(1, 3, 3, 5, generator=torch.Generator().manual_seed(1))
    rgb = torch.nn.functional.interpolate(coarse, size=(32, 64), mode="bilinear")[0].permute(1, 2, 0)
    alpha = torch.ones(32, 64, 1)
    alpha[8:20, 10:40] = 0
    ours = pull_push((rgb * alpha).permute(2, 0, 1)[None], alpha.permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    theirs = fill((rgb * alpha).numpy(), alpha.numpy())
    hole = np.broadcast_to(alpha.numpy() == 0, ours.shape)
    assert np.abs(ours - theirs)[hole].mean() < 0.03
