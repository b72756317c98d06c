"""The CUDA rasteriser: an adapter onto gsplat's 2DGS kernels (1.4.0) that mends what they leave open.

What needs care in that version: backgrounds do not work together with depth; the distortion's gradient needs
`distloss`; channels are padded to fixed numbers, and the padding then takes the place of the depth, from which
distortion and median depth are made; and a NaN in a parameter spreads over the image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genfusion_ns.cameras import Camera
from genfusion_ns.raster.api import Render
from genfusion_ns.raster.checks import check_inputs
from genfusion_ns.raster.gsplat_calls import rasterize_surfels
from genfusion_ns.raster.torch_reference import TorchRasterizer

_CHANNELS = (1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 512)
"""Numbers of channels, depth included, for which gsplat has kernels."""


@torch.no_grad()
def _hidden(means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor, camera: Camera) -> Tensor:
    """[N] bool: splats that hold a NaN or an infinity, have no rotation, or are so large that float32 overflows."""
    footprint = (scales[:, :2] * camera.K.diagonal().max()).square().sum(1).square()
    total = means.sum(1) + quats.sum(1) + footprint + opacities + colors.flatten(1).sum(1)
    return ~total.isfinite() | ~(quats.square().sum(1) > 0)


def _pad_channels(colors: Tensor) -> Tensor:
    """Plain colours [N, C], padded with zeros to a number that is gsplat's less one, for the depth."""
    wanted = next((n - 1 for n in _CHANNELS if n - 1 >= colors.shape[1]), None)
    if wanted is None:
        raise ValueError(f"colors has {colors.shape[1]} channels, gsplat can take {_CHANNELS[-1] - 1}.")
    return torch.nn.functional.pad(colors, (0, wanted - colors.shape[1]))


class GsplatRasterizer:
    """Rasteriser for CUDA; see `api.Rasterizer`. float32 only."""

    name = "gsplat"

    def __call__(
        self,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        colors: Tensor,
        camera: Camera,
        *,
        sh_degree: int | None,
        background: Tensor | None = None,
        near: float = 0.01,
        far: float = 1e10,
    ) -> Render:
        """Render one view; shapes and meaning in `api.Rasterizer`, errors in `checks.check_inputs`."""
        check_inputs(means, quats, scales, opacities, colors, sh_degree, background)
        if len(means) == 0:  # its kernels cannot be launched on nothing
            return TorchRasterizer()(
                means,
                quats,
                scales,
                opacities,
                colors,
                camera,
                sh_degree=sh_degree,
                background=background,
                near=near,
                far=far,
            )
        camera = camera.to(means.device, means.dtype)
        channels = 3 if sh_degree is not None else colors.shape[1]
        # On the camera's centre a splat is in front of the near plane, and nothing else of it is read.
        hidden = _hidden(means, quats, scales, opacities, colors, camera)
        means = torch.where(hidden[:, None], camera.position, means)
        signal = torch.zeros(len(means), 2, dtype=means.dtype, device=means.device, requires_grad=True)
        features = colors if sh_degree is not None else _pad_channels(colors)
        maps = rasterize_surfels(means, quats, scales, opacities, features, signal, camera, sh_degree, near, far)
        color = maps.color[..., :channels]
        if background is not None:
            color = color + (1 - maps.alpha) * background
        return Render(
            color,
            maps.alpha,
            maps.depth,
            maps.median_depth,
            maps.normal,
            maps.distortion,
            maps.radii.int(),
            signal,
        )
