"""The splats' parameters: how they start, and what the rasteriser is given.

Parameters are stored raw under Splatfacto's six names, so that Nerfstudio's export and viewer accept them: `means`
[N, 3], `scales` [N, 3] (log; the third is the surfel's thin axis, constant), `quats` [N, 4] (wxyz, any norm),
`features_dc` [N, 3], `features_rest` [N, K - 1, 3], `opacities` [N, 1] (logit).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from genfusion_ns.errors import UserError
from genfusion_ns.raster.api import Splats
from genfusion_ns.seeding import generator

log = logging.getLogger(__name__)

RATES = {
    "means": 1.6e-4,
    "features_dc": 2.5e-3,
    "features_rest": 1.25e-4,
    "opacities": 5e-2,
    "scales": 5e-3,
    "quats": 1e-3,
}
"""Adam's learning rates at the first step: 2DGS's; all lengths assume cameras within +-1."""
MEANS_RATE_END = 1.6e-6
"""The means' rate at the end of the run."""
PARAMETER_NAMES = ("means", "scales", "quats", "features_dc", "features_rest", "opacities")
SH_C0 = 0.28209479177387814
THICKNESS = 1e-6
"""World units. Viewers of exported 3D Gaussians need a third scale; 2D Gaussian Splatting itself ignores it."""


def activate(params: Mapping[str, Tensor]) -> Splats:
    """Raw parameters as the rasteriser takes them; differentiable."""
    sh = torch.cat([params["features_dc"][:, None], params["features_rest"]], dim=1)
    opacities = torch.sigmoid(params["opacities"])[:, 0]
    return Splats(params["means"], params["quats"], torch.exp(params["scales"]), opacities, sh)


def init_gaussians(
    xyz: Tensor,
    rgb: Tensor,
    sh_degree: int,
    *,
    seed: int = 0,
    opacity: float = 0.1,
    max_scale: float = math.inf,
    fallback_scale: float = 0.01,
    normals: Tensor | None = None,
) -> dict[str, Tensor]:
    """Raw parameters of one splat per point, as in 3DGS; turned uniformly at random where no normal is known.

    A splat's size is the root mean square of the distances to its three nearest neighbours, kept between 1/1000 of
    the median size and `max_scale`. Points with a coordinate that is not finite are dropped, with a warning.

    Args:
        xyz: [N, 3] world.
        rgb: [N, 3] in [0, 1]; what is not finite becomes grey.
        fallback_scale: size where neighbours cannot tell: a single point, or all at one place.
        normals: [N, 3] unit normals of the surface at each point, 0 where unknown.

    Raises:
        UserError: no usable point is left.
    """
    usable = xyz.isfinite().all(dim=-1)
    if not bool(usable.any()):
        raise UserError(
            f"found {len(xyz)} initial points, none of them finite; expected at least 1. Check the scene's point cloud "
            "(ply_file_path in transforms.json), or start from points sampled in the training views."
        )
    if not bool(usable.all()):
        log.warning("dropped %d of %d initial points: not finite", int((~usable).sum()), len(xyz))
    xyz, rgb = xyz[usable].float().cpu(), rgb[usable].float().cpu().nan_to_num(0.5, 0.5, 0.5).clamp(0, 1)
    n = len(xyz)
    quats = random_rotations(n, seed)
    if normals is not None:
        known = normals[usable].float().cpu()
        quats = torch.where(known.norm(dim=-1, keepdim=True) > 0.5, facing(known), quats)
    size = neighbour_distance(xyz, fallback_scale)
    scales = torch.log(size.clamp_max(max_scale))[:, None].repeat(1, 3)
    scales[:, 2] = math.log(THICKNESS)
    return {
        "means": xyz.clone(),
        "scales": scales,
        "quats": quats,
        "features_dc": (rgb - 0.5) / SH_C0,
        "features_rest": torch.zeros(n, (sh_degree + 1) ** 2 - 1, 3),
        "opacities": torch.full((n, 1), math.log(opacity / (1 - opacity))),
    }


def facing(normals: Tensor) -> Tensor:
    """[n, 4] quaternions (wxyz) that turn the z axis, a surfel's normal, to `normals` [n, 3] by the shortest way."""
    unit = torch.nn.functional.normalize(normals, dim=-1)
    x, y, z = unit.unbind(-1)
    quats = torch.stack([1 + z, -y, x, torch.zeros_like(z)], -1)
    # opposite to z the shortest way is not unique: half a turn about x
    quats = torch.where((z < -0.999999)[:, None], quats.new_tensor([0.0, 1.0, 0.0, 0.0]), quats)
    return torch.nn.functional.normalize(quats, dim=-1)


def neighbour_distance(xyz: Tensor, fallback: float) -> Tensor:
    """[N] root mean square distance to the three nearest neighbours (or as many as there are).

    At least 1/1000 of the median, so that coincident points stay visible; `fallback` where nothing has a distance.
    """
    neighbours = min(3, len(xyz) - 1)
    if neighbours < 1:
        return torch.full((len(xyz),), fallback)
    points = xyz.double().numpy()
    distance, _ = KDTree(points).query(points, k=neighbours + 1)
    size = torch.from_numpy(np.sqrt((distance[:, 1:] ** 2).mean(axis=1))).float()
    apart = size[size > 0]
    if not len(apart):
        return torch.full((len(xyz),), fallback)
    return size.clamp_min(1e-3 * float(apart.median()))


def random_rotations(n: int, seed: int) -> Tensor:
    """[n, 4] unit quaternions (wxyz), uniform over rotations: normalised Gaussian samples (Shoemake 1992)."""
    quats = torch.randn(n, 4, generator=generator(seed, "rotations"))
    return torch.nn.functional.normalize(quats, dim=-1)


def random_points(n: int, half_side: float, seed: int) -> tuple[Tensor, Tensor]:
    """xyz [n, 3] uniform in the cube [-half_side, half_side]^3, and grey rgb [n, 3]."""
    xyz = (torch.rand(n, 3, generator=generator(seed, "points in cube")) * 2.0 - 1.0) * half_side
    return xyz, torch.full((n, 3), 0.5)
