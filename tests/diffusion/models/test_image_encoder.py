"""The image encoder against the official network's recorded outputs."""

from __future__ import annotations

import pytest
import torch
from parity_data import SLACK, Parity, gap
from transformers import CLIPVisionModel

from diffusion.inputs.preprocess import CLIP_MEAN, CLIP_STD, clip_pixels
from diffusion.models.image_encoder import image_tokens, open_clip_vision_config
from diffusion.models.resampler import Resampler

TOLERANCE = 5e-6 * SLACK


@pytest.mark.slow
@torch.no_grad()
def test_tokens_are_the_official_ones(parity: Parity, image_encoder: CLIPVisionModel) -> None:
    io = parity.io("tiny_clip_image_io")
    assert gap(image_tokens(image_encoder, io["down.preprocessed"]), io["down.tokens"]) < TOLERANCE
    # Of the pair of images, only the first one's preprocessed pixels are recorded.
    size = io["mixed.preprocessed"].shape[-1]
    both = image_tokens(image_encoder, clip_pixels(io["mixed.image"], size))
    assert gap(both, io["mixed.tokens"]) < TOLERANCE


@torch.no_grad()
def test_context_of_an_image_and_of_none(parity: Parity, image_encoder: CLIPVisionModel, resampler: Resampler) -> None:
    io = parity.io("tiny_clip_image_io")
    tokens = image_tokens(image_encoder, io["down.preprocessed"])
    assert gap(resampler(tokens), io["down.context"]) < TOLERANCE
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    grey = ((0.5 - mean) / std).expand_as(io["down.preprocessed"])
    tokens = image_tokens(image_encoder, grey)
    assert gap(tokens, io["zero.tokens"]) < TOLERANCE
    assert gap(resampler(tokens), io["zero.context"]) < TOLERANCE


def test_the_defaults_are_the_official_size() -> None:
    with torch.device("meta"):
        model = CLIPVisionModel(open_clip_vision_config())
    assert sum(p.numel() for p in model.parameters()) == 630_766_080
