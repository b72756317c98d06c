"""Parity data, and the networks converted from it.

The folder is ../shared/parity beside the repository, or GENFUSION_PARITY_DIR.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from parity_data import Parity
from transformers import CLIPVisionModel

from diffusion.convert.run import convert
from diffusion.models.resampler import Resampler
from diffusion.models.unet import RGBDVideoUNet

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def parity() -> Parity:
    folder = Path(os.environ.get("GENFUSION_PARITY_DIR", REPOSITORY.parent / "shared" / "parity"))
    if not (folder / "config.json").is_file():
        pytest.skip(f"no parity data at {folder}; set GENFUSION_PARITY_DIR")
    return Parity(folder, json.loads((folder / "config.json").read_text()))


@pytest.fixture(scope="session")
def checkpoint(parity: Parity, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Lightning file of the parity weights."""
    path = tmp_path_factory.mktemp("checkpoint") / "epoch=59-step=34000.ckpt"
    torch.save({"state_dict": parity.weights(), "epoch": 59, "global_step": 34000}, path)
    return path


@pytest.fixture(scope="session")
def converted(parity: Parity, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That file, converted in float32."""
    out = tmp_path_factory.mktemp("converted") / "pipeline"
    convert(checkpoint, out, dtype="fp32", hints=parity.hints())
    return out


@pytest.fixture(scope="session")
def unet(converted: Path) -> RGBDVideoUNet:
    return RGBDVideoUNet.from_pretrained(converted / "unet").eval()


@pytest.fixture(scope="session")
def vae(converted: Path) -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(converted / "vae").eval()


@pytest.fixture(scope="session")
def image_encoder(converted: Path) -> CLIPVisionModel:
    return CLIPVisionModel.from_pretrained(converted / "image_encoder").eval()


@pytest.fixture(scope="session")
def resampler(converted: Path) -> Resampler:
    return Resampler.from_pretrained(converted / "resampler").eval()
