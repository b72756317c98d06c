"""The weights that ship: what their card says of them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from diffusion.fuse import drawn_share
from diffusion.inputs.repair_inputs import network_clips
from diffusion.loading import BUNDLED
from diffusion.models.vae import decode_clip, encode_clip
from diffusion.pipeline import RGBDVideoRepairPipeline

DATA = Path(os.environ.get("GENFUSION_DATA_DIR", Path(__file__).resolve().parents[3] / "shared" / "data"))
SIZE = (160, 96)


def photos(scene: str, count: int) -> Tensor:
    """[T, H, W, 3] photos on which nothing was trained."""
    files = sorted((DATA / scene / "images").glob("*"))[:count]
    if not files:
        pytest.skip(f"no photos at {DATA / scene}; set GENFUSION_DATA_DIR")
    pictures = [np.asarray(Image.open(file).convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)) for file in files]
    return torch.from_numpy(np.stack(pictures)).float() / 255


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * (a - b).square().mean().log10())


@pytest.fixture(scope="module")
def pipe() -> RGBDVideoRepairPipeline:
    made = RGBDVideoRepairPipeline.from_pretrained("lite", torch_dtype=torch.float32)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def holey() -> dict[str, Tensor]:
    """Photos as if rendered, their right third and a disc missing."""
    rgb = photos("fox", 4)
    alpha = torch.ones(4, SIZE[1], SIZE[0], 1)
    alpha[:, :, 106:] = 0
    rows, columns = torch.meshgrid(torch.arange(SIZE[1]), torch.arange(SIZE[0]), indexing="ij")
    alpha[:, ((rows - 48) ** 2 + (columns - 40) ** 2 < 18**2)] = 0
    ramp = torch.linspace(2, 4, SIZE[0]).view(1, 1, -1, 1).expand_as(alpha)
    return {"rgb": rgb * alpha, "depth": ramp * alpha, "alpha": alpha, "references": photos("fox", 8)[5]}


def drawn(pipe: RGBDVideoRepairPipeline, holey: dict[str, Tensor], seed: int):
    return pipe(**holey, generator=torch.Generator().manual_seed(seed))


def test_all_of_them_take_32_mib_at_most():
    total = sum(file.stat().st_size for file in BUNDLED.rglob("*") if file.is_file())
    assert total <= 32 * 2**20, f"{total / 2**20:.1f} MiB"


@pytest.mark.parametrize("scene", ["fox", "llff_fern"])
def test_the_autoencoder_keeps_photographs(pipe, scene):
    rgb = photos(scene, 6)
    depth = 2 + rgb.mean(-1, keepdim=True)
    frames, _ = network_clips(pipe_inputs(rgb, depth), "percentile", has_depth=True)
    again = decode_clip(pipe.vae, encode_clip(pipe.vae, frames, chunk=6), 6)
    found = psnr((again[:, :3] + 1) / 2, (frames[:, :3] + 1) / 2)
    assert found >= 30, f"{found:.1f} dB"


def pipe_inputs(rgb: Tensor, depth: Tensor):
    from diffusion.inputs.repair_inputs import RepairInputs

    return RepairInputs(rgb[None], depth[None], None, [], None)


@pytest.mark.slow
def test_seeds_change_what_is_unsure_and_nothing_else(pipe, holey):
    first, again, second = (drawn(pipe, holey, seed) for seed in (0, 0, 1))
    assert torch.equal(first.rgb, again.rgb)
    share = drawn_share(first.certainty) * (1 - holey["alpha"])
    assert share.mean() > 0.05 and (share == 0).float().mean() > 0.1
    off = (first.rgb - second.rgb).abs().mean(-1, keepdim=True)
    assert off[share == 0].max() == 0
    assert float((off * share).sum() / share.sum()) > 0.01


def test_what_is_drawn_has_the_detail_of_photographs_and_costs_little(pipe, holey):
    """Fused frames are smooth in holes, or ring."""
    fused = pipe(**holey, num_inference_steps=0)
    share = drawn_share(fused.certainty) * (1 - holey["alpha"])
    truth, made = photos("fox", 4), drawn(pipe, holey, 0).rgb
    assert psnr(made, truth) > psnr(fused.rgb, truth) - 1.0
    rough = [float(((x - x.roll(1, 2)).abs().mean(-1, keepdim=True) * share).sum()) for x in (made, truth)]
    assert 0.4 < rough[0] / rough[1] < 1.6


def test_a_perfect_latent_beats_the_fused_frame(pipe, holey):
    """What the denoiser could reach with this autoencoder."""
    fused = RGBDVideoRepairPipeline(fusion=pipe.fusion)(**{k: v for k, v in holey.items() if k != "references"})
    truth = photos("fox", 4)
    frames, _ = network_clips(pipe_inputs(truth, torch.full_like(holey["depth"], 3.0)), "percentile", has_depth=True)
    perfect = ((decode_clip(pipe.vae, encode_clip(pipe.vae, frames, chunk=4), 4)[0, :3] + 1) / 2).movedim(0, -1)
    best = torch.lerp(fused.rgb, perfect, drawn_share(fused.certainty) * (1 - holey["alpha"]))
    assert psnr(best, truth) > psnr(fused.rgb, truth) + 1
