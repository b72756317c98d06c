"""`repairers.classical`: holes are filled from what surrounds them, noise goes, edges stay."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_scene import aimed

from genfusion_ns.loop.repairers import classical
from genfusion_ns.loop.repairers.base import RGBDClip, create_repairer


def slow_fill(values, weight):
    """The definition, one level after the other: a level's average shows through where finer ones lack weight."""
    if max(weight.shape[:2]) == 1:
        return values / max(float(weight[0, 0, 0]), 1e-8)
    height, width = weight.shape[:2]
    small = [np.zeros(((height + 1) // 2, (width + 1) // 2, a.shape[2]), np.float32) for a in (values, weight)]
    for y in range(small[0].shape[0]):
        for x in range(small[0].shape[1]):
            rows, columns = [2 * y, min(2 * y + 1, height - 1)], [2 * x, min(2 * x + 1, width - 1)]
            for source, target in zip((values, weight), small, strict=True):
                target[y, x] = np.mean([source[r, c] for r in rows for c in columns], axis=0)
    coarse = classical.cv2.resize(slow_fill(*small), (width, height)).reshape(values.shape)
    return values / np.maximum(weight, 1e-8) * weight + (1 - weight) * coarse


@pytest.mark.parametrize("size", [(1, 1), (5, 8), (7, 3)])
def test_fill_against_a_loop(size):
    gen = np.random.default_rng(0)
    weight = (gen.random((*size, 1)) * (gen.random((*size, 1)) < 0.5)).astype(np.float32)
    values = weight * gen.random((*size, 3)).astype(np.float32)
    np.testing.assert_allclose(classical.fill(values, weight), slow_fill(values, weight), atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 100), st.integers(1, 20), st.integers(1, 20), st.floats(0.1, 0.9))
def test_filling_stays_within_the_colours_that_are_there(seed, height, width, value):
    gen = np.random.default_rng(seed)
    weight = (gen.random((height, width, 1)) < 0.3).astype(np.float32)
    weight[0, 0] = 1
    np.testing.assert_allclose(classical.fill(weight * value, weight), value, atol=1e-4)


def clip_of(rgb, depth, alpha) -> RGBDClip:
    view = aimed((3, 0, 1), width=rgb.shape[1], height=rgb.shape[0])
    return RGBDClip(*(torch.from_numpy(a)[None].float() for a in (rgb, depth, alpha)), [view])


def test_a_hole_in_a_wall_becomes_wall():
    alpha = np.ones((32, 40, 1))
    alpha[10:20, 12:22] = 0
    alpha[22:, 30:] = 0.5
    rgb, depth = np.array([0.2, 0.5, 0.8]) * alpha, 4.0 * (alpha > 0)
    repaired = create_repairer("classical").repair(clip_of(rgb, depth, alpha), torch.zeros(2, 2, 3))
    expected = torch.tensor([0.2, 0.5, 0.8]).expand(32, 40, 3)
    torch.testing.assert_close(repaired.rgb[0], expected, atol=0.01, rtol=0)
    torch.testing.assert_close(repaired.disparity[0], torch.full((32, 40, 1), 0.25), atol=0.003, rtol=0)
    confidence = repaired.confidence[0, ..., 0]
    assert confidence[5, 5] == 1
    assert 0 < confidence[15, 17] < confidence[10, 17] < 0.31
    assert 0.5 <= confidence[30, 35] < 0.7


def test_noise_goes_and_an_edge_stays():
    gen = np.random.default_rng(0)
    clean = np.where(np.arange(40)[None, :, None] < 20, 0.2, 0.8) * np.ones((32, 1, 3))
    noisy = np.clip(clean + 0.05 * gen.standard_normal(clean.shape), 0, 1)
    ones = np.ones((32, 40, 1))
    repaired = create_repairer("classical").repair(clip_of(noisy, ones, ones), torch.zeros(2, 2, 3))
    error = (repaired.rgb[0].numpy() - clean) ** 2
    assert error.mean() < 0.5 * ((noisy - clean) ** 2).mean()
    assert error[:, 19:21].mean() < ((noisy - clean) ** 2)[:, 19:21].mean()


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_an_empty_render_gives_nothing_to_believe(value):
    empty = np.full((6, 7, 1), value)
    repaired = create_repairer("classical").repair(
        clip_of(np.repeat(empty, 3, -1), empty, np.nan_to_num(empty)), torch.zeros(2, 2, 3)
    )
    assert repaired.rgb.isfinite().all()
    assert repaired.disparity.abs().max() == 0
    assert repaired.confidence.max() == 0
