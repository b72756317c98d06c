"""gsplat 1.4.0's calls from surfels to maps.

`gsplat.rasterization_2dgs` makes the same calls, and besides normals of the depth map and three inverses of the
camera's pose, each of which makes the host wait for the GPU; nothing here uses them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from genfusion_ns.cameras import Camera
from genfusion_ns.raster.api import Render
from genfusion_ns.raster.constants import TILE


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
