"""The CUDA rasteriser: an adapter onto gsplat's 2DGS kernels (1.4.0) that mends what they leave open.

What needs care in that version: backgrounds do not work together with depth; the distortion's gradient needs
`distloss`; channels are padded to fixed numbers, and the padding then takes the place of the depth, from which
distortion and median depth are made; and a NaN in a parameter spreads over the image.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from genfusion_ns.cameras import Camera
from genfusion_ns.raster.api import Rasterizer, Render, Splats
from genfusion_ns.raster.constants import TILE
from genfusion_ns.raster.torch_reference import TorchRasterizer

_CHANNELS = (1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 512)
"""Numbers of channels, depth included, for which gsplat has kernels."""


@torch.no_grad()
def _hidden(splats: Splats, camera: Camera) -> Tensor:
    """[N] bool: splats that hold a NaN or an infinity, have no rotation, or are so large that float32 overflows."""
    means, quats, scales, opacities, colors = splats
    footprint = (scales[:, :2] * camera.K.diagonal().max()).square().sum(1).square()
    total = means.sum(1) + quats.sum(1) + footprint + opacities + colors.flatten(1).sum(1)
    return ~total.isfinite() | ~(quats.square().sum(1) > 0)


def _pad_channels(colors: Tensor) -> Tensor:
    """Plain colours [N, C], padded with zeros to a number that is gsplat's less one, for the depth."""
    wanted = next((n - 1 for n in _CHANNELS if n - 1 >= colors.shape[1]), None)
    if wanted is None:
        raise ValueError(f"colors has {colors.shape[1]} channels, gsplat can take {_CHANNELS[-1] - 1}.")
    return torch.nn.functional.pad(colors, (0, wanted - colors.shape[1]))


class GsplatRasterizer(Rasterizer):
    """Rasteriser for CUDA, float32 only."""

    name = "gsplat"

    def render(
        self, splats: Splats, camera: Camera, sh_degree: int | None, background: Tensor | None, near: float, far: float
    ) -> Render:
        means, quats, scales, opacities, colors = splats
        if len(means) == 0:  # its kernels cannot be launched on nothing
            return TorchRasterizer().render(splats, camera, sh_degree, background, near, far)
        # On the camera's centre a splat is in front of the near plane, and nothing else of it is read.
        means = torch.where(_hidden(splats, camera)[:, None], camera.position, means)
        signal = torch.zeros(len(means), 2, dtype=means.dtype, device=means.device, requires_grad=True)
        features = colors if sh_degree is not None else _pad_channels(colors)
        r = rasterize_surfels(means, quats, scales, opacities, features, signal, camera, sh_degree, near, far)
        color = r.color[..., : colors.shape[-1]]
        return replace(r, color=color if background is None else color + (1 - r.alpha) * background)


def rasterize_surfels(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    signal: Tensor,
    camera: Camera,
    sh_degree: int | None,
    near: float,
    far: float,
) -> Render:
    """Render one view over black; what the arguments are stands in `api.Rasterizer`.

    `gsplat.rasterization_2dgs` makes the same calls, and besides normals of the depth map and three inverses of the
    camera's pose, each of which makes the host wait for the GPU; nothing here uses them.

    Args:
        colors: [N, K, 3] SH coefficients, or without `sh_degree` [N, C] where C + 1 is a number of channels that gsplat
            has kernels for.
        signal: [N, 2] zeros; their gradient is each splat's positional gradient on the screen.
    """
    from gsplat.cuda import _wrapper  # loads CUDA code, or compiles it

    gsplat: Any = _wrapper  # whose annotations name fewer outputs than it returns

    view, K = camera.w2c[None], camera.K[None]
    size = camera.width, camera.height
    radii, centres, depths, transforms, normals = gsplat.fully_fused_projection_2dgs(
        means, quats, scales, view, K, *size, near_plane=near, far_plane=far
    )
    tiles = math.ceil(camera.width / TILE), math.ceil(camera.height / TILE)
    _, pairs, splats = gsplat.isect_tiles(centres, radii, depths, TILE, *tiles, n_cameras=1)
    if sh_degree is None:
        features = colors[None]
    else:
        towards = (means - camera.position)[None]
        raw = gsplat.spherical_harmonics(sh_degree, towards, colors[None], masks=radii > 0)
        features = torch.clamp_min(raw + 0.5, 0.0)
    blended, alpha, normal, distortion, median = gsplat.rasterize_to_pixels_2dgs(
        centres,
        transforms,
        torch.cat([features, depths[..., None]], dim=-1),
        opacities[None],
        normals,
        signal[None],
        *size,
        TILE,
        gsplat.isect_offset_encode(pairs, 1, *tiles),
        splats,
        distloss=True,
    )
    depth = blended[0, ..., -1:] / alpha[0].clamp(min=1e-10)
    world = normal[0] @ camera.w2c[:3, :3]
    return Render(
        blended[0, ..., :-1], alpha[0], depth, median[0], world, distortion[0], radii[0].int(), densify_signal=signal
    )
