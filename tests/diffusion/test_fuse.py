"""Clips of any size, with whatever is known of them, through the fusion network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_networks import FUSION, clip, tiny_pipeline, warped

from diffusion.fuse import DRAWN_BELOW, DRAWN_WHOLLY, FusedClip, fuse_clip, padded
from diffusion.inputs.repair_inputs import RepairInputs, check_inputs
from diffusion.models.fusion import FusionNetwork


@pytest.fixture(scope="module")
def network() -> FusionNetwork:
    return tiny_pipeline(FUSION).fusion


def inputs(height: int = 16, width: int = 24, **changes: Any) -> RepairInputs:
    given = {**clip(0, 3, height, width), "alpha": None, "warped": warped(0, 3, height, width), **changes}
    return check_inputs(**given, device=torch.device("cpu"))


@torch.no_grad()
def fuse(network: FusionNetwork, given: RepairInputs) -> FusedClip:
    return fuse_clip(network, given)


def assert_valid(found: FusedClip, height: int, width: int) -> None:
    assert found.disparity is not None and found.certainty is not None
    assert found.rgb.shape == (1, 3, height, width, 3)
    assert found.disparity.shape == found.certainty.shape == (1, 3, height, width, 1)
    assert all(values.isfinite().all() for values in (found.rgb, found.disparity, found.certainty))
    assert found.disparity.min() > 0
    for values in (found.rgb, found.certainty):
        assert values.min() >= 0 and values.max() <= 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (17, 23), (15, 70), (5, 130)])
def test_any_size(network, height, width):
    assert_valid(fuse(network, inputs(height, width)), height, width)


def test_odd_sizes_are_padded_by_repeating_the_border(network):
    odd = fuse(network, inputs(14, 21))
    given = inputs(14, 21)
    wide = {"depth": given.depth, "rgb": given.rgb}
    border = {name: np.pad(x[0].numpy(), ((0, 0), (0, 2), (0, 3), (0, 0)), mode="edge") for name, x in wide.items()}
    photos = np.pad(given.warped[0].numpy(), ((0, 0), (0, 0), (0, 0), (0, 2), (0, 3)), mode="edge")
    whole = fuse(network, inputs(16, 24, **border, warped=photos))
    torch.testing.assert_close(odd.rgb, whole.rgb[:, :, :14, :21])
    torch.testing.assert_close(odd.certainty, whole.certainty[:, :, :14, :21])


def test_padding_leaves_even_sizes_alone():
    values = torch.rand(2, 3, 4, 5, 8, 12)
    assert torch.equal(padded(values, 4), values)
    assert padded(values, 16).shape == (2, 3, 4, 5, 16, 16)


@pytest.mark.parametrize("missing", [("depth",), ("warped",), ("depth", "warped")], ids="+".join)
def test_what_is_not_known_need_not_be_given(network, missing):
    found = fuse(network, inputs(**dict.fromkeys(missing)))
    assert_valid(found, 16, 24)
    assert (found.rgb - fuse(network, inputs()).rgb).abs().max() > 1e-4


def test_opacity_is_1_where_there_is_depth_and_everywhere_without_any(network):
    depth = clip()["depth"]
    default, same = fuse(network, inputs()), fuse(network, inputs(alpha=(depth > 0).float()))
    assert torch.equal(default.rgb, same.rgb)
    without, opaque = (fuse(network, inputs(depth=None, alpha=a)) for a in (None, torch.ones_like(depth)))
    assert torch.equal(without.rgb, opaque.rgb)


def test_no_photos_are_as_photos_that_show_nothing(network):
    nothing = fuse(network, inputs(warped=0 * warped()))
    assert torch.equal(fuse(network, inputs(warped=None)).rgb, nothing.rgb)


def flat(rgb: float, certainty: float | None) -> FusedClip:
    full = torch.ones(1, 1, 2, 2, 1)
    return FusedClip(rgb * full.expand(-1, -1, -1, -1, 3), full, None if certainty is None else certainty * full)


def test_what_is_drawn_takes_over_below_a_certainty():
    drawn = flat(1.0, None)
    values = [
        float(flat(0.0, certainty).completed(drawn).rgb.mean())
        for certainty in (DRAWN_WHOLLY, 0.7 * DRAWN_WHOLLY + 0.3 * DRAWN_BELOW, 0.2 * DRAWN_WHOLLY + 0.8 * DRAWN_BELOW)
    ]
    assert values[0] == 1 and 1 > values[1] > values[2] > 0
    for certainty in (DRAWN_BELOW, 0.9, None):
        completed = flat(0.0, certainty).completed(drawn)
        assert completed.rgb.abs().max() == 0
    assert completed.certainty is None and float(completed.disparity.mean()) == 1


def test_only_what_was_not_rendered_is_drawn():
    alpha = torch.tensor([0.0, 0.25, 1.0, 1.0]).view(1, 1, 2, 2, 1)
    fused = replace(flat(0.0, 0.0), alpha=alpha)
    assert torch.equal(fused.completed(flat(1.0, None)).rgb[..., :1], 1 - alpha)


def test_a_clip_that_hardly_needs_it_is_not_drawn_whatever_the_others_need():
    certainty = torch.ones(2, 1, 16, 16, 1)
    certainty[0, 0, 0, 0], certainty[1, 0, :2] = 0, 0  # 1 pixel of 256, and 32
    to_draw = FusedClip(torch.zeros(2, 1, 16, 16, 3), None, certainty).to_draw
    assert to_draw[0].max() == 0 and to_draw[1, 0, :2].min() == 1 and to_draw[1, 0, 2:].max() == 0


def test_a_denoiser_sees_certainty_as_opacity_and_depth_of_the_fused_disparity(network):
    given = inputs()
    found = fuse(network, given)
    seen = found.as_inputs(given)
    assert seen.rgb is found.rgb and seen.alpha is found.certainty and seen.references is given.references
    torch.testing.assert_close(seen.depth * found.disparity, torch.ones_like(found.disparity))
