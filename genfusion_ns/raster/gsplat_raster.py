"""The CUDA rasteriser: an adapter onto `gsplat.rasterization_2dgs` (1.4.0) that mends what it leaves open.

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
from genfusion_ns.raster.constants import TILE
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


def _own_signal(leaf: Tensor, count: int) -> Tensor:
    """[N, 2] zeros whose `.grad` is filled with that of gsplat's own `leaf` [1, N, 2]."""
    signal = torch.zeros(count, 2, dtype=leaf.dtype, device=leaf.device, requires_grad=True)

    def deliver(leaf: Tensor) -> None:
        if leaf.grad is not None:
            signal.grad = leaf.grad[0]

    leaf.register_post_accumulate_grad_hook(deliver)
    return signal


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
        from gsplat import rasterization_2dgs  # loads CUDA code, or compiles it

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
        maps, alpha, normal, _, distortion, median_depth, meta = rasterization_2dgs(
            means,
            quats,
            scales,
            opacities,
            colors if sh_degree is not None else _pad_channels(colors),
            camera.w2c[None],
            camera.K[None],
            camera.width,
            camera.height,
            near_plane=near,
            far_plane=far,
            sh_degree=sh_degree,
            tile_size=TILE,
            render_mode="RGB+ED",
            distloss=True,
        )
        color, alpha = maps[0, ..., :channels], alpha[0]
        if background is not None:
            color = color + (1 - alpha) * background
        signal = _own_signal(meta["gradient_2dgs"], len(means))
        depth = maps[0, ..., -1:]
        return Render(color, alpha, depth, median_depth[0], normal[0], distortion[0], meta["radii"][0].int(), signal)
