"""genfusion-mesh: turn a trained run into a coloured triangle mesh.

Nerfstudio's own mesh exporters work on rays and refuse splats; this takes their place.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
import tyro
from rich.console import Console
from rich.progress import track
from torch import Tensor

from genfusion_ns.bounds import ANY, NATURAL, POSITIVE, SHARE, Bound, Bounds, check_bounds
from genfusion_ns.errors import UserError, exits_cleanly
from genfusion_ns.files import check_output, replacing
from genfusion_ns.gaussians.mesh import View, fuse_mesh

if TYPE_CHECKING:
    from genfusion_ns.cameras import Camera
    from genfusion_ns.plugin.model import GenFusionModel

SUFFIXES = (".ply", ".obj", ".stl", ".gltf", ".glb")


@dataclass
class MeshArguments:
    """Fuse the depth that a trained run renders at its training views into a mesh (TSDF, through Open3D)."""

    load_config: Path
    """config.yml of the run, as ns-train wrote it: outputs/<scene>/<method>/<time>/config.yml."""
    output: Path = Path("mesh.ply")
    """Where to write the mesh: .ply, .obj, .stl, .gltf or .glb; an existing file is replaced."""
    bounds: tuple[float, float, float, float, float, float] | None = None
    """Box to mesh, x y z of its lowest then of its highest corner, in the run's world (cameras within +-1); by default
    the box that holds 98 % of the solid splats on each axis."""
    voxel_size: float | None = None
    """Edge of a voxel in world units; by default 1/256 of the box. Half of it takes four times the memory."""
    depth_trunc: float = math.inf
    """Leave out what is further from a camera than this, in world units; far surfaces are the least certain."""
    min_alpha: float = 0.5
    """Leave out pixels that are covered less than this; holes and floaters are."""
    clusters: int = 50
    """Keep so many connected pieces, the largest first; 0 keeps all, floaters too."""

    BOUNDS: ClassVar[Bounds] = {
        "bounds": ANY,
        "voxel_size": POSITIVE,
        "depth_trunc": Bound(0, math.inf, above=True),
        "min_alpha": SHARE,
        "clusters": NATURAL,
    }


def solid_box(means: Tensor, opacities: Tensor, share: float = 0.98) -> Tensor:
    """[2, 3] corners of the box that holds `share` of the splats with opacity >= 0.5 on each axis (of all, if none)."""
    solid = opacities >= 0.5
    points = means[solid] if bool(solid.any()) else means
    margin = (1.0 - share) / 2.0
    return torch.quantile(points.float().cpu(), torch.tensor([margin, 1.0 - margin]), dim=0)


def rendered_views(model: GenFusionModel, cameras: list[Camera]) -> Iterator[View]:
    """Render the views one by one, with a progress bar."""
    for camera in track(cameras, "rendering and fusing"):
        with torch.no_grad():
            render = model.render(camera.to(model.device))
        yield camera, render.color.clamp(0, 1), render.depth, render.alpha


@exits_cleanly
def run(arguments: MeshArguments) -> None:
    """Load the run, fuse its views, write the mesh.

    Raises:
        UserError: a path or number that cannot work, or nothing to mesh.
    """
    import open3d as o3d

    from genfusion_ns.gaussians.parameters import activate
    from genfusion_ns.plugin.runs import load_run

    check_bounds(arguments, "--")
    check_output(arguments.output, SUFFIXES)
    found = load_run(arguments.load_config)
    model = found.pipeline.model
    if arguments.bounds is None:
        splats = activate(dict(model.gauss_params.items()))
        bounds = solid_box(splats.means.detach(), splats.opacities.detach())
    else:
        bounds = torch.tensor(arguments.bounds).view(2, 3)
    mesh = fuse_mesh(
        rendered_views(model, found.training_cameras),
        bounds,
        arguments.voxel_size,
        depth_trunc=arguments.depth_trunc,
        min_alpha=arguments.min_alpha,
        clusters=arguments.clusters,
    )
    with replacing(arguments.output) as temporary:
        if not o3d.io.write_triangle_mesh(str(temporary), mesh):  # pyright: ignore[reportArgumentType]
            raise UserError(
                f"Open3D could not write {arguments.output}. Check that its folder is writable and not full."
            )
    Console().print(
        f"wrote {len(mesh.vertices):,} vertices and {len(mesh.triangles):,} triangles to {arguments.output}",
        highlight=False,
    )


def main() -> None:
    """Entry point."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(tyro.cli(MeshArguments))


if __name__ == "__main__":
    main()
