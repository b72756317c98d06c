"""Post-processing against the official outputs and closed forms."""

from __future__ import annotations

import pytest
import torch
from parity_data import official_depth

from diffusion.sampling import postprocess


def test_official_frames(parity):
    io = parity.io("tiny_prepost_io")
    decoded = torch.cat([io["post.decoded_rgb"], io["post.decoded_depth"]])[None]
    rgb, disparity = postprocess.split_frames(decoded)
    assert disparity is not None
    assert torch.allclose(rgb[0].movedim(-1, 0), io["post.rgb"], atol=1e-6)
    depth = official_depth(disparity)
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


def test_official_pseudo_depth_follows_from_our_disparity():
    """The decoder's -1, 0 and 1; beyond them the official depth would be negative or below 1, and is clamped too."""
    decoded = torch.tensor([-1.0, 0.0, 1.0, -2.0, 3.0]).reshape(1, 1, 5, 1, 1).expand(1, 4, 5, 1, 1)
    _, disparity = postprocess.split_frames(decoded)
    assert disparity is not None
    assert disparity.flatten().tolist() == [0.0, 0.5, 1.0, 0.0, 1.0]
    assert official_depth(disparity).flatten().tolist() == pytest.approx([1e6, 2, 1, 1e6, 1], rel=1e-5)
