"""`supervision.align`: what was bent is straightened, what cannot be fitted is left alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_scene import aimed, textured

from genfusion_ns.loop.supervision.align import align_colour, align_disparity, fit_colour

VIEW = aimed((3.0, 0.0, 1.0))
IDENTITY = torch.eye(3, 4)


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# -- disparity -------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.floats(0.05, 20), st.floats(-2, 0.8))
def test_scale_and_shift_are_undone(scale, shift):
    depth = textured(VIEW).depth
    bent = (1 / depth - shift * 0.1) / scale
    aligned, fitted = align_disparity(bent.clamp_min(1e-6), depth, torch.ones_like(depth), torch.ones_like(depth))
    assert fitted
    torch.testing.assert_close(aligned, 1 / depth, rtol=1e-3, atol=1e-4)


def test_only_reliable_pixels_decide():
    depth, alpha, weight = textured(VIEW).depth, torch.ones(24, 32, 1), torch.ones(24, 32, 1)
    bent = 0.3 / depth + 0.05
    wrong = depth.clone()
    wrong[:8], alpha[:8] = 0.3, 0.5  # floaters that the render itself hardly believes
    wrong[8:10], weight[8:10] = 50.0, 0.0
    wrong[10, :5] = 0.0
    wrong[12, :20] = 0.05  # solid, near and wrong: robustness has to deal with it
    aligned, fitted = align_disparity(bent, wrong, alpha, weight)
    assert fitted
    torch.testing.assert_close(aligned, 1 / depth, rtol=0.02, atol=1e-3)


def test_holes_stay_holes_and_nothing_lies_behind_infinity():
    depth, ones = textured(VIEW).depth, torch.ones(24, 32, 1)
    bent = 1 / depth + 0.2
    bent[0, 0], bent[0, 1], bent[0, 2] = 0.0, float("nan"), 0.001
    aligned, fitted = align_disparity(bent, depth, ones, ones)
    assert fitted
    assert aligned[0, :3].tolist() == [[0], [0], [0]]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_too_little_to_fit(value):
    depth, alpha = torch.full((24, 32, 1), value), torch.zeros(24, 32, 1)
    alpha[0] = 1
    given = noise(24, 32, 1)
    aligned, fitted = align_disparity(given, depth, alpha, torch.ones_like(alpha))
    assert not fitted
    assert torch.equal(aligned, given)


# -- colour ----------------------------------------------------------------------------------------------------------


def test_a_tint_is_taken_away_despite_outliers():
    target = textured(VIEW.resized(96, 72)).color
    tint = torch.tensor([[0.9, 0.05, 0.0], [0.0, 0.85, 0.0], [0.02, 0.0, 1.1]])
    tinted = (target - 0.05) @ torch.linalg.inv(tint).T
    broken = target.clone()
    broken[:20] = noise(20, 96, 3)
    fixed = align_colour(tinted, broken, torch.ones(72, 96, 1))
    # the ridge towards the identity leaves a little
    assert (fixed - target)[20:].abs().mean() < 0.25 * (tinted - target)[20:].abs().mean()


def test_edges_a_few_pixels_apart_cost_no_contrast():
    target = textured(VIEW.resized(96, 72)).color
    shifted = target.roll(2, dims=1)
    fixed = align_colour(shifted, target, torch.ones(72, 96, 1))
    assert float(fixed.std()) > 0.97 * float(target.std())


@pytest.mark.parametrize(
    "target",
    [
        torch.zeros(72, 96, 3),  # black says nothing about colours
        torch.full((72, 96, 3), 0.5),
        1 - textured(VIEW.resized(96, 72)).color,  # a negative
        noise(72, 96, 3),
    ],
)
def test_a_map_that_would_bend_colours_is_refused(target):
    rgb = textured(VIEW.resized(96, 72)).color
    fixed = align_colour(rgb, target, torch.ones(72, 96, 1))
    assert torch.equal(fixed, rgb)


def test_without_reliable_pixels_nothing_changes():
    rgb = noise(24, 32, 3)
    weight = torch.zeros(24, 32, 1)
    assert torch.equal(align_colour(rgb, 1 - rgb, weight), rgb)
    weight[:5, :5] = 1
    assert torch.equal(align_colour(rgb, 1 - rgb, weight), rgb)
    assert torch.equal(align_colour(rgb[:2, :2], rgb[:2, :2], torch.ones(2, 2, 1)), rgb[:2, :2])


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.integers(1, 50), st.sampled_from([0.0, 1e-9, 1.0]))
def test_any_data_gives_a_tame_map(seed, count, spread):
    source, target = noise(count, 3, seed=seed) * spread, noise(count, 3, seed=seed + 1)
    matrix = fit_colour(source, target, torch.ones(count))
    assert matrix.isfinite().all()
    gains = torch.linalg.svdvals(matrix[:, :3])
    assert gains.min() >= 0.5 - 1e-6
    assert gains.max() <= 2 + 1e-6


def test_fit_without_ridge_is_exact():
    source = noise(200, 3)
    wanted = torch.tensor([[0.9, 0.1, 0, 0.02], [0, 1.1, 0, -0.05], [0, 0, 0.8, 0.1]])
    target = source @ wanted[:, :3].T + wanted[:, 3]
    torch.testing.assert_close(fit_colour(source, target, torch.ones(200), ridge=0.0), wanted, atol=1e-4, rtol=0)
    assert torch.equal(fit_colour(source, source, torch.ones(200)), IDENTITY)
