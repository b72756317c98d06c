"""The autoencoder that is fitted, against numpy's own principal components."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion.models.patch_autoencoder import PatchAutoencoder, patch_statistics
from diffusion.models.vae import decode_clip, encode_clip, spatial_factor


def frames(seed: int, count: int = 6) -> torch.Tensor:
    """Smooth random frames [count, 4, 16, 24] in [-1, 1]."""
    coarse = torch.rand(count, 4, 4, 6, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(16, 24), mode="bilinear")


def patches(clip: torch.Tensor) -> np.ndarray:
    """Rows [n, 4 * 16] of patches of 4 x 4 pixels, cut by hand."""
    cut = clip.numpy().reshape(len(clip), 4, 4, 4, 6, 4)
    return cut.transpose(0, 2, 4, 1, 3, 5).reshape(-1, 64).astype(np.float64)


def fitted(clip: torch.Tensor, channels: int = 8) -> PatchAutoencoder:
    autoencoder = PatchAutoencoder(latent_channels=channels)
    autoencoder.fit([clip[:2], clip[2:]])
    return autoencoder


def test_statistics_are_those_of_the_patches() -> None:
    clip = frames(0)
    mean, covariance = patch_statistics([clip[:1], clip[1:]], 4)
    rows = patches(clip)
    assert np.allclose(mean, rows.mean(0)) and np.allclose(covariance, np.cov(rows.T, bias=True))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99), st.sampled_from([2, 8, 16]))
def test_loses_what_principal_components_lose(seed: int, channels: int) -> None:
    clip = frames(seed)
    autoencoder = fitted(clip, channels)
    with torch.no_grad():
        found = autoencoder.decode(autoencoder.encode(clip).latent_dist.mean).sample
    rows = patches(clip)
    values = np.linalg.svd(rows - rows.mean(0), compute_uv=False)
    expected = (values[channels:] ** 2).sum() / rows.size
    assert float((found - clip).square().mean()) == pytest.approx(expected, rel=1e-3, abs=1e-7)


def test_all_components_give_everything_back() -> None:
    clip = frames(3)
    autoencoder = fitted(clip, 64)
    with torch.no_grad():
        assert torch.allclose(autoencoder.decode(autoencoder.encode(clip).latent_dist.mean).sample, clip, atol=1e-4)


def test_latents_of_clips_have_unit_variance_and_no_noise() -> None:
    clip = frames(4)
    autoencoder = fitted(clip)
    video = clip.transpose(0, 1)[None]
    with torch.no_grad():
        latents = encode_clip(autoencoder, video, chunk=2)
        again = encode_clip(autoencoder, video, torch.ones_like(latents), chunk=3)
        decoded = decode_clip(autoencoder, latents)
    assert latents.shape == (1, 8, 6, 4, 6) and spatial_factor(autoencoder) == 4
    assert torch.allclose(latents, again, atol=1e-5)
    assert float(latents.var(dim=(0, 2, 3, 4)).mean()) == pytest.approx(1.0, rel=0.05)
    assert float((decoded - video).abs().mean()) < 0.1


def test_survives_saving(tmp_path: Path) -> None:
    autoencoder = fitted(frames(5))
    autoencoder.save_pretrained(tmp_path)
    loaded = PatchAutoencoder.from_pretrained(tmp_path)
    assert loaded.config["scaling_factor"] == autoencoder.config["scaling_factor"]
    clip = frames(6)
    with torch.no_grad():
        assert torch.equal(loaded.encode(clip).latent_dist.mean, autoencoder.encode(clip).latent_dist.mean)
