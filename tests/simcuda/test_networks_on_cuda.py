"""Training of the repair networks on the make-believe device, with validation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from simulated_cuda import SimTensor
from tiny_networks import LITE, OFFICIAL, ONE_STEP, PATCHES, tiny_pipeline

from diffusion.configurations import CONFIGURATIONS
from diffusion.pipeline import RGBDVideoRepairPipeline
from diffusion.train import trainer
from diffusion.train.command import train_chooser, train_denoiser, train_vae
from diffusion.train.config import ChooserConfig, RepairConfig, Stage, VaeConfig
from diffusion.train.shards import Pair, write_shard

STAGES = (Stage(1, frames=2, height=16, width=16),)


def pair(seed: int) -> Pair:
    """A clip of noise with a hole."""
    generator = torch.Generator().manual_seed(seed)
    target = (torch.rand(2, 24, 32, 3, generator=generator) * 255).to(torch.uint8)
    depth = (1 + torch.rand(2, 24, 32, 1, generator=generator)).half()
    shown = torch.full((2, 24, 32, 1), 255, dtype=torch.uint8)
    shown[:, :, :12] = 0
    warped = torch.cat([target, shown, shown, shown, target, shown], dim=-1)
    photo, origin = target[:1].clone(), {"scene": str(seed), "variant": "half"}
    return Pair(target // 2, depth.clone(), shown, target, depth, photo, warped, origin)


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, configuration in (("tiny", LITE), ("tiny-patches", PATCHES), ("tiny-one-step", ONE_STEP)):
        monkeypatch.setitem(CONFIGURATIONS, name, configuration)
    folder = tmp_path / "pairs"
    folder.mkdir()
    for shard in range(2):
        write_shard(folder / f"{shard}.safetensors", [pair(2 * shard), pair(2 * shard + 1)])
    return folder


@pytest.fixture
def moved(cuda, monkeypatch):
    """Sees that networks train on the device; accelerate remembers the device of the first run in a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield from _watched(monkeypatch)
    AcceleratorState._reset_state(reset_partial_state=True)


def _watched(monkeypatch):
    seen = []
    loop = trainer.train

    def watched(task, *args, **kwargs):
        state = loop(task, *args, **kwargs)
        seen.append(all(isinstance(p, SimTensor) for p in task.networks.parameters()))
        return state

    monkeypatch.setattr("diffusion.train.command.train", watched)
    yield seen


def options(pairs: Path, tmp_path: Path) -> dict:
    common = {"pairs": pairs, "val_pairs": pairs, "validate_every": 1, "validation_clips": 1, "stages": STAGES}
    return {**common, "warmup": 1, "save_every": 100, "workers": 0, "output": tmp_path / "out"}


@pytest.mark.parametrize("configuration", ["tiny", "tiny-patches"])
def test_the_autoencoder(moved, pairs, tmp_path, configuration):
    out = train_vae(VaeConfig(configuration=configuration, **options(pairs, tmp_path)))
    assert json.loads((out / "config.json").read_text())["scaling_factor"] > 0
    assert moved == ([] if configuration == "tiny-patches" else [True])  # patches are fitted, on the CPU


def test_the_denoiser(moved, pairs, tmp_path):
    out = train_denoiser(RepairConfig(start="tiny-one-step", **options(pairs, tmp_path)))
    assert moved == [True]
    assert RGBDVideoRepairPipeline.from_pretrained(out).unet.dtype == torch.float32


def test_the_denoiser_from_official_weights(moved, pairs, tmp_path):
    tiny_pipeline(OFFICIAL).save_pretrained(tmp_path / "start")
    config = RepairConfig(start=str(tmp_path / "start"), train_decoder=False, **options(pairs, tmp_path))
    out = train_denoiser(config)
    assert moved == [True]
    assert RGBDVideoRepairPipeline.from_pretrained(out).image_encoder is not None


def test_the_chooser(moved, pairs, tmp_path):
    train_chooser(ChooserConfig(start="tiny-one-step", **options(pairs, tmp_path)))
    assert moved == [True]
