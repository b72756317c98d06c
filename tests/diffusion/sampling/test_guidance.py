"""Guidance against the official function's recorded outputs, and its properties."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_data import SLACK, Parity, gap

from diffusion.sampling.guidance import guide, rescale


def test_rescale_is_the_official_one(parity: Parity) -> None:
    io = parity.io("tiny_ddim_io")
    (name,) = (name for name in io if name.startswith("rescale.out_"))
    factor = float(name.removeprefix("rescale.out_"))
    assert gap(rescale(io["rescale.cfg"], io["rescale.cond"], factor), io[name]) < 2e-6 * SLACK


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(0, 10), factor=st.floats(0, 1), seed=st.integers(0, 99))
def test_properties(scale: float, factor: float, seed: int) -> None:
    c, u = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(seed))
    assert gap(guide(c, u, 1.0, 0.0), c) < 1e-6
    assert gap(guide(c, u, 0.0, 0.0), u) < 1e-6
    guided = guide(c, u, scale, 0.0)
    assert gap(rescale(guided, c, 0.0), guided) < 1e-6
    # Full rescale gives every clip of the batch the conditional one's contrast.
    spread = rescale(guided, c, 1.0).flatten(1).std(dim=1)
    assert gap(spread, c.flatten(1).std(dim=1)) < 1e-5
    # It only scales: a clip's prediction does not depend on the others in the batch.
    assert gap(guide(c, u, scale, factor)[:1], guide(c[:1], u[:1], scale, factor)) < 1e-5


def test_a_constant_prediction_is_kept() -> None:
    flat = torch.full((1, 4, 2, 3, 3), 0.25)
    assert torch.equal(rescale(flat, torch.randn_like(flat), 0.7), flat)
