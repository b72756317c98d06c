"""The named configurations: sizes, and that all parts fit together."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from diffusion.configurations import CONFIGURATIONS, get_configuration
from diffusion.errors import UserError
from diffusion.factory import make_scheduler
from diffusion.memory.blueprint import Blueprint
from diffusion.random_weights import make_pipeline
from diffusion.schedulers import RescaledDDIMScheduler, RescaledDPMSolverScheduler


def sizes(name: str) -> dict[str, int]:
    """Number of parameters of each network."""
    modules = Blueprint.of(CONFIGURATIONS[name]).modules
    return {key: sum(p.numel() for p in module.parameters()) for key, module in modules.items()}


def test_official_sizes_are_those_of_the_published_network():
    counts = sizes("official")
    assert counts == {
        "unet": 1_438_854_980,
        "vae": 83_656_168,
        "resampler": 48_787_456,
        "image_encoder": 630_766_080,
    }
    assert 2.2e9 < sum(counts.values()) < 2.21e9


def test_official_keys_are_all_filled_by_the_checkpoint(parity):
    """Every official network tensor has its place, and nothing else is left over, by number of values."""
    shapes = parity.shapes("full")
    size = {key: torch.Size(shape).numel() for key, shape in shapes.items()}
    counts = sizes("official")
    for name, prefix in (
        ("unet", "model.diffusion_model."),
        ("vae", "first_stage_model."),
        ("resampler", "image_proj_model."),
    ):
        assert counts[name] == sum(n for key, n in size.items() if key.startswith(prefix))


def test_lite_repairs_a_clip():
    pipe = make_pipeline("lite")
    assert pipe.image_encoder is None and pipe.fusion is not None
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    rgb, depth = torch.rand(2, 40, 36, 3, generator=generator), torch.rand(2, 40, 36, 1, generator=generator)
    output = pipe(rgb, depth, None, torch.rand(30, 50, 3), num_inference_steps=1, generator=generator)
    assert output.rgb.shape == (2, 40, 36, 3)
    assert output.disparity.shape == output.certainty.shape == (2, 40, 36, 1)
    assert all(values.isfinite().all() for values in (output.rgb, output.disparity, output.certainty))


def test_the_same_seed_makes_the_same_weights_and_leaves_the_global_state_alone():
    before = torch.random.get_rng_state()
    first, second, other = (make_pipeline("lite", seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [p.fusion.stem.weight for p in (first, second, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_samplers():
    official = make_scheduler(CONFIGURATIONS["official"])
    assert isinstance(official, RescaledDDIMScheduler)
    official.set_timesteps(25)
    assert official.timesteps[[0, 1, -1]].tolist() == [961, 921, 1]
    assert not official.config["clean_end"] and official.config["eta"] == 1.0
    assert isinstance(make_scheduler(CONFIGURATIONS["lite"]), RescaledDPMSolverScheduler)
    assert make_scheduler(replace(CONFIGURATIONS["lite"], unet=None)) is None


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(UserError, match="'large'.*official, lite"):
        get_configuration("large")
