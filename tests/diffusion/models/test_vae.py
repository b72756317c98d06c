"""The autoencoder against the official network's recorded outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from parity_data import SLACK, Parity, gap
from safetensors.torch import load_file

from diffusion.convert.run import convert
from diffusion.models.vae import SCALING_FACTOR, decode_clip, encode_clip, make_vae


@torch.no_grad()
def test_encoder_and_decoder_are_the_official_ones(parity: Parity, vae: AutoencoderKL) -> None:
    io = parity.io("tiny_vae_io")
    posterior = vae.encode(io["encode.x"]).latent_dist
    for name in ("mean", "logvar", "std"):
        assert gap(getattr(posterior, name), io[f"encode.{name}"]) < 1e-5 * SLACK, name
    assert gap(torch.cat([posterior.mean, posterior.logvar], 1), io["encode.moments"]) < 1e-5 * SLACK
    assert gap(vae.decode(io["decode.z"]).sample, io["decode.out"]) < 1e-5 * SLACK


@pytest.mark.parametrize("chunk", [1, 3, 100])
@torch.no_grad()
def test_clips_are_the_official_ones_for_every_chunk(parity: Parity, vae: AutoencoderKL, chunk: int) -> None:
    io = parity.io("tiny_vae_io")
    noise = io["video.posterior_noise"].transpose(0, 1)[None]
    latents = encode_clip(vae, io["video.x"], noise, chunk=chunk)
    assert gap(latents, io["video.latents"]) < 1e-5 * SLACK
    assert gap(decode_clip(vae, io["video.latents"], chunk), io["video.decoded"]) < 1e-5 * SLACK


@pytest.mark.slow
@torch.no_grad()
def test_weights_under_ldm_names(parity: Parity, tmp_path: Path) -> None:
    """Original DynamiCrafter files name the autoencoder's tensors so; here as part of a whole checkpoint."""
    theirs = load_file(parity.folder / "tiny_vae_ldm_weights.safetensors")
    kept = {k: v for k, v in parity.weights().items() if not k.startswith("first_stage_model.")}
    torch.save({"state_dict": kept | theirs}, tmp_path / "dynamicrafter.ckpt")
    convert(tmp_path / "dynamicrafter.ckpt", tmp_path / "out", dtype="fp32", hints=parity.hints())
    vae = AutoencoderKL.from_pretrained(tmp_path / "out" / "vae").eval()
    io = parity.io("tiny_vae_ldm_io")
    posterior = vae.encode(io["encode.x"]).latent_dist
    assert gap(posterior.mean, io["encode.mean"]) < 6e-6 * SLACK
    assert gap(posterior.logvar, io["encode.logvar"]) < 6e-6 * SLACK
    assert gap(vae.decode(io["decode.z"]).sample, io["decode.out"]) < 6e-6 * SLACK


@torch.no_grad()
def test_without_noise_it_is_the_mean_whatever_the_chunk(vae: AutoencoderKL, parity: Parity) -> None:
    clip = parity.io("tiny_vae_io")["video.x"]
    mean = encode_clip(vae, clip, chunk=2)
    assert gap(mean, encode_clip(vae, clip, torch.zeros_like(mean), chunk=3)) < 1e-5
    assert gap(mean, encode_clip(vae, clip, torch.ones_like(mean))) > 0.01 * SCALING_FACTOR


@pytest.mark.parametrize("channels", [3, 4])
def test_image_channels_are_a_choice(channels: int) -> None:
    vae = make_vae(channels, block_out_channels=(8, 8, 16), layers_per_block=1, norm_num_groups=4)
    clip = torch.rand(1, channels, 2, 16, 8) * 2 - 1
    with torch.no_grad():
        latents = encode_clip(vae, clip)
        assert latents.shape == (1, 4, 2, 4, 2)
        assert decode_clip(vae, latents).shape == clip.shape


def test_the_defaults_are_the_official_size() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in make_vae().parameters()) == 83_656_168
