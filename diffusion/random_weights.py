"""Whole pipelines with random weights, for tests, measurements and as the start of training."""

from __future__ import annotations

import torch
from torch import nn

from diffusion.configurations import get_configuration
from diffusion.factory import make_modules, make_scheduler
from diffusion.pipeline import RGBDVideoRepairPipeline


def make_pipeline(name: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> RGBDVideoRepairPipeline:
    """A pipeline with random weights on the CPU, for tests, measurements and as the start of training.

    Args:
        name: one of `CONFIGURATIONS`.
        seed: determines the weights; the global random state is left alone.
        dtype: of the networks.

    Raises:
        UserError: for another name.
    """
    configuration = get_configuration(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        modules = make_modules(configuration)
    for module in modules.values():
        # diffusers' own `to` warns at every change of dtype, even where it has nothing to say.
        nn.Module.to(module.eval(), dtype=dtype)
    scheduler = make_scheduler(configuration)
    return RGBDVideoRepairPipeline(**modules, scheduler=scheduler, **configuration.settings)  # pyright: ignore[reportArgumentType]
