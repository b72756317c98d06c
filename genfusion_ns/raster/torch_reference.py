"""The readable rasteriser: plain differentiable torch, tile by tile; any device, dtype and number of channels.

It is the oracle of the fast backends and the fallback where numba cannot run. See `api` for what it computes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from genfusion_ns.cameras import Camera
from genfusion_ns.raster.api import Rasterizer, Render, Splats
from genfusion_ns.raster.constants import ALPHA_MAX, ALPHA_MIN, GRAZING, LOW_PASS, TILE, TRANSMITTANCE_MIN
from genfusion_ns.raster.torch_projection import Discs, bin_into_tiles, project, shade

_RECOMPUTE_ABOVE = 40_000_000
"""Pairs of pixels and splats above which tiles are recomputed in the backward pass; they need about 100 bytes each."""


def _pixel_alphas(pixels: Tensor, centre: Tensor, pixel_from_disc: Tensor, opacity: Tensor) -> Tensor:
    """Opacity [P, n] of n discs in the pixels at `pixels` [P, 2] (2DGS, equations 9 to 11).

    A pixel's ray is the intersection of the planes x = px and y = py; pulled back to the disc's plane they are the
    lines px * w - u and py * w - v, and their cross product is the hit point, linear in (px, py).
    """
    # Measured from the projected centre the lines are short differences, not differences of large numbers. The hit
    # point does not depend on the origin, so that no gradient flows through it.
    origin = (pixel_from_disc[:, :2, 2] / pixel_from_disc[:, 2:, 2]).detach()
    w = pixel_from_disc[:, 2]
    u, v = (pixel_from_disc[:, :2] - origin[:, :, None] * w[:, None]).unbind(1)
    per_x, per_y, constant = torch.linalg.cross(v, w), torch.linalg.cross(w, u), torch.linalg.cross(u, v)
    dx, dy = pixels[:, 0, None] - origin[:, 0], pixels[:, 1, None] - origin[:, 1]
    hit_u, hit_v, hit_w = (dx * per_x[:, i] + dy * per_y[:, i] + constant[:, i] for i in range(3))
    hits = hit_w.abs() > GRAZING
    ex, ey = pixels[:, 0, None] - centre[:, 0], pixels[:, 1, None] - centre[:, 1]
    on_screen = LOW_PASS * (ex.square() + ey.square())
    with torch.no_grad():
        disc_decides = hits & (hit_u.square() + hit_v.square() <= on_screen * hit_w.square())
    # Where the low-pass decides, the division must not take part: its gradient would be 0 times infinity.
    hit_w = torch.where(disc_decides, hit_w, torch.ones_like(hit_w))
    on_disc = (hit_u / hit_w).square() + (hit_v / hit_w).square()
    rho = torch.where(disc_decides, on_disc, on_screen)
    alpha = (opacity * torch.exp(-0.5 * rho)).clamp_max(ALPHA_MAX)
    return torch.where(hits & (alpha >= ALPHA_MIN), alpha, torch.zeros_like(alpha))


def _composite_tile(
    pixels: Tensor,  # [P, 2]
    centre: Tensor,  # [n, 2], front to back
    pixel_from_disc: Tensor,  # [n, 3, 3]
    opacity: Tensor,  # [n]
    features: Tensor,  # [n, F], depth in channel 0
) -> Tensor:
    """[P, F + 3]: sums of weight times feature, then alpha, distortion and median depth."""
    alpha = _pixel_alphas(pixels, centre, pixel_from_disc, opacity)
    behind = torch.cumprod(1 - alpha, 1)
    alpha = torch.where(behind > TRANSMITTANCE_MIN, alpha, torch.zeros_like(alpha))
    behind = torch.cumprod(1 - alpha, 1)
    transmittance = torch.cat([torch.ones_like(behind[:, :1]), behind[:, :-1]], 1)
    weight = alpha * transmittance
    depth = features[:, 0]
    weighted = weight * depth
    # sum over pairs j < i of 2 w_i w_j (z_i - z_j); the w_j in front of i sum to 1 - T_i.
    in_front = weighted.cumsum(1) - weighted
    distortion = 2 * (weighted * (1 - transmittance) - weight * in_front).sum(1, keepdim=True)
    with torch.no_grad():
        rank = torch.arange(1, len(depth) + 1, device=depth.device)
        median = torch.where((weight > 0) & (transmittance > 0.5), rank, 0).amax(1, keepdim=True)
    median_depth = torch.where(median > 0, depth[(median - 1).clamp_min(0)], torch.zeros_like(distortion))
    return torch.cat([weight @ features, 1 - behind[:, -1:], distortion, median_depth], 1)


def _composite(
    discs: Discs, pixel_from_disc: Tensor, opacity: Tensor, features: Tensor, width: int, height: int
) -> Tensor:
    """[H, W, F + 3] maps of all tiles, laid out as in `_composite_tile`."""
    splats, offsets = bin_into_tiles(discs, width, height)
    across, down = -(-width // TILE), -(-height // TILE)
    ticks = torch.arange(TILE, dtype=features.dtype, device=features.device) + 0.5
    grid = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1).reshape(-1, 2)
    recompute = torch.is_grad_enabled() and len(splats) * TILE * TILE > _RECOMPUTE_ABOVE
    # Empty sums tie an image without splats to the parameters, so that its backward pass works, too.
    nothing = sum(t[:0].sum() for t in (features, opacity, discs.centre, pixel_from_disc))
    empty = nothing + features.new_zeros(TILE * TILE, features.shape[1] + 3)
    tiles = []
    for tile in range(across * down):
        run = splats[offsets[tile] : offsets[tile + 1]]
        if len(run) == 0:
            tiles.append(empty)
            continue
        corner = grid.new_tensor([tile % across * TILE, tile // across * TILE])
        arguments = (grid + corner, discs.centre[run], pixel_from_disc[run], opacity[run], features[run])
        tiles.append(
            checkpoint(_composite_tile, *arguments, use_reentrant=False) if recompute else _composite_tile(*arguments)
        )
    maps = torch.stack(tiles).reshape(down, across, TILE, TILE, -1).transpose(1, 2)
    return maps.reshape(down * TILE, across * TILE, -1)[:height, :width]


class TorchRasterizer(Rasterizer):
    """Differentiable rasteriser in plain torch."""

    name = "torch"

    def render(
        self, splats: Splats, camera: Camera, sh_degree: int | None, background: Tensor | None, near: float, far: float
    ) -> Render:
        means, quats, scales, opacities, colors = splats
        used = colors if sh_degree is None else colors[:, : (sh_degree + 1) ** 2].flatten(1)
        usable = opacities.isfinite() & used.isfinite().all(-1)
        discs = project(means, quats, scales, usable, camera, near, far)
        color = colors[discs.index]
        if sh_degree is not None:
            color = shade(means[discs.index], color, sh_degree, camera.position)
        densify_signal = torch.zeros(len(means), 2, dtype=means.dtype, device=means.device, requires_grad=True)
        # gsplat's densification signal is z * dL/dM[:2, 2], where M is the homography that rays are intersected with
        # (the copy that gives the bounding box's centre does not count). M[:2, 2] / z is the projected centre, so
        # that this is the gradient of a shift of it by `densify_signal` pixels.
        shift = densify_signal[discs.index] * discs.depth.detach()[:, None]
        shift = torch.nn.functional.pad(shift[:, :, None], (2, 0, 0, 1))
        features = torch.cat([discs.depth[:, None], discs.normal, color], 1)
        maps = _composite(
            discs, discs.pixel_from_disc + shift, opacities[discs.index], features, camera.width, camera.height
        )
        summed_depth, normal, color, alpha, distortion, median_depth = maps.split(
            [1, 3, color.shape[1], 1, 1, 1], dim=-1
        )
        if background is not None:
            color = color + (1 - alpha) * background
        depth = summed_depth / torch.where(alpha > 0, alpha, torch.ones_like(alpha))
        radii = torch.zeros(len(means), dtype=torch.int32, device=means.device)
        radii[discs.index] = discs.radius.int()
        return Render(color, alpha, depth, median_depth, normal, distortion, radii, densify_signal)
