"""gsplat's kernels on the make-believe device: they take float32 tensors on CUDA only, and compute with numba's."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from simulated_cuda import LEDGER, bare, clad, on_device
from torch import Tensor

from genfusion_ns.cameras import Camera
from genfusion_ns.raster import Render
from genfusion_ns.raster import gsplat as gsplat_raster
from genfusion_ns.raster.numba.rasterizer import NumbaRasterizer

NUMBA = NumbaRasterizer()


class _Kernels(torch.autograd.Function):
    """All kernels of one view at once; the inputs and outputs of `gsplat.rasterize_surfels`."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        *tensors, camera, sh_degree, near, far, on_host = args
        names = ("means", "quats", "scales", "opacities", "colors", "signal")
        for name, x in [*zip(names, tensors, strict=True), ("w2c", camera.w2c), ("K", camera.K)]:
            assert on_device(x) != on_host and x.dtype == torch.float32, (
                f"gsplat is given {name}, {x.dtype} on {x.device}"
            )
        LEDGER.wait("gsplat: number of tile pairs")
        leaves = [bare(x).detach().clone().requires_grad_() for x in tensors[:5]]
        view = Camera(bare(camera.w2c), bare(camera.K), camera.width, camera.height)
        with torch.enable_grad():
            r = NUMBA(*leaves, view, sh_degree=sh_degree, near=near, far=far)
        maps = r.color, r.alpha, r.depth, r.median_depth, r.normal, r.distortion
        ctx.leaves, ctx.maps = [*leaves, r.densify_signal], maps
        ctx.set_materialize_grads(False)
        ctx.clad = (lambda m: m) if on_host else clad
        results = [ctx.clad(m.detach().clone()) for m in (*maps, r.radii)]
        ctx.mark_non_differentiable(results[-1])
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        LEDGER.wait("gsplat: synchronize after backward")
        pairs = [(m, bare(g)) for m, g in zip(ctx.maps, grads, strict=False) if g is not None and m.requires_grad]
        maps, wanted = zip(*pairs, strict=True)
        found = torch.autograd.grad(maps, ctx.leaves, wanted, allow_unused=True)
        return (*[None if g is None else ctx.clad(g) for g in found], None, None, None, None, None)


def kernels(*args: Any) -> Render:
    """Stands in for `gsplat.rasterize_surfels`."""
    return Render(*_Kernels.apply(*args, False), densify_signal=args[5])


def host_kernels(*args: Any) -> Render:
    """The same on the CPU, for comparisons that should differ in nothing else."""
    return Render(*_Kernels.apply(*args, True), densify_signal=args[5])


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """gsplat as a machine with its CUDA code would have it."""
    monkeypatch.setattr(gsplat_raster, "rasterize_surfels", kernels)
    compiled = SimpleNamespace(_C=object())
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", compiled)
    import gsplat.cuda

    monkeypatch.setattr(gsplat.cuda, "_backend", compiled, raising=False)


class Steps:
    """The separate calls of `gsplat.cuda._wrapper`, as functions of arbitrary but fixed formulas, with gsplat's shapes.

    Two callers that make the same calls get the same results, and whoever mixes up an argument gets others.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """In gsplat's own module of calls, and where its `rasterization_2dgs` has imported them."""
        import gsplat.cuda._wrapper
        import gsplat.rendering

        names = (
            "fully_fused_projection_2dgs isect_tiles isect_offset_encode spherical_harmonics rasterize_to_pixels_2dgs"
        )
        for name in names.split():
            monkeypatch.setattr(gsplat.cuda._wrapper, name, getattr(self, name))
            monkeypatch.setattr(gsplat.rendering, name, getattr(self, name))

    def fully_fused_projection_2dgs(
        self,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        views: Tensor,
        Ks: Tensor,
        width: int,
        height: int,
        eps2d: float = 0.3,
        near_plane: float = 0.01,
        far_plane: float = 1e10,
        radius_clip: float = 0.0,
        packed: bool = False,
        sparse_grad: bool = False,
    ) -> tuple[Tensor, ...]:
        assert views.shape == (1, 4, 4) and Ks.shape == (1, 3, 3) and not packed and not sparse_grad
        self.calls.append("project")
        local = means @ views[0, :3, :3].T + views[0, :3, 3]
        depths = local[:, 2] + eps2d
        inside = (depths > near_plane) & (depths < far_plane)
        radii = (inside * (10 + radius_clip)).int()
        centres = local[:, :2] * Ks[0].diagonal()[:2] + (width + 2 * height)
        transforms = torch.einsum("ni,nj->nij", scales, quats[:, :3])
        return radii[None], centres[None], depths[None], transforms[None], (scales * quats[:, 1:])[None]

    def isect_tiles(
        self, means2d: Tensor, radii: Tensor, depths: Tensor, size: int, wide: int, high: int, **options: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        assert not options.pop("packed", False) and options.pop("n_cameras") == 1
        assert all(value is None for value in options.values())
        self.calls.append("tiles")
        order = depths[0].argsort()
        return radii, order * size + wide, order + high

    def isect_offset_encode(self, pairs: Tensor, cameras: int, wide: int, high: int) -> Tensor:
        self.calls.append("offsets")
        return pairs.sum() + torch.arange(cameras * wide * high, device=pairs.device).reshape(cameras, high, wide)

    def spherical_harmonics(self, degree: int, dirs: Tensor, coeffs: Tensor, masks: Tensor | None = None) -> Tensor:
        assert masks is not None and masks.dtype == torch.bool and masks.shape == dirs.shape[:-1]
        self.calls.append("harmonics")
        used = coeffs[:, :, : (degree + 1) ** 2].mean(2)
        return (used + torch.nn.functional.normalize(dirs, dim=-1)) * masks[..., None]

    def rasterize_to_pixels_2dgs(
        self,
        means2d: Tensor,
        transforms: Tensor,
        colors: Tensor,
        opacities: Tensor,
        normals: Tensor,
        densify: Tensor,
        width: int,
        height: int,
        tile_size: int,
        offsets: Tensor,
        splats: Tensor,
        backgrounds: Tensor | None = None,
        masks: Tensor | None = None,
        packed: bool = False,
        absgrad: bool = False,
        distloss: bool = False,
    ) -> tuple[Tensor, ...]:
        n = means2d.shape[1]
        assert densify.shape == means2d.shape == (1, n, 2) and opacities.shape == (1, n) and transforms.shape[1] == n
        assert backgrounds is None and masks is None and not packed and not absgrad and distloss
        self.calls.append("rasterize")
        weights = opacities[0] * (1 + transforms.mean((0, 2, 3)).abs()) * (offsets.sum() % 7 + splats.float().mean())
        rows = torch.linspace(0.1, 0.9, width * height, device=colors.device).reshape(height, width, 1)
        share = torch.sigmoid(rows * weights / tile_size)
        shifted = share + (means2d[0] + densify[0]).sum(-1) * 1e-3
        colour = torch.einsum("hwn,nc->hwc", shifted, colors[0])
        alpha = shifted.mean(-1, keepdim=True)
        normal = torch.einsum("hwn,nc->hwc", shifted, normals[0])
        return colour[None], alpha[None], normal[None], alpha[None] * 2, alpha[None] * 3
