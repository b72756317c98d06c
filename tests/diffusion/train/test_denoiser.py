"""The bundled denoiser: the network, its batches, its loss and its training."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest
import torch
from tiny_networks import BOTH, tiny_pipeline
from toy_fits import write_toys

from diffusion.fuse import DRAWN_WHOLLY, drawn_share
from diffusion.inputs.repair_inputs import RepairInputs, network_clips
from diffusion.models.denoiser import LiteVideoUNet
from diffusion.models.fusion import FusionNetwork
from diffusion.models.patch_autoencoder import PatchAutoencoder
from diffusion.models.vae import decode_clip, encode_clip
from diffusion.train import denoiser
from diffusion.train.denoiser import DenoiserConfig, denoiser_loss
from diffusion.train.denoiser_clips import DenoiserBatch, FusedFits, make_batch, network_clip
from diffusion.train.denoiser_scores import sharpness
from diffusion.train.fit_clips import Window

WINDOW = Window(3, 16, 24)


@pytest.fixture(scope="module")
def network():
    return tiny_pipeline(BOTH).unet


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_toys(tmp_path_factory.mktemp("fits"), 3)


@pytest.fixture(scope="module")
def fits():
    torch.manual_seed(0)
    return FusedFits(FusionNetwork(widths=(4, 8), source_width=4, blocks=(1, 1)))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample(frames: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    random = seeded(frames)
    return torch.randn(2, 17, frames, 4, 6, generator=random), torch.randn(2, 8, 32, generator=random)


# -- the network -----------------------------------------------------------------------------------------------------


def test_an_untrained_network_predicts_nothing():
    noisy, tokens = sample()
    network = LiteVideoUNet(17, 8, (16, 32), 1, 32, 8, 8)
    assert network(noisy, 7, tokens).sample.abs().max() == 0


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_clips_of_a_batch_do_not_touch_each_other(network, frames):
    noisy, tokens = sample(frames)
    moments = torch.tensor([3, 900])
    both = network(noisy, moments, tokens, return_dict=False)[0]
    assert both.shape == (2, 8, frames, 4, 6)
    for i in (0, 1):
        alone = network(noisy[i : i + 1], moments[i], tokens[i : i + 1]).sample
        torch.testing.assert_close(alone[0], both[i], atol=1e-5, rtol=1e-4)


def test_timestep_photos_and_other_frames_all_matter(network):
    noisy, tokens = sample()
    base = network(noisy, 500, tokens).sample
    assert not torch.allclose(network(noisy, 20, tokens).sample, base)
    assert not torch.allclose(network(noisy, 500, tokens.flip(-1)).sample, base)
    changed = noisy.clone()
    changed[:, :, 2] += 1
    assert not torch.allclose(network(changed, 500, tokens).sample[:, :, 1], base[:, :, 1])


# -- batches ---------------------------------------------------------------------------------------------------------


def test_a_step_has_one_batch(fits, paths):
    first, again, other = (make_batch(fits, paths, 0.4, 5, step, 2, WINDOW) for step in (7, 7, 8))
    for f in fields(DenoiserBatch)[:3]:
        assert torch.equal(getattr(first, f.name), getattr(again, f.name))
    assert not torch.equal(first.target, other.target)
    assert first.fused.shape == first.target.shape == (2, 4, 3, 16, 24) and first.certainty.shape == (2, 1, 3, 16, 24)
    for values in (first.fused, first.target):
        assert values.min() >= -1 and values.max() <= 1


def test_the_networks_see_in_training_what_the_pipeline_shows_them(fits, paths):
    maps = fits.clip(paths[0], 0, [0, 2], (0, 0, 16, 24))
    rgb, disparity, certainty = (x.movedim(1, -1)[None] for x in maps[:3])
    seen = RepairInputs(rgb, 1 / disparity.clamp_min(1e-6), certainty, [], None)
    frames, opacity = network_clips(seen, "percentile", has_depth=True)
    batch = network_clip(maps, torch.zeros(3, 8, 8))
    torch.testing.assert_close(batch.fused, frames)
    torch.testing.assert_close(batch.certainty, opacity)


def test_the_truth_is_in_the_fused_frames_range(fits, paths):
    """Where the true disparity is the fused one, both become the same number; where it is unknown, too."""
    rgb, disparity, certainty, target, _ = fits.clip(paths[0], 0, [0, 2], (0, 0, 16, 24))
    known = disparity * (torch.rand(disparity.shape, generator=seeded(0)) < 0.5)
    batch = network_clip((rgb, disparity, certainty, target, known), torch.zeros(3, 8, 8), seeded(3))
    torch.testing.assert_close(batch.target[:, 3], batch.fused[:, 3])


# -- loss and training -----------------------------------------------------------------------------------------------


class Perfect(torch.nn.Module):
    """A denoiser that knows the truth: v of the residual that it was told, at any noise."""

    def __init__(self, clean: torch.Tensor, powers: torch.Tensor) -> None:
        super().__init__()
        self.clean, self.powers = clean, powers

    def forward(self, noisy, moments, context, return_dict=True):
        power = self.powers[moments].view(-1, 1, 1, 1, 1)
        noise = (noisy[:, : self.clean.shape[1]] - power.sqrt() * self.clean) / (1 - power).sqrt()
        return (power.sqrt() * noise - (1 - power).sqrt() * self.clean,)


def test_the_loss_is_zero_for_the_true_residual(fits, paths):
    pipe = tiny_pipeline(BOTH)
    batch = make_batch(fits, paths, 0.4, 0, 0, 2, WINDOW)
    fused, target = (encode_clip(pipe.vae, x, chunk=8) for x in (batch.fused, batch.target))
    clean = (target - fused) / torch.tensor(pipe.config["residual_scale"]).view(-1, 1, 1, 1)
    with torch.no_grad():
        trained, _ = denoiser_loss(pipe, batch, seeded(0))
    perfect = Perfect(clean, pipe.scheduler.network_alphas_cumprod)
    object.__setattr__(pipe, "unet", perfect)
    seen = []

    def perceptual(rgb, target):
        seen.append((rgb, target))
        return (rgb - target).abs().mean()

    loss, logs = denoiser_loss(pipe, batch, seeded(0), 0.5, perceptual)
    # the frames that the true residual stands for: the truth as the autoencoder keeps it, where something is drawn
    kept = decode_clip(pipe.vae, target, 8)[:, :3]
    expected = torch.lerp(batch.fused[:, :3], kept, drawn_share(batch.certainty)).clamp(-1.4, 1.4)
    torch.testing.assert_close(2 * seen[0][0].unflatten(0, (2, 3)).transpose(1, 2) - 1, expected, atol=1e-4, rtol=0)
    loss = loss - 0.5 * logs["lpips"]
    assert float(loss) < 1e-6 < float(trained) and 0 <= logs["unsure"] <= 1


def test_a_perfect_denoiser_gives_the_truth(monkeypatch):
    """Through the pipeline: sampled from noise, decoded, and put where nothing is sure and nothing was rendered
    (everywhere)."""
    pipe = tiny_pipeline(BOTH)
    forward = type(pipe.fusion).forward
    monkeypatch.setattr(
        type(pipe.fusion), "forward", lambda self, *x: forward(self, *x)._replace(scale=torch.ones(1, 3, 1, 16, 24))
    )
    frames = torch.rand(4, 4, 16, 24, generator=seeded(1))
    smooth = torch.nn.functional.interpolate(frames[..., ::4, ::4], scale_factor=4, mode="nearest")
    vae = PatchAutoencoder(4, 8, 4)
    vae.fit([2 * smooth - 1])
    pipe.register_modules(vae=vae)
    truth = smooth[:3, :3].movedim(1, -1)
    depth = torch.ones(3, 16, 24, 1)
    inputs = {"rgb": torch.rand(3, 16, 24, 3, generator=seeded(2)), "depth": depth, "alpha": 0 * depth}

    class Truth(Perfect):
        config = pipe.unet.config
        dtype, device = torch.float32, torch.device("cpu")

        def forward(self, noisy, moment, context, fps=None, references=1, return_dict=True):
            fused = noisy[:, 8:16]
            target = encode_clip(
                vae, torch.cat([2 * truth.movedim(-1, 0)[None] - 1, 0 * truth[None, :, :, :, 0][None]], 1)
            )
            self.clean = (target - fused) / torch.tensor(pipe.config["residual_scale"]).view(-1, 1, 1, 1)
            return super().forward(noisy, moment, context)

    object.__setattr__(pipe, "unet", Truth(torch.zeros(1, 8), pipe.scheduler.network_alphas_cumprod))
    drawn = pipe(**inputs, references=torch.rand(20, 30, 3), num_inference_steps=4, generator=seeded(0))
    assert drawn.certainty.max() < DRAWN_WHOLLY
    assert (drawn.rgb - truth).abs().max() < 0.02


def config(tmp_path, monkeypatch, **changes) -> DenoiserConfig:
    monkeypatch.setattr(denoiser, "LITE", BOTH)
    monkeypatch.setattr(denoiser, "WINDOWS", (Window(2, 16, 24), Window(3, 16, 16)))
    if not (tmp_path / "fits").exists():
        write_toys(tmp_path / "fits")
        FusionNetwork(widths=(4, 8), source_width=4, blocks=(1, 1)).save_pretrained(tmp_path / "fusion")
    given = {"output": tmp_path / "out", "steps": 4, "threads": 1, "perceptual_weight": 0.0, **changes}
    return DenoiserConfig(fits=tmp_path / "fits", fusion=tmp_path / "fusion", **given)


@pytest.mark.slow
def test_processes_that_make_batches_change_nothing(tmp_path, monkeypatch):
    here = denoiser.train(config(tmp_path, monkeypatch, output=tmp_path / "here"))
    ahead = denoiser.train(config(tmp_path, monkeypatch, output=tmp_path / "ahead", workers=1))
    for name in ("unet", "resampler"):
        a, b = (getattr(pipe, name).state_dict() for pipe in (here, ahead))
        assert [key for key in a if not torch.equal(a[key], b[key])] == [], name


@pytest.mark.slow
def test_training_resumes_exactly_and_leaves_the_autoencoder_alone(tmp_path, monkeypatch):
    whole = denoiser.train(config(tmp_path, monkeypatch, output=tmp_path / "whole"))
    denoiser.train(config(tmp_path, monkeypatch, output=tmp_path / "parts", stop_after=2))
    kept = {p: p.read_bytes() for p in (tmp_path / "parts" / "autoencoder").iterdir()}
    write_toys(tmp_path / "fits", 5)  # more fits change neither the autoencoder nor the residual's scale
    scale = (tmp_path / "parts" / "residual_scale.json").read_text()
    for path in sorted((tmp_path / "fits").iterdir())[2:]:
        path.unlink()
    parts = denoiser.train(config(tmp_path, monkeypatch, output=tmp_path / "parts"))
    assert {p: p.read_bytes() for p in kept} == kept and parts.config["residual_scale"] == tuple(json.loads(scale))
    for name in ("unet", "resampler", "vae"):
        a, b = (getattr(pipe, name).state_dict() for pipe in (whole, parts))
        assert [key for key in a if not torch.equal(a[key], b[key])] == [], name
    index = json.loads((tmp_path / "parts" / "pipeline" / "model_index.json").read_text())
    assert index["unet"] == ["diffusion.components", "LiteVideoUNet"]
    assert index["residual_scale"] == json.loads(scale)


def test_sharpness_is_that_of_the_places_asked_for():
    target = torch.rand(2, 3, 8, 8, generator=seeded(0))
    left = torch.zeros(2, 1, 8, 8)
    left[..., :4] = 1
    mixed = target.clone()
    mixed[..., 4:] *= 0.1
    assert sharpness(mixed, target, left) == pytest.approx(1, abs=0.15)
    assert sharpness(0.5 * target, target, torch.ones_like(left)) == pytest.approx(0.5)
