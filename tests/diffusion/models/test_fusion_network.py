"""The fusion network: what it must not depend on, and what its outputs mean."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_networks import FUSION, tiny_pipeline, warped

from diffusion.models.fusion import TOLERANCE, Fused, FusionNetwork


@pytest.fixture(scope="module")
def network() -> FusionNetwork:
    return tiny_pipeline(FUSION).fusion


def clip(frames: int = 3, height: int = 16, width: int = 24, photos: int = 3, seed: int = 0) -> list[torch.Tensor]:
    """Arguments of a call: a rendering with holes, and photos that show some of it."""
    generator = torch.Generator().manual_seed(seed)
    alpha = (torch.rand(1, frames, 1, height, width, generator=generator) * 2 - 0.5).clamp(0, 1)
    rgb = torch.rand(1, frames, 3, height, width, generator=generator) * alpha
    disparity = (0.3 + torch.rand(1, frames, 1, height, width, generator=generator)) * (alpha > 0)
    return [rgb, alpha, disparity, warped(seed, frames, height, width, photos)[None]]


@torch.no_grad()
def run(network: FusionNetwork, *arguments: torch.Tensor) -> Fused:
    return network(*arguments)


def assert_same(one: Fused, other: Fused, atol: float = 1e-5) -> None:
    for name, a, b in zip(Fused._fields, one, other, strict=True):
        torch.testing.assert_close(a, b, atol=atol, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("order", [[2, 0, 1], [1, 0, 2], [2, 1, 0]])
@pytest.mark.parametrize("size", [(16, 24), (48, 96)], ids=["trained", "larger"])
def test_the_order_of_the_photos_does_not_matter(network, order, size):
    rgb, alpha, disparity, sources = clip(2, *size)
    assert_same(run(network, rgb, alpha, disparity, sources), run(network, rgb, alpha, disparity, sources[:, :, order]))


def test_photos_count(network):
    rgb, alpha, disparity, sources = clip()
    found, fewer = (run(network, rgb, alpha, disparity, s) for s in (sources, sources[:, :, :2]))
    assert (found.rgb - fewer.rgb).abs().max() > 1e-3


@pytest.mark.parametrize("size", [(16, 24), (48, 96)], ids=["trained", "larger"])
def test_one_more_photo_that_shows_nothing_changes_nothing(network, size):
    rgb, alpha, disparity, sources = clip(2, *size)
    empty = torch.zeros_like(sources[:, :, :1])
    found = [run(network, rgb, alpha, disparity, torch.cat([sources, *[empty] * n], 2)) for n in (1, 2, 5)]
    for other in found[1:]:
        assert_same(found[0], other)
    none, some = sources[:, :, :0], empty.expand(-1, -1, 4, -1, -1, -1)
    assert_same(run(network, rgb, alpha, disparity, none), run(network, rgb, alpha, disparity, some))


@settings(max_examples=6, deadline=None)
@given(st.floats(-2.5, 2.5), st.integers(0, 99))
def test_the_unit_of_the_world_changes_nothing_but_the_unit_of_disparity(power, seed):
    factor = 10.0**power
    rgb, alpha, disparity, sources = clip(seed=seed)
    larger = torch.cat([sources[:, :, :, :7], sources[:, :, :, 7:] / factor], 3)
    network = tiny_pipeline(FUSION).fusion
    found, other = run(network, rgb, alpha, disparity, sources), run(network, rgb, alpha, disparity / factor, larger)
    assert_same(found, other._replace(disparity=other.disparity * factor), atol=1e-4)


def test_an_untrained_mean_is_the_mean_of_what_is_seen():
    """Without learned weights: rendering and photos count alike, each only where it shows something."""
    network = tiny_pipeline(FUSION).fusion
    with torch.no_grad():
        for layer in (network.head, network.weigh[-1]):
            layer.weight.zero_()
            layer.bias.zero_()
    rgb, _, _, sources = clip()
    alpha, disparity = torch.ones_like(rgb[:, :, :1]), torch.full_like(rgb[:, :, :1], 0.8)
    shown = sources[:, :, :, 3:4]
    found = run(network, rgb, alpha, disparity, sources)
    mean = (rgb + sources[:, :, :, :3].sum(2)) / (1 + shown.sum(2))
    torch.testing.assert_close(found.rgb, mean, atol=1e-5, rtol=0)
    inverse = (disparity + sources[:, :, :, 7:].sum(2)) / (1 + shown.sum(2))
    torch.testing.assert_close(found.disparity, inverse, atol=1e-5, rtol=1e-4)
    # nothing is rendered: photos alone are known of the depth, and filled holes of the colour
    found = run(network, 0 * rgb, 0 * alpha, 0 * disparity, sources)
    some = shown.sum(2) > 0
    inverse = sources[:, :, :, 7:].sum(2) / shown.sum(2).clamp_min(1)
    torch.testing.assert_close(found.disparity[some], inverse[some], atol=1e-5, rtol=1e-4)
    assert found.disparity.min() > 0


@pytest.mark.parametrize(("height", "width"), [(68, 128), (200, 72)])
def test_larger_frames_keep_their_detail_and_change_smoothly(network, height, width):
    """Beyond the side that it was trained for, all but a smooth residual comes from the rendering."""
    generator = torch.Generator().manual_seed(1)
    rgb = torch.rand(1, 2, 3, height, width, generator=generator)
    alpha, disparity = torch.ones(1, 2, 1, height, width), torch.ones(1, 2, 1, height, width)
    found = run(network, rgb, alpha, disparity, torch.zeros(1, 2, 0, 8, height, width))
    assert all(values.isfinite().all() for values in found)
    assert found.rgb.shape == rgb.shape and found.scale.shape == alpha.shape
    residual = (found.rgb - rgb).flatten(0, 1)
    blurred = torch.nn.functional.avg_pool2d(residual, 3, 1, 1, count_include_pad=False)
    assert residual.std() > 1e-3  # the weights are random, and none of them is zero
    assert float((residual - blurred).std()) < 0.5 * float(residual.std())
    noise = torch.nn.functional.avg_pool2d(rgb.flatten(0, 1), 3, 1, 1, count_include_pad=False)
    assert float((residual - blurred).std()) < 0.2 * float((rgb.flatten(0, 1) - noise).std())


@pytest.mark.parametrize("size", [(16, 24), (68, 128)], ids=["trained", "larger"])
def test_with_nothing_rendered_and_nothing_shown_all_is_finite(network, size):
    rgb = torch.zeros(1, 2, 3, *size)
    nothing = torch.zeros(1, 2, 1, *size)
    for photos in (0, 2):
        found = run(network, rgb, nothing, nothing, torch.zeros(1, 2, photos, 8, *size))
        assert all(values.isfinite().all() for values in found)
        assert found.disparity.min() > 0 and found.scale.min() > 0


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-4, 1e4))
def test_certainty_is_the_probability_of_a_small_error(scale):
    """Of a Laplace distribution, whose mean absolute value is its scale."""
    fused = Fused(torch.zeros(1), torch.ones(1), torch.tensor([scale]), torch.ones(1))
    law = torch.distributions.Laplace(torch.zeros(1, dtype=torch.float64), torch.tensor([scale], dtype=torch.float64))
    expected = law.cdf(torch.tensor(TOLERANCE)) - law.cdf(torch.tensor(-TOLERANCE))
    assert 0 <= float(fused.certainty) <= 1
    assert float(fused.certainty) == pytest.approx(float(expected), abs=1e-5)


def test_gain_is_the_share_of_the_error_that_goes():
    scale, before = torch.tensor([0.1, 0.05, 0.2, 1e-3]), torch.tensor([0.1, 0.2, 0.1, 1.0])
    fused = Fused(torch.zeros(4), torch.ones(4), scale, before)
    torch.testing.assert_close(fused.gain, torch.tensor([0.0, 0.75, 0.0, 0.999]))


def test_certainty_and_gain_of_a_clip_lie_between_0_and_1(network):
    found = run(network, *clip())
    for values in (found.certainty, found.gain):
        assert values.min() >= 0 and values.max() <= 1 and values.std() > 0


def test_clips_of_a_batch_do_not_know_of_each_other(network):
    one, other = clip(seed=0), clip(seed=1)
    other[2], other[3] = other[2] * 7, other[3] * 1  # another unit
    both = run(network, *(torch.cat(pair) for pair in zip(one, other, strict=True)))
    for i, single in enumerate((one, other)):
        assert_same(Fused(*(x[i : i + 1] for x in both)), run(network, *single))


def test_frames_of_a_clip_do(network):
    arguments = clip()
    changed = [arguments[0].clone(), *arguments[1:]]
    changed[0][:, 0] = 0.5
    a, b = run(network, *arguments), run(network, *changed)
    assert (a.rgb[:, 1] - b.rgb[:, 1]).abs().max() > 1e-6


def test_every_weight_learns(network):
    network = tiny_pipeline(FUSION).fusion
    found = network(*clip())
    errors = found.scale.log().mean() + found.scale_before.log().mean()
    (found.rgb.square().mean() + errors + found.disparity.log().mean()).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []
