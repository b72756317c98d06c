"""Losses as pure functions of images [H, W, C] in [0, 1] and of maps [H, W, 1]."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from genfusion_ns.cameras import Camera
from genfusion_ns.geometry import depth_to_normal
from genfusion_ns.raster.api import Render

_C1, _C2 = 0.01**2, 0.03**2
_WINDOW, _SIGMA = 11, 1.5
MOST_FITTED = 1 << 17
"""Of larger disparity maps only every second, third, ... row and column is fitted."""


def l1(pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean absolute difference; `weight` [H, W, 1] >= 0 makes it a weighted mean (0 where all weights are 0)."""
    return weighted_mean((pred - target).abs(), weight)


def weighted_mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of [H, W, C] under weights [H, W, 1] >= 0; 0 where all weights are 0."""
    if weight is None:
        return values.mean()
    return (values * weight).sum() / (weight.sum() * values.shape[-1]).clamp_min(1e-8)


def psnr(pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in dB of images in [0, 1]; infinite where they are equal."""
    return -10.0 * torch.log10(weighted_mean((pred - target) ** 2, weight))


@functools.cache
def _kernel(channels: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[C, 1, 11, 1] Gaussian column, sums to 1."""
    offsets = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    column = torch.exp(-(offsets**2) / (2 * _SIGMA**2))
    return (column / column.sum()).to(device, dtype).view(1, 1, -1, 1).repeat(channels, 1, 1, 1)


def _blur(image: Tensor) -> Tensor:
    """Zero-padded Gaussian blur of [H, W, C]; the kernel is symmetric, so the operator is its own adjoint."""
    column = _kernel(image.shape[-1], image.dtype, image.device)
    # [H, W, C] seen as [1, C, H, W] is channels-last, the one layout in which depthwise convolution is fast on CPUs
    batch = image.permute(2, 0, 1)[None]
    batch = F.conv2d(batch, column, padding=(_WINDOW // 2, 0), groups=image.shape[-1])
    batch = F.conv2d(batch, column.transpose(2, 3), padding=(0, _WINDOW // 2), groups=image.shape[-1])
    return batch[0].permute(1, 2, 0)


class _SSIM(torch.autograd.Function):
    """SSIM map with a hand-written backward pass: a third of the operations that autograd would run.

    With m, n the blurred images, q = blur(pred^2 + target^2) and r = blur(pred * target), SSIM = A C / (B D) where
    A = 2 m n + C1, B = m^2 + n^2 + C1, C = 2 (r - m n) + C2 and D = q - m^2 - n^2 + C2. Only the sum of both variances
    is needed, so four blurs do instead of five, and three of the derivatives by m, q and r lead back to pred.
    """

    @staticmethod
    def forward(ctx, pred: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        stack = torch.cat([pred, target, pred * pred + target * target, pred * target], dim=-1)
        m, n, q, r = _blur(stack).chunk(4, dim=-1)
        mn, squares = m * n, m * m + n * n
        a, b = 2 * mn + _C1, squares + _C1
        c, d = 2 * (r - mn) + _C2, q - squares + _C2
        inverse = 1 / (b * d)
        similarity = a * c * inverse
        if ctx.needs_input_grad[0]:
            by_r = 2 * a * inverse
            by_q = -similarity / d
            by_m = n * (2 * c * inverse - by_r) - 2 * m * (similarity / b + by_q)
            ctx.save_for_backward(pred, target, torch.stack([by_m, by_q, by_r], dim=-2))
        return similarity

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        pred, target, partial = ctx.saved_tensors
        by_m, by_q, by_r = _blur((grad[..., None, :] * partial).flatten(-2)).chunk(3, dim=-1)
        return by_m + 2 * pred * by_q + target * by_r, None


def ssim_map(pred: Tensor, target: Tensor) -> Tensor:
    """[H, W, C] structural similarity in [-1, 1] (Wang et al. 2004): 11 x 11 Gaussian window, sigma 1.5, zero padding,
    C1 = 0.01^2, C2 = 0.03^2 as in 3DGS. Differentiable with respect to `pred` only."""
    return _SSIM.apply(pred, target)  # type: ignore[return-value]


def ssim(pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean structural similarity; with `weight` [H, W, 1] >= 0 pixels of weight 0 reach no window at all."""
    if weight is None:
        return ssim_map(pred, target).mean()
    seen = weight > 0
    return weighted_mean(ssim_map(pred * seen, target * seen), weight)


def sharpness(image: Tensor) -> float:
    """Mean absolute gradient of an image [H, W, 3]."""
    return float(image.diff(dim=0).abs().mean() + image.diff(dim=1).abs().mean()) / 2


def photometric(pred: Tensor, target: Tensor, ssim_weight: float, weight: Tensor | None = None) -> Tensor:
    """(1 - s) * L1 + s * (1 - SSIM), s = `ssim_weight` (3DGS: 0.2; GenFusion: 0.5 sparse, 0.8 masked)."""
    loss = (1.0 - ssim_weight) * l1(pred, target, weight)
    if ssim_weight:
        loss = loss + ssim_weight * (1.0 - ssim(pred, target, weight))
    return loss


def distortion(distortion_map: Tensor) -> Tensor:
    """Mean of the rasteriser's depth distortion [H, W, 1] (2DGS eq. 13 in gsplat's L1 form: scales with depth)."""
    return distortion_map.mean()


def normal_consistency(normal: Tensor, surface_normal: Tensor, alpha: Tensor) -> Tensor:
    """Mean of alpha * (1 - n . N): splats lie along the surface that the depth map shows (2DGS eq. 14).

    Args:
        normal: [H, W, 3] rendered sum of w * n.
        surface_normal: [H, W, 3] unit normals of the depth map, 0 where undefined (no term there).
        alpha: [H, W, 1] accumulated opacity, a weight without gradient as in the official 2DGS.
    """
    defined = (surface_normal * surface_normal).sum(-1, keepdim=True) > 0.25
    agreement = (normal * surface_normal).sum(-1, keepdim=True)
    return (alpha.detach() * defined * (1.0 - agreement)).mean()


def surface_terms(render: Render, camera: Camera, distortion_weight: float, normal_weight: float) -> dict[str, Tensor]:
    """2DGS's regularisers whose weight is not 0 (arXiv 2403.17888, equations 13 and 14), each times its weight."""
    terms: dict[str, Tensor] = {}
    if distortion_weight > 0:
        terms["distortion"] = distortion_weight * distortion(render.distortion)
    if normal_weight > 0:
        surface = depth_to_normal(render.depth, camera)
        terms["normal"] = normal_weight * normal_consistency(render.normal, surface, render.alpha)
    return terms


def opacity_cost(opacities: Tensor, views: int) -> Tensor:
    """Mean opacity of splats with logits `opacities` [N, 1], over the number of captured `views`: each splat has to be
    worth its opacity, and what no photo needs fades until it is pruned (after Kheradmand et al. 2024, 3D Gaussian
    Splatting as Markov Chain Monte Carlo). As a prior it counts once for all photos, not once for each."""
    return opacities.sigmoid().mean() / views


def fit_scale_shift(source: Tensor, target: Tensor, weight: Tensor, iterations: int = 8) -> tuple[Tensor, Tensor]:
    """Robust a > 0 and b with a * source + b ~ target, without gradient.

    Starts from medians and median deviations (MiDaS's alignment), then reweights least squares with Geman and McClure's
    (c^2 / (c^2 + r^2))^2, c from the median residual. Those weights fall faster than a residual grows: a floater just
    in front of the camera has a huge disparity, and would bend a fit by least absolute deviations too. Where the two
    maps do not rise together a fit would turn one upside down; the starting values are kept there instead.

    Nothing is indexed and no value is read by the host, so that a GPU never waits.

    Args:
        source, target: values of any shape, finite.
        weight: of the same shape, >= 0; where all of it is 0 the results mean nothing, but are finite.

    Returns:
        scalars a and b.
    """
    with torch.no_grad():
        hidden = torch.where(weight > 0, 0.0, torch.nan)  # added to values it hides them from nanmedian
        (source_mid, source_dev), (target_mid, target_dev) = _spread(source, hidden), _spread(target, hidden)
        unit = target_dev.clamp_min(1e-12)
        # In units of their own spread, least squares by sums stays exact in float32.
        s = ((source - source_mid) / source_dev.clamp_min(1e-12)).flatten()
        t = ((target - target_mid) / unit).flatten()
        weight, hidden, one = weight.flatten(), hidden.flatten(), torch.ones_like(s)
        basis = torch.stack([s, one], dim=1)
        # of the normal equations; the bit more keeps them solvable where the source is constant
        sums = torch.stack([s * s + 1e-12, s, s, one, s * t, t])
        start = line = basis.new_zeros(2).index_fill_(0, s.new_zeros(1, dtype=torch.long), 1.0)
        rising = torch.ones_like(line[:1], dtype=torch.bool)
        for _ in range(iterations):
            square = torch.addmv(t, basis, line, beta=-1.0).square()
            cut = torch.nanmedian(square + hidden).clamp_min(2.5e-9)
            w = weight * torch.addcdiv(one, square, cut, value=0.25).pow(-2)
            moments = sums @ w
            fitted = torch.linalg.solve_ex(moments[:4].view(2, 2), moments[4:]).result
            rising = rising & (fitted[:1] > 0.05)
            line = torch.where(rising, fitted, start)
        scale = line[0] * unit / source_dev.clamp_min(1e-12)
        return scale, target_mid + line[1] * unit - scale * source_mid


def _spread(values: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Median of the values where `hidden` is 0 and not NaN, and of their distances from it (the mean, where that is
    0); 0 and 0 where there are none."""
    middle = torch.nanmedian(values + hidden).nan_to_num(0.0)
    distance = (values - middle).abs() + hidden
    deviation = torch.nanmedian(distance)
    return middle, torch.where(deviation > 0, deviation, distance.nanmean()).nan_to_num(0.0)


def ssi_disparity(
    depth: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    gradient_weight: float = 0.5,
    min_pixels: int = 16,
) -> Tensor:
    """Difference of rendered and wanted disparity, whatever the scale and shift of either.

    The render's disparity 1 / depth is fitted to the target on valid pixels (`fit_scale_shift`, detached). With r the
    residual in units of the target's own spread, the loss is the mean of log(1 + |r|) plus `gradient_weight` times the
    mean of log(1 + |difference of neighbouring r|) (after MiDaS, arXiv 1907.01341, eqs. 3-11, one scale; the logarithm
    is ours, since the disparity of a floater near the camera would outweigh the whole image).

    Args:
        depth: [H, W, 1] rendered z-depth; 0 (or not finite) = hole.
        target: [H, W, 1] disparity up to scale and shift; <= 0 (or not finite) = unknown.
        weight: [H, W, 1] >= 0 confidence of the target; None = 1.
        min_pixels: with fewer valid pixels there is nothing to fit and the loss is 0.

    Returns:
        scalar >= 0, differentiable with respect to `depth`.
    """
    weight = torch.ones_like(depth) if weight is None else weight
    valid = (depth > 1e-6) & depth.isfinite() & (target > 0) & target.isfinite() & (weight > 0)
    valid = valid & (valid.sum() >= min_pixels)
    disparity = 1.0 / torch.where(valid, depth, 1.0)
    target = torch.where(valid, target, 0.0)
    weight = torch.where(valid, weight, 0.0)
    step = 1 + int((depth.numel() / MOST_FITTED) ** 0.5)
    few = slice(None, None, step)
    scale, shift = fit_scale_shift(disparity.detach()[few, few], target[few, few], weight[few, few])
    deviation = _spread(target, torch.where(valid, 0.0, torch.nan))[1]
    unit = deviation.clamp_min(1e-6 * target.max().clamp_min(1e-12))
    residual = (scale * disparity + shift - target) / unit
    loss = weighted_mean(residual.abs().log1p(), weight)
    for axis in (0, 1):
        size = depth.shape[axis]
        pair = torch.minimum(weight.narrow(axis, 1, size - 1), weight.narrow(axis, 0, size - 1))
        step = residual.narrow(axis, 1, size - 1) - residual.narrow(axis, 0, size - 1)
        loss = loss + gradient_weight * weighted_mean(step.abs().log1p(), pair)
    return loss
