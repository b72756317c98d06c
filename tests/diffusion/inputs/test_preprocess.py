"""Pre-processing against the official inputs and outputs, closed forms and slow twins."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion.errors import UserError
from diffusion.inputs import preprocess


def outside(clip: torch.Tensor) -> torch.Tensor:
    """Official [C, T, H, W] -> [1, T, H, W, C]."""
    return clip.movedim(0, -1)[None]


def official(frames: torch.Tensor) -> torch.Tensor:
    return frames[0].movedim(-1, 0)


def test_official_rgb(parity):
    io = parity.io("tiny_prepost_io")
    out = preprocess.resize_rgb(outside(2 * io["rgb.in"] - 1), *io["rgb.out"].shape[-2:])
    assert torch.allclose(official(out), io["rgb.out"], atol=1e-5)


def test_official_depth(parity):
    io = parity.io("tiny_prepost_io")
    disparity = preprocess.minmax_disparity(outside(io["depth.in"])).values
    out = official(preprocess.resize_depth(disparity, *io["depth.out"].shape[-2:]))
    assert torch.allclose(out, io["depth.out"], atol=1e-5)
    empty = io["depth_allzero.out"]
    out = preprocess.minmax_disparity(torch.zeros(1, *empty.shape[1:], 1)).values
    assert torch.equal(official(out), empty)


@pytest.mark.parametrize("case", ["down", "mixed"])
def test_clip_pixels_match_the_official_preprocessing(parity, case):
    io = parity.io("tiny_clip_image_io")
    wanted = io[f"{case}.preprocessed"]
    pixels = preprocess.clip_pixels(io[f"{case}.image"], wanted.shape[-1])
    # The file may hold the first image's result only.
    assert torch.allclose(pixels[: len(wanted)], wanted, atol=1e-5)


def test_clip_pixels_of_a_constant_image_are_constant():
    pixels = preprocess.clip_pixels(torch.zeros(1, 3, 500, 90), 32)
    grey = (0.5 - torch.tensor(preprocess.CLIP_MEAN)) / torch.tensor(preprocess.CLIP_STD)
    assert torch.allclose(pixels, grey.reshape(1, 3, 1, 1).expand(1, 3, 32, 32), atol=1e-5)


def test_clip_pixels_name_a_too_small_image():
    # A one-pixel side cannot be mirrored for the blur.
    with pytest.raises(UserError, match="1x500 pixels"):
        preprocess.clip_pixels(torch.zeros(1, 3, 1, 500), 32)


depths = st.lists(st.one_of(st.just(0.0), st.floats(2.0**-10, 2.0**13, width=32)), min_size=1, max_size=40)


@settings(deadline=None)
@given(depths, st.sampled_from(["minmax", "percentile"]))
def test_disparity_is_finite_bounded_and_ordered(values, rule):
    depth = torch.tensor(values).reshape(1, 1, 1, -1, 1)
    out = getattr(preprocess, f"{rule}_disparity")(depth)
    flat = out.values.flatten()
    assert torch.isfinite(flat).all() and flat.min() >= -1 and flat.max() <= 1
    assert (flat[depth.flatten() == 0] == -1).all()
    valid = [(d, float(v)) for d, v in zip(values, flat, strict=True) if d > 0]
    for (d1, v1), (d2, v2) in zip(sorted(valid), sorted(valid)[1:], strict=False):
        assert v1 >= v2 - 1e-6, f"depth {d1} < {d2}, but disparity {v1} < {v2}"


@pytest.mark.parametrize("rule", [preprocess.minmax_disparity, preprocess.percentile_disparity])
def test_constant_depth_is_in_the_middle_and_empty_depth_at_the_end(rule):
    depth = torch.full((2, 2, 3, 4, 1), 2.5)
    depth[1] = 0
    out = rule(depth)
    assert (out.values[0] == 0).all() and (out.values[1] == -1).all()
    assert out.low[0] == out.high[0] == pytest.approx(0.4)


def test_minmax_is_that_of_each_clip_jointly_over_its_frames():
    depth = torch.tensor([[1.0, 2.0, 4.0], [10.0, 20.0, 0.0]]).reshape(2, 3, 1, 1, 1)
    out = preprocess.minmax_disparity(depth).values.flatten(1)
    # 1/depth: 1, .5, .25 -> 1, 1/3, 0; then .1, .05 -> 1, 0 and a hole.
    assert torch.allclose(out, torch.tensor([[1.0, -1 / 3, -1.0], [1.0, -1.0, -1.0]]), atol=1e-6)


def test_percentiles_ignore_a_floater():
    depth = torch.linspace(1, 4, 1000)
    depth[0] = 1e-3
    depth = depth.reshape(1, 1, 10, 100, 1)
    scene = depth.flatten()[50:-50]
    crushed = preprocess.minmax_disparity(depth).values.flatten()[50:-50]
    kept = preprocess.percentile_disparity(depth).values.flatten()[50:-50]
    assert crushed.max() - crushed.min() < 0.01
    assert kept.max() - kept.min() > 1.7
    rank = np.quantile((1 / scene).numpy(), 0.5)
    low, high = np.sort((1 / depth.flatten()).numpy())[[19, 980]]
    assert kept.median() == pytest.approx(2 * (rank - low) / (high - low) - 1, abs=0.01)


def test_a_given_range_clamps():
    depth = torch.tensor([0.0, 0.5, 1.0, 2.0, 8.0]).reshape(1, 1, 1, 5, 1)
    out = preprocess.given_range_disparity(depth, 0.25, 1.0).values.flatten()
    assert torch.allclose(out, torch.tensor([-1.0, 1.0, 1.0, -1 / 3, -1.0]))


@settings(deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 20),
    st.integers(1, 20),
    st.sampled_from([1, 2, 8, 16]),
)
def test_letterbox_pads_to_the_multiple_and_crops_back_exactly(frames, height, width, multiple):
    clip = torch.rand(2, 3, frames, height, width, generator=torch.Generator().manual_seed(0))
    box = preprocess.letterbox(height, width, multiple)
    padded = box.pad(clip)
    assert padded.shape[3] % multiple == padded.shape[4] % multiple == 0
    assert padded.shape[3] - height < multiple and padded.shape[4] - width < multiple
    assert torch.equal(box.crop(padded), clip)
    assert padded.min() == clip.min() and padded.max() == clip.max()


def test_letterbox_repeats_the_edge():
    clip = torch.arange(3.0).reshape(1, 1, 1, 1, 3)
    padded = preprocess.letterbox(1, 3, 8).pad(clip)
    assert padded[0, 0, 0, 5].tolist() == [0, 0, 0, 1, 2, 2, 2, 2]


def test_latent_tokens_hold_their_patch_and_their_place():
    latents = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    tokens = preprocess.latent_tokens(latents, 2)
    assert tokens.shape == (2, 6, 12 + preprocess.TOKEN_PLACE_WIDTH)
    row, column = 1, 2
    token = tokens[1, row * 3 + column]
    patch = latents[1, :, 2:4, 4:6]
    assert torch.equal(token[:12], patch.flatten())
    y, x = (row + 0.5) / 2, (column + 0.5) / 3
    angles = [c * math.pi * k for c in (y, x) for k in (1, 2, 4, 8)]
    wanted = torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
    assert torch.allclose(token[12:], wanted, atol=1e-6)
    places = tokens[0, :, 12:]
    assert len({tuple(p.tolist()) for p in places}) == len(places)


def test_latent_opacity_is_the_mean_below():
    alpha = torch.rand(1, 1, 2, 8, 4, generator=torch.Generator().manual_seed(0))
    out = preprocess.latent_opacity(alpha, 4)
    assert out.shape == (1, 1, 2, 2, 1)
    assert out[0, 0, 1, 1, 0] == pytest.approx(float(alpha[0, 0, 1, 4:].mean()), abs=1e-6)
