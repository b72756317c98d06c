"""The rasterisers side by side: milliseconds forward and backward through all outputs, harmonics of degree 3.

    python scripts/bench/raster.py                                   # torch and numba, and gsplat where CUDA is
    python scripts/bench/raster.py --sizes 10000x160x90 --json -     # for a program

They are timed in turns and compared by medians, so that other load on the machine hits all alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure
import torch
import tyro
from room import SH_DEGREE, Room

from genfusion_ns.errors import UserError, exits_cleanly
from genfusion_ns.gaussians.parameters import activate
from genfusion_ns.raster import Backend, Rasterizer, choose_rasterizer


@dataclass
class Args:
    """Time the rasterisers side by side, forward and backward."""

    sizes: str = "10000x160x90,30000x320x180,100000x640x360"
    """Cases as NxWIDTHxHEIGHT (Gaussians, pixels), separated by commas."""
    torch_up_to: int = 30_000
    """Largest number of Gaussians at which the torch reference is timed; at 100,000 it takes half a minute a step."""
    rounds: int = 5
    """Rounds per case; one has one step of torch and eight of the others."""
    json: Path | None = None
    """Write the figures to this file; - = standard output, and no table."""


def parse_sizes(text: str) -> list[tuple[int, int, int]]:
    """Cases of the form 10000x160x90,..."""
    try:
        cases = [(int(n), int(width), int(height)) for n, width, height in (c.split("x") for c in text.split(","))]
    except ValueError:
        cases = []
    if not cases or any(min(case) < 1 for case in cases):
        raise UserError(f"--sizes is {text!r}, expected NxWIDTHxHEIGHT,... like 10000x160x90,30000x320x180.")
    return cases


def make_step(rasterizer: Rasterizer, count: int, size: tuple[int, int], device: torch.device) -> Callable[[], None]:
    """One forward and backward pass through all outputs."""
    room = Room.make(count, size, device, views=1)
    splats = activate(room.splats)
    splats = splats._replace(opacities=torch.full_like(splats.opacities, 0.6))  # as after training
    leaves = [x.contiguous().requires_grad_(True) for x in splats]
    means, quats, scales, opacities, sh = leaves
    background, grads = torch.ones(3, device=device), []

    def step() -> None:
        r = rasterizer(means, quats, scales, opacities, sh, room.cameras[0], sh_degree=SH_DEGREE, background=background)
        outputs = [r.color, r.depth, r.median_depth, r.normal, r.alpha, r.distortion]
        if not grads:
            grads.extend(torch.randn_like(o) for o in outputs)
        torch.autograd.grad(outputs, leaves, grads)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def time_in_turns(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each step after one that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round in range(rounds + 1):
        for name, step in steps.items():
            for _ in range(1 if name == "torch" or round == 0 else 8):
                start = time.perf_counter()
                step()
                times[name] += [1000 * (time.perf_counter() - start)] if round else []
    return {name: statistics.median(values) for name, values in times.items()}


def run_case(count: int, width: int, height: int, args: Args) -> dict[str, Any]:
    """One row: milliseconds per backend, None where it was not run."""
    devices: dict[Backend, str] = {"torch": "cpu", "numba": "cpu", "gsplat": "cuda"}
    if count > args.torch_up_to:
        del devices["torch"]
    if not torch.cuda.is_available():
        del devices["gsplat"]
    steps: dict[str, Callable[[], None]] = {}
    for name, device in devices.items():
        steps[name] = make_step(choose_rasterizer(name, device), count, (width, height), torch.device(device))
    ms = time_in_turns(steps, args.rounds)
    row: dict[str, Any] = {"n": count, "width": width, "height": height}
    row |= {f"{name}_ms": ms.get(name) for name in ("torch", "numba", "gsplat")}
    return row | {"ratio_torch_over_numba": ms["torch"] / ms["numba"] if "torch" in ms else None}


@exits_cleanly
def main(args: Args) -> None:
    """Run all cases and report."""
    rows = [run_case(*case, args) for case in parse_sizes(args.sizes)]
    measure.report(rows, torch.device(measure.DEVICE), "forward and backward, medians", args.json)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
