"""Post-processing against the official outputs and closed forms."""

from __future__ import annotations

import pytest
import torch

from diffusion import postprocess, preprocess


def test_official_frames(parity):
    io = parity.io("tiny_prepost_io")
    decoded = torch.cat([io["post.decoded_rgb"], io["post.decoded_depth"]])[None]
    rgb, disparity = postprocess.split_frames(decoded)
    assert disparity is not None
    assert torch.allclose(rgb[0].movedim(-1, 0), io["post.rgb"], atol=1e-6)
    depth = postprocess.relative_depth(disparity)
    # Depth runs up to 1e6; its reciprocal is what can be compared.
    assert torch.allclose(1 / depth[0].movedim(-1, 0), 1 / io["post.depth"], atol=1e-6)


def test_frames_are_clamped():
    decoded = torch.tensor([-5.0, -1.0, 0.0, 9.0]).reshape(1, 4, 1, 1, 1).expand(1, 4, 2, 3, 5)
    rgb, disparity = postprocess.split_frames(decoded)
    assert rgb.shape == (1, 2, 3, 5, 3) and disparity is not None
    assert rgb[0, 0, 0, 0].tolist() == [0.0, 0.0, 0.5]
    assert (disparity == 1).all()


def test_a_model_of_rgb_alone_has_no_disparity():
    rgb, disparity = postprocess.split_frames(torch.zeros(1, 3, 2, 4, 4))
    assert disparity is None and (rgb == 0.5).all()


def test_relative_depth_is_finite_at_both_ends():
    assert postprocess.relative_depth(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([1e6, 1.0], rel=1e-5)


def test_metric_disparity_undoes_the_normalisation():
    depth = 1 + torch.rand(2, 3, 4, 5, 1, generator=torch.Generator().manual_seed(0))
    normal = preprocess.minmax_disparity(depth)
    out = postprocess.metric_disparity((normal.values + 1) / 2, normal.low, normal.high)
    assert torch.allclose(1 / out, depth, atol=1e-5)
