"""The guided denoiser."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffusion.sampling.sample import Denoiser


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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
            scale=4.0,
            batched=batched,
        )
        assert (denoiser(sample, torch.tensor(500)) == 2 + 4 * (5 - 2)).all()
        denoiser.null_context = None
        assert (denoiser(sample, torch.tensor(500)) == 5).all()
