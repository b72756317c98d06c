"""Training steps at a fixed number of splats: this project's 2D Gaussian core against gsplat's own 2DGS recipe."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from genfusion_ns.cameras import Camera, look_at
from genfusion_ns.errors import UserError
from genfusion_ns.gaussians import losses
from genfusion_ns.gaussians.densify_sparse import SparsityAwareDensifier
from genfusion_ns.gaussians.parameters import RATES, activate, init_gaussians
from genfusion_ns.geometry import depth_to_normal
from genfusion_ns.raster import choose_rasterizer
from genfusion_ns.seeding import generator

SH_DEGREE, SSIM, NORMAL, DISTORTION, NEVER = 3, 0.2, 0.05, 1e-2, 10**9


@dataclass
class Room:
    """Splats on the walls of a cube, cameras inside, and photos of coloured clouds: about as many splats lie behind
    each pixel as in a trained scene."""

    splats: dict[str, Tensor]
    cameras: list[Camera]
    photos: list[Tensor]

    @classmethod
    def make(cls, count: int, size: tuple[int, int], device: torch.device, views: int = 8) -> Room:
        """`count` splats, and photos of `size` (width, height) in pixels."""
        random = generator(0, "bench room")
        xyz = torch.rand(count, 3, generator=random) * 2 - 1
        wall = torch.randint(3, (count, 1), generator=random)
        xyz.scatter_(1, wall, xyz.gather(1, wall).sign() + 0.02 * torch.randn(count, 1, generator=random))
        splats = init_gaussians(xyz, torch.rand(count, 3, generator=random), SH_DEGREE)
        width, height = size
        K = torch.tensor([[0.7 * width, 0, width / 2], [0, 0.7 * width, height / 2], [0, 0, 1]])
        cameras, photos = [], []
        for angle in torch.arange(views) * (2 * torch.pi / views):
            position = torch.stack([0.6 * angle.cos(), 0.6 * angle.sin(), torch.tensor(0.1)])
            pose = look_at(position, torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
            cameras.append(Camera(torch.linalg.inv(pose), K, width, height).to(device))
            clouds = torch.rand(1, 3, 9, 16, generator=random)
            photo = torch.nn.functional.interpolate(clouds, (height, width), mode="bicubic").clamp(0, 1)
            photos.append(photo[0].permute(1, 2, 0).contiguous().to(device))
        return cls({name: x.to(device) for name, x in splats.items()}, cameras, photos)

    def parameters(self, **options: Any) -> tuple[dict[str, Parameter], dict[str, torch.optim.Optimizer]]:
        """Fresh copies of the splats, and an Adam for each with these options."""
        parameters = {name: Parameter(x.clone()) for name, x in self.splats.items()}
        adams: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.Adam([x], lr=RATES[name], eps=1e-15, **options) for name, x in parameters.items()
        }
        return parameters, adams


def our_step(room: Room, device: torch.device) -> Callable[[int], Tensor]:
    """A step as the plugin takes it on a captured view, all terms on."""
    rasterizer = choose_rasterizer("auto", device)
    parameters, adams = room.parameters(fused=True)
    densifier = SparsityAwareDensifier(start=NEVER)
    state = densifier.initialize_state(len(parameters["means"]), device)

    def step(index: int) -> Tensor:
        camera, photo = room.cameras[index % len(room.cameras)], room.photos[index % len(room.cameras)]
        background = torch.rand(3, generator=generator(0, "background", index)).to(device)
        render = rasterizer(*activate(parameters), camera, sh_degree=SH_DEGREE, background=background)
        loss = losses.photometric(render.color.clamp(0, 1), photo, SSIM)
        surface = depth_to_normal(render.depth, camera)
        loss = loss + NORMAL * losses.normal_consistency(render.normal, surface, render.alpha)
        loss = loss + DISTORTION * losses.distortion(render.distortion)
        for adam in adams.values():
            adam.zero_grad(set_to_none=True)
        loss.backward()
        for adam in adams.values():
            adam.step()
        gradient = render.densify_signal.grad
        assert gradient is not None
        densifier.observe(state, gradient, render.radii, camera.width, camera.height)
        densifier.step(parameters, adams, state, index + 1, 1.0, 0)
        return loss.detach()

    return step


def gsplat_step(room: Room, device: torch.device) -> Callable[[int], Tensor]:
    """A step with gsplat's own function, strategy and plain Adam, and torchmetrics' SSIM: 2DGS's recipe."""
    import gsplat
    from torchmetrics.image import StructuralSimilarityIndexMeasure

    choose_rasterizer("gsplat", device)  # which says why, where its kernels can't be had
    parameters, adams = room.parameters()
    strategy = gsplat.DefaultStrategy(
        refine_start_iter=NEVER, refine_stop_iter=2 * NEVER, reset_every=NEVER, key_for_gradient="gradient_2dgs"
    )
    state = strategy.initialize_state()
    ssim = StructuralSimilarityIndexMeasure(data_range=1.0).to(device)

    def step(index: int) -> Tensor:
        camera, photo = room.cameras[index % len(room.cameras)], room.photos[index % len(room.cameras)]
        splats = activate(parameters)
        maps = gsplat.rasterization_2dgs(
            splats.means,
            splats.quats,
            splats.scales,
            splats.opacities,
            splats.sh,
            camera.w2c[None],
            camera.K[None],
            camera.width,
            camera.height,
            sh_degree=SH_DEGREE,
            render_mode="RGB+ED",
            distloss=True,
        )
        colour, alpha, normal, surface, distortion, _, info = maps
        strategy.step_pre_backward(parameters, adams, state, index + 1, info)
        shown = colour[..., :3] + torch.rand(1, 3, device=device) * (1 - alpha)
        loss = (1 - SSIM) * (shown - photo).abs().mean()
        loss = loss + SSIM * (1 - ssim(shown.permute(0, 3, 1, 2), photo.permute(2, 0, 1)[None]))
        agreement = (normal * surface * alpha.detach()).sum(-1)
        loss = loss + NORMAL * (1 - agreement).mean() + DISTORTION * distortion.mean()
        loss.backward()
        for adam in adams.values():
            adam.step()
            adam.zero_grad(set_to_none=True)
        strategy.step_post_backward(parameters, adams, state, index + 1, info)
        return loss.detach()

    return step


def measure_steps(
    counts: tuple[int, ...], size: tuple[int, int], steps: int, blocks: int, device: torch.device
) -> list[dict[str, Any]]:
    """Milliseconds per step, bytes at the peak and the last loss of both, for each number of splats; the device waits
    only at the end of a block of steps, as in training."""
    results = []
    for count in counts:
        for name, make in (("genfusion", our_step), ("gsplat", gsplat_step)):
            row: dict[str, Any] = {"trainer": name, "splats": count, "size": f"{size[0]}x{size[1]}"}
            if name == "gsplat" and device.type != "cuda":
                results.append(row | {"left_out": "gsplat runs on CUDA only"})
                continue
            try:
                room = Room.make(count, size, device)
                results.append(row | timed(make(room, device), steps, blocks, device))
            except torch.cuda.OutOfMemoryError as error:
                results.append(row | {"left_out": str(error).splitlines()[0]})
            except UserError as error:
                results.append(row | {"left_out": str(error)})
    return results


def timed(step: Callable[[int], Tensor], steps: int, blocks: int, device: torch.device) -> dict[str, Any]:
    """After one block that is not counted, which compiles."""
    cuda, times = device.type == "cuda", []
    loss = torch.zeros(())
    for block in range(blocks + 1):
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        for index in range(block * steps, (block + 1) * steps):
            loss = step(index)
        if cuda:
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start) / steps)
    return {
        "median_ms": statistics.median(times[1:]),
        "min_ms": min(times[1:]),
        "max_ms": max(times[1:]),
        "peak_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "loss": float(loss),
    }
