"""The whole official `repair` call, step by step, from converted weights and recorded noise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from parity_data import SLACK, Parity, gap
from torch import Tensor
from transformers import CLIPVisionModel

from diffusion.models.resampler import Resampler
from diffusion.models.unet import RGBDVideoUNet
from diffusion.models.vae import decode_clip, encode_clip
from diffusion.sampling.conditioning import clip_context
from diffusion.sampling.guidance import guide
from diffusion.schedulers import RescaledDDIMScheduler

pytestmark = pytest.mark.slow

GUIDANCE_RESCALE = 0.7


@pytest.fixture(scope="module")
def io(parity: Parity) -> dict[str, Tensor]:
    return parity.io("tiny_e2e_io")


@torch.no_grad()
def test_contexts(io: dict[str, Tensor], image_encoder: CLIPVisionModel, resampler: Resampler) -> None:
    photo = io["ref_frames"][:, 0]
    assert gap(clip_context(image_encoder, resampler, [photo]), io["context_cond"]) < 5e-6 * SLACK
    grey = torch.zeros_like(photo)
    assert gap(clip_context(image_encoder, resampler, [grey]), io["context_uncond"]) < 5e-6 * SLACK


@torch.no_grad()
def test_every_step_of_the_repair(
    io: dict[str, Tensor], parity: Parity, converted: Path, unet: RGBDVideoUNet, vae: AutoencoderKL
) -> None:
    clip = torch.cat([io["artifact_rgb"], io["artifact_depth"]])[None]
    concat = encode_clip(vae, clip, io["posterior_noise"].transpose(0, 1)[None])
    assert gap(concat, io["concat_latents"]) < 1e-5 * SLACK

    scheduler = RescaledDDIMScheduler.from_pretrained(converted / "scheduler")
    scheduler.set_timesteps(parity.config["e2e_steps"])
    assert torch.equal(scheduler.timesteps, io["timesteps"])
    context = torch.cat([io["context_cond"], io["context_uncond"]])
    x = io["x_T"]
    for index, t in enumerate(scheduler.timesteps):
        both = unet(torch.cat([x, concat], 1).repeat(2, 1, 1, 1, 1), t, context).sample
        v = guide(*both.chunk(2), float(io["guidance_scale"]), GUIDANCE_RESCALE)
        out = scheduler.step(v, t, x, variance_noise=io["noise"][index])
        x = out.prev_sample
        assert gap(x, io["x"][index]) < 4e-6 * SLACK, index
        assert gap(out.pred_original_sample, io["pred_x0"][index]) < 4e-6 * SLACK, index

    decoded = decode_clip(vae, x)[0].clamp(-1, 1)
    assert gap(decoded[:3], io["orig_repaired_rgb"]) < 6e-6 * SLACK
    assert gap(decoded[3:], io["orig_repaired_depth"]) < 6e-6 * SLACK
    frames = (decoded + 1) / 2
    assert gap(frames[:3], io["repaired_rgb"]) < 6e-6 * SLACK
    assert gap(frames[3:] + 1e-6, 1 / io["repaired_depth"]) < 6e-6 * SLACK
