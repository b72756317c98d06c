"""`losses`: against scipy, torchmetrics, finite differences and exact cases."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torchmetrics.functional.image import peak_signal_noise_ratio

from genfusion_ns.gaussians import losses


def images(seed: int, height: int = 24, width: int = 37, dtype=torch.float64):
    gen = torch.Generator().manual_seed(seed)
    pred = torch.rand(height, width, 3, generator=gen, dtype=dtype)
    return pred, (pred + 0.2 * torch.randn(height, width, 3, generator=gen, dtype=dtype)).clamp(0, 1)


def ssim_oracle(pred, target):
    """Wang's formula with scipy's Gaussian filter: radius 5, sigma 1.5, zeros outside."""
    blur = lambda x: torch.from_numpy(  # noqa: E731
        gaussian_filter(x.numpy(), sigma=(1.5, 1.5, 0), radius=(5, 5, 0), mode="constant")
    )
    mean_p, mean_t = blur(pred), blur(target)
    var_p, var_t = blur(pred * pred) - mean_p**2, blur(target * target) - mean_t**2
    covariance = blur(pred * target) - mean_p * mean_t
    c1, c2 = 0.01**2, 0.03**2
    return ((2 * mean_p * mean_t + c1) * (2 * covariance + c2)) / ((mean_p**2 + mean_t**2 + c1) * (var_p + var_t + c2))


@pytest.mark.parametrize("size", [(24, 37), (11, 11), (5, 8), (1, 1)])
def test_ssim_against_scipy(size):
    pred, target = images(0, *size)
    torch.testing.assert_close(losses.ssim_map(pred, target), ssim_oracle(pred, target), atol=1e-12, rtol=1e-9)


def test_ssim_of_equal_images_is_one():
    pred, _ = images(1)
    assert float(losses.ssim(pred, pred)) == pytest.approx(1.0)


def test_ssim_gradient():
    pred, target = images(2, 7, 6)
    assert torch.autograd.gradcheck(lambda x: losses.ssim(x, target), pred.requires_grad_())
    weight = (torch.rand(7, 6, 1, dtype=torch.float64) - 0.3).clamp_min(0)
    assert torch.autograd.gradcheck(lambda x: losses.photometric(x, target, 0.4, weight), pred)


def test_masked_pixels_reach_no_loss():
    pred, target = images(3)
    weight = torch.ones(*pred.shape[:2], 1, dtype=pred.dtype)
    weight[5:15, 10:20] = 0
    changed = pred.clone()
    changed[5:15, 10:20] = 0.77
    for loss in (losses.ssim, losses.l1, losses.psnr, lambda a, b, w: losses.photometric(a, b, 0.2, w)):
        torch.testing.assert_close(loss(pred, target, weight), loss(changed, target, weight))
    pred.requires_grad_()
    losses.photometric(pred, target, 0.5, weight).backward()
    assert pred.grad[5:15, 10:20].abs().max() == 0
    assert pred.grad[:5].abs().max() > 0


def test_weight_of_one_is_no_weight_and_zero_is_no_loss():
    pred, target = images(4)
    one = torch.ones(*pred.shape[:2], 1, dtype=pred.dtype)
    torch.testing.assert_close(losses.photometric(pred, target, 0.3, one), losses.photometric(pred, target, 0.3))
    assert float(losses.l1(pred, target, 0 * one)) == 0


def test_photometric_parts():
    pred, target = images(5)
    torch.testing.assert_close(losses.photometric(pred, target, 0.0), (pred - target).abs().mean())
    torch.testing.assert_close(losses.photometric(pred, target, 1.0), 1 - losses.ssim(pred, target))
    assert float(losses.photometric(pred, pred, 0.2)) == pytest.approx(0, abs=1e-9)


def test_psnr_against_torchmetrics():
    pred, target = images(6)
    torch.testing.assert_close(losses.psnr(pred, target), peak_signal_noise_ratio(pred, target, data_range=1.0))
    assert math.isinf(float(losses.psnr(pred, pred)))


def test_normal_consistency():
    surface = torch.zeros(4, 5, 3, dtype=torch.float64)
    surface[1:, :, 2] = -1.0
    alpha = torch.full((4, 5, 1), 0.8, dtype=torch.float64)
    aligned, opposite = 0.8 * surface, -0.8 * surface
    # alpha (1 - alpha) on the 3 of 4 rows that have a normal
    assert float(losses.normal_consistency(aligned, surface, alpha)) == pytest.approx(0.75 * 0.8 * 0.2)
    assert float(losses.normal_consistency(opposite, surface, alpha)) == pytest.approx(0.75 * 0.8 * 1.8)
    alpha.requires_grad_()
    normal = aligned.clone().requires_grad_()
    losses.normal_consistency(normal, surface, alpha).backward()
    assert alpha.grad is None
    # the same gradient as the official mean(1 - n . (N alpha))
    torch.testing.assert_close(normal.grad, -alpha.detach() * surface / 20)


def test_distortion_is_a_mean():
    assert float(losses.distortion(torch.tensor([[[1.0], [2.0]]]))) == 1.5


# -- scale- and shift-invariant disparity ----------------------------------------------------------------------------


def scene(seed: int, height: int = 30, width: int = 40):
    """A smooth depth map, and its disparity."""
    gen = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 1, 4, 5, generator=gen, dtype=torch.float64) * 3 + 1
    depth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0, 0, ..., None].clamp_min(0.5)
    return depth, 1 / depth


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.floats(1e-2, 1e2), st.floats(0, 10))
def test_exact_fit_costs_nothing(seed, scale, shift):
    depth, disparity = scene(seed)
    assert float(losses.ssi_disparity(depth, scale * disparity + shift + 1e-3)) < 1e-6


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.floats(1e-2, 1e2), st.floats(0, 10), st.floats(0.05, 20))
def test_loss_does_not_see_scale_or_shift(seed, scale, shift, zoom):
    depth, _ = scene(seed)
    _, wanted = scene(seed + 1)
    loss = float(losses.ssi_disparity(depth, wanted))
    assert loss > 0.05
    assert float(losses.ssi_disparity(depth * zoom, scale * wanted + shift)) == pytest.approx(loss, rel=1e-3)


def test_holes_do_not_wreck_the_fit():
    # the official loss turns holes into disparity 1e6 and ends at 0.039 with a constant prediction
    depth, disparity = scene(7, 100, 100)
    holes = torch.rand(100, 100, 1, generator=torch.Generator().manual_seed(0)) < 0.005
    assert int(holes.sum()) > 20
    pierced = torch.where(holes, 0.0, depth)
    assert float(losses.ssi_disparity(pierced, 3 * disparity + 0.1)) < 1e-6
    unknown = torch.where(holes, 0.0, 3 * disparity + 0.1)
    assert float(losses.ssi_disparity(depth, unknown)) < 1e-6
    broken = torch.where(holes, torch.nan, depth)
    assert float(losses.ssi_disparity(broken, 3 * disparity + 0.1)) < 1e-6


def test_floaters_are_outvoted():
    depth, disparity = scene(8)
    floaters = torch.rand(30, 40, 1, generator=torch.Generator().manual_seed(1)) < 0.1
    near = torch.where(floaters, 0.01, depth)
    scale, shift = losses.fit_scale_shift(
        (1 / near).flatten(), (2 * disparity + 0.3).flatten(), torch.ones(1200, dtype=torch.float64)
    )
    assert float(scale) == pytest.approx(2, rel=1e-2)
    assert float(shift) == pytest.approx(0.3, abs=1e-2)


def test_fit_without_outliers_is_least_squares_like():
    gen = torch.Generator().manual_seed(2)
    x = torch.rand(4000, generator=gen, dtype=torch.float64)
    y = 1.5 * x + 0.2 + 0.05 * torch.randn(4000, generator=gen, dtype=torch.float64)
    weight = torch.ones(4000, dtype=torch.float64)
    scale, shift = losses.fit_scale_shift(x, y, weight)
    exact = torch.linalg.lstsq(torch.stack([x, weight], 1), y[:, None]).solution[:, 0]
    assert float(scale) == pytest.approx(float(exact[0]), abs=0.02)
    assert float(shift) == pytest.approx(float(exact[1]), abs=0.02)
    y[:1000] += 3.0
    scale, shift = losses.fit_scale_shift(x, y, weight)
    assert float(scale) == pytest.approx(1.5, abs=0.03)
    assert float(shift) == pytest.approx(0.2, abs=0.03)


def test_fit_obeys_weights():
    gen = torch.Generator().manual_seed(3)
    x = torch.rand(500, generator=gen, dtype=torch.float64)
    y = 2 * x + 1
    y[:400] = 5 - x[:400]
    scale, shift = losses.fit_scale_shift(x, y, (torch.arange(500) >= 400).double())
    assert (float(scale), float(shift)) == pytest.approx((2, 1), abs=1e-6)


def test_upside_down_depth_is_pulled_the_right_way():
    depth, disparity = scene(9)
    inverted = (1 / (disparity.max() + disparity.min() - disparity)).requires_grad_()
    loss = losses.ssi_disparity(inverted, disparity)
    assert loss > 0.5
    loss.backward()
    better = losses.ssi_disparity((inverted - 1e-2 * inverted.grad / inverted.grad.abs().max()).detach(), disparity)
    assert better < loss


def test_disparity_gradient_is_that_of_the_detached_fit():
    depth, _ = scene(10, 6, 7)
    _, wanted = scene(11, 6, 7)
    depth.requires_grad_()
    losses.ssi_disparity(depth, wanted).backward()
    scale, shift = losses.fit_scale_shift(
        (1 / depth.detach()).flatten(), wanted.flatten(), torch.ones(42, dtype=torch.float64)
    )
    spread = (wanted - wanted.median()).abs().median()

    def frozen(values):
        residual = (scale / values + shift - wanted) / spread
        across, down = residual.diff(dim=1).abs().log1p().mean(), residual.diff(dim=0).abs().log1p().mean()
        return residual.abs().log1p().mean() + 0.5 * (across + down)

    expected = torch.autograd.functional.jacobian(frozen, depth.detach())
    torch.testing.assert_close(depth.grad, expected)


@pytest.mark.parametrize("depth_value", [0.0, 1.0, math.nan])
def test_disparity_degenerate_maps_give_finite_loss_and_gradient(depth_value):
    depth = torch.full((8, 8, 1), depth_value, requires_grad=True)
    for target in (torch.zeros(8, 8, 1), torch.ones(8, 8, 1), torch.rand(8, 8, 1)):
        loss = losses.ssi_disparity(depth, target)
        loss.backward()
        assert loss.isfinite()
        assert depth.grad.isfinite().all()
