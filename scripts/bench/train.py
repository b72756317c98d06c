"""Training steps at a fixed number of splats, all losses on: this project's beside gsplat's own 2DGS recipe.

    python scripts/bench/train.py --json steps.json

Runs from a checkout (`PYTHONPATH=.` where the project is not installed), without Nerfstudio. On a GPU it needs torch
for CUDA and `pip install gsplat==1.4.0 ninja torchmetrics scipy "numpy<2" tyro rich`; gsplat compiles its kernels at
the first step (minutes), for which it wants a CUDA toolkit of torch's major version. On a CPU our steps run on numba,
and gsplat's, which want CUDA, not at all.
"""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure
import torch
import tyro
from room import SH_DEGREE, Room
from torch import Tensor
from torch.nn import Parameter

from genfusion_ns.errors import UserError, exits_cleanly
from genfusion_ns.gaussians import losses
from genfusion_ns.gaussians.densify_sparse import SparsityAwareDensifier
from genfusion_ns.gaussians.parameters import RATES, activate
from genfusion_ns.geometry import depth_to_normal
from genfusion_ns.raster import choose_rasterizer
from genfusion_ns.seeding import generator

SSIM, NORMAL, DISTORTION, NEVER = 0.2, 0.05, 1e-2, 10**9
USUAL = {"cpu": ((10_000,), (160, 90)), "cuda": ((100_000, 300_000, 1_000_000), (960, 540))}


@dataclass
class Args:
    """Measure training steps."""

    gaussians: tuple[int, ...] = USUAL[measure.DEVICE][0]
    """Numbers of splats, one after the other."""
    photo: tuple[int, int] = USUAL[measure.DEVICE][1]
    """Width and height of the photos."""
    steps: int = 20
    """Steps of a block; a step's time is its share of the block."""
    blocks: int = 10
    """Blocks that are timed, after one that is not."""
    device: measure.Device = measure.DEVICE
    """Where to train."""
    json: Path | None = None
    """Write the figures to this file; - = standard output, and no table."""


def trained(room: Room, **options: Any) -> tuple[dict[str, Parameter], dict[str, torch.optim.Optimizer]]:
    """Fresh copies of a room's splats, and an Adam for each with these options."""
    parameters = {name: Parameter(x.clone()) for name, x in room.splats.items()}
    adams: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.Adam([x], lr=RATES[name], eps=1e-15, **options) for name, x in parameters.items()
    }
    return parameters, adams


def our_step(room: Room, device: torch.device) -> Callable[[int], Tensor]:
    """A step as the plugin takes it on a captured view, all terms on."""
    rasterizer = choose_rasterizer("auto", device)
    parameters, adams = trained(room, fused=True)
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
    choose_rasterizer("gsplat", device)  # which says why, where its kernels can't be had
    import gsplat
    from torchmetrics.image import StructuralSimilarityIndexMeasure

    parameters, adams = trained(room)
    strategy = gsplat.DefaultStrategy(
        refine_start_iter=NEVER, refine_stop_iter=2 * NEVER, reset_every=NEVER, key_for_gradient="gradient_2dgs"
    )
    state = strategy.initialize_state()
    ssim = StructuralSimilarityIndexMeasure(data_range=1.0).to(device)
    options = {"sh_degree": SH_DEGREE, "render_mode": "RGB+ED", "distloss": True}

    def step(index: int) -> Tensor:
        camera, photo = room.cameras[index % len(room.cameras)], room.photos[index % len(room.cameras)]
        view = camera.w2c[None], camera.K[None], camera.width, camera.height
        maps = gsplat.rasterization_2dgs(*activate(parameters), *view, **options)
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


def timed_steps(step: Callable[[int], Tensor], args: Args, device: torch.device) -> dict[str, Any]:
    """Milliseconds a step, bytes at the peak, and the loss of one step more; the device is waited for only at the end
    of a block of steps, as in training."""
    index = itertools.count()

    def block() -> None:
        for _ in range(args.steps):
            step(next(index))

    return {**measure.timed(block, args.blocks, device, args.steps), "loss": float(step(next(index)))}


def measured(args: Args, device: torch.device) -> list[dict[str, Any]]:
    """A row for each number of splats and trainer; what can't run is left out with its reason, and the rest goes on."""
    rows, trainers = [], {"genfusion": our_step}
    if device.type == "cuda":
        trainers["gsplat"] = gsplat_step
    for count, (name, make) in itertools.product(args.gaussians, trainers.items()):
        row = {"trainer": name, "splats": count, "size": "{}x{}".format(*args.photo)}
        try:
            rows.append(row | timed_steps(make(Room.make(count, args.photo, device), device), args, device))
        except (torch.cuda.OutOfMemoryError, UserError) as error:
            rows.append(row | {"left_out": str(error).splitlines()[0]})
    return rows


@exits_cleanly
def main(args: Args) -> None:
    """Measure and report."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    device = measure.checked_device(args.device)
    measure.report(measured(args, device), device, "training steps", args.json)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
