"""Time the rasterisers side by side: forward and backward, all outputs, spherical harmonics of degree 3.

    python scripts/bench/raster.py                                   # table: torch, numba, and gsplat where CUDA is
    python scripts/bench/raster.py --sizes 10000x160x90 --json -     # rows for a program

The scene is a furnished room covered with splats, seeded, its splats sized so that each pixel lies in about 50 of their
bounding boxes. Backends are timed in turns and compared by medians, so that other load on the machine hits all alike.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Before torch is imported: idle OpenMP threads that spin slow down whatever else runs, torch included.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from genfusion_ns.cameras import Camera, invert_rigid, look_at
from genfusion_ns.errors import UserError, exits_cleanly
from genfusion_ns.raster import Rasterizer, choose_rasterizer
from genfusion_ns.raster.constants import ALPHA_MIN
from genfusion_ns.raster.torch_projection import bounding_boxes, project

_OVERLAP = 50.0
_BOXES = [  # corner (x, y, z) and sides of the furniture in a room of 6 x 6 x 3
    ((0.0, 0.0, 0.0), (6.0, 6.0, 3.0)),
    ((1.6, 3.2, 0.0), (1.2, 0.9, 1.0)),
    ((3.6, 2.6, 0.0), (0.8, 1.2, 0.6)),
    ((3.2, 4.6, 0.0), (1.0, 0.5, 1.9)),
]


@dataclass
class Args:
    """Time the rasterisers side by side, forward and backward."""

    sizes: str = "10000x160x90,30000x320x180,100000x640x360"
    """Cases as NxWIDTHxHEIGHT (Gaussians, pixels), separated by commas."""
    torch_up_to: int = 30_000
    """Largest number of Gaussians at which the torch reference is timed; at 100,000 it takes half a minute a step."""
    rounds: int = 5
    """Rounds per case; one has one step of torch and `steps_per_round` of the fast backends."""
    steps_per_round: int = 8
    """Steps of the fast backends per round."""
    threads: int | None = None
    """Threads for torch and numba; by default what torch takes."""
    slopes: bool = True
    """Also time numba against the number of Gaussians and of pixels, and print the exponents (1 = linear)."""
    seed: int = 0
    """Seed of the scene."""
    json: str | None = None
    """Write the rows as JSON to this file, `-` for standard output, instead of printing a table."""


@dataclass
class Splats:
    """A scene's Gaussians, as the rasterisers take them."""

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    sh: Tensor

    def leaves(self, device: str) -> list[Tensor]:
        """Copies that require grad, on `device`."""
        tensors = (self.means, self.quats, self.scales, self.opacities, self.sh)
        return [t.to(device, copy=True).requires_grad_(True) for t in tensors]


def _faces() -> Tensor:
    """[F, 3, 3] corner and two sides of every rectangle in the room, whose front (y = 0) and ceiling are open."""
    faces = []
    for number, (corner, sides) in enumerate(_BOXES):
        corner, sides = torch.tensor(corner), torch.tensor(sides).diag()
        for a, b, c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
            near, far = torch.stack([corner, sides[a], sides[b]]), torch.stack([corner + sides[c], sides[a], sides[b]])
            is_room = number == 0
            faces += [near] if not (is_room and c == 1) else []
            faces += [far] if not (is_room and c == 2) else []
    return torch.stack(faces)


def _frame_quats(first: Tensor, second: Tensor) -> Tensor:
    """Quaternions [N, 4] (wxyz) of the rotations whose first two columns are orthonormal `first`, `second` [N, 3]."""
    third = torch.linalg.cross(first, second)
    # The quaternion is the eigenvector of largest eigenvalue of this symmetric matrix (Bar-Itzhack 2000).
    m = torch.stack([first, second, third], -1)
    k = torch.zeros(len(m), 4, 4)
    k[:, 0, 0] = m.diagonal(dim1=1, dim2=2).sum(-1)
    k[:, 1:, 1:] = m + m.transpose(1, 2) - k[:, 0, 0, None, None] * torch.eye(3)
    skew = torch.stack([m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]], -1)
    k[:, 0, 1:] = k[:, 1:, 0] = skew
    return torch.linalg.eigh(k).eigenvectors[..., -1]


def make_room(count: int, seed: int) -> Splats:
    """`count` surface splats; their scales still have to be set to the overlap wanted."""
    generator = torch.Generator().manual_seed(seed)
    faces = _faces()
    areas = torch.linalg.cross(faces[:, 1], faces[:, 2]).norm(dim=-1)
    face = faces[torch.multinomial(areas, count, replacement=True, generator=generator)]
    place = torch.rand(count, 2, generator=generator)
    means = face[:, 0] + place[:, :1] * face[:, 1] + place[:, 1:] * face[:, 2]
    turn = torch.rand(count, 1, generator=generator) * 2 * math.pi
    a, b = torch.nn.functional.normalize(face[:, 1:], dim=-1).unbind(1)
    quats = _frame_quats(turn.cos() * a + turn.sin() * b, turn.cos() * b - turn.sin() * a)
    quats = quats + 0.05 * torch.randn(count, 4, generator=generator)
    scales = math.sqrt(float(areas.sum()) / count) * torch.exp(0.5 * torch.randn(count, 3, generator=generator))
    opacities = torch.sigmoid(0.5 + 1.5 * torch.randn(count, generator=generator))
    sh = 0.1 * torch.randn(count, 16, 3, generator=generator)
    sh[:, 0] += torch.sin(6.0 * means) + (means.floor().sum(-1, keepdim=True) % 2) - 0.5
    return Splats(means, quats, scales, opacities, sh)


def make_camera(width: int, height: int) -> Camera:
    """A camera that looks into the room through its open front."""
    eye, target = torch.tensor([3.8, -2.0, 2.2]), torch.tensor([2.9, 3.0, 0.9])
    focal = 0.9 * width
    intrinsics = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return Camera(invert_rigid(look_at(eye, target, torch.tensor([0.0, 0.0, 1.0]))), intrinsics, width, height)


@torch.no_grad()
def overlap(splats: Splats, camera: Camera) -> float:
    """Mean number of splats in whose bounding box (of what is brighter than the alpha cut) a pixel lies."""
    visible = splats.opacities > ALPHA_MIN
    discs = project(splats.means, splats.quats, splats.scales, visible, camera, 0.01, 1e10)
    centre, squares = bounding_boxes(discs.pixel_from_disc)
    level = (2 * (splats.opacities[discs.index] / ALPHA_MIN).log()).sqrt()
    half = torch.minimum(squares.clamp_min(0.25).sqrt() * level[:, None], discs.radius[:, None])
    size = torch.tensor([camera.width, camera.height])
    sides = torch.minimum(centre + half, size) - (centre - half).clamp_min(0)
    return float(sides.clamp_min(0).prod(-1).sum() / size.prod())


def size_splats(splats: Splats, camera: Camera) -> None:
    """Scale all splats alike until the overlap is `_OVERLAP`."""
    for _ in range(6):
        splats.scales *= math.sqrt(_OVERLAP / overlap(splats, camera))


def make_step(rasterizer: Rasterizer, splats: Splats, camera: Camera, device: str) -> Callable[[], None]:
    """One forward and backward pass through all outputs."""
    leaves = splats.leaves(device)
    means, quats, scales, opacities, sh = leaves
    on_device = camera.to(device)
    background = torch.ones(3, device=device)
    grads: list[Tensor] = []

    def step() -> None:
        r = rasterizer(means, quats, scales, opacities, sh, on_device, sh_degree=3, background=background)
        outputs = [r.color, r.depth, r.median_depth, r.normal, r.alpha, r.distortion]
        if not grads:
            grads.extend(torch.randn_like(o) for o in outputs)
        torch.autograd.grad(outputs, leaves, grads)
        if device != "cpu":
            torch.cuda.synchronize()

    return step


def time_in_turns(
    steps: dict[str, Callable[[], None]], often: dict[str, int], rounds: int
) -> dict[str, tuple[float, float]]:
    """Median wall and CPU milliseconds of each of `steps`, run in turns."""
    for step in steps.values():
        step()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            for _ in range(often[name]):
                wall, cpu = time.perf_counter(), time.process_time()
                step()
                times[name].append((1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)))
    return {
        name: (statistics.median(wall for wall, _ in values), statistics.median(cpu for _, cpu in values))
        for name, values in times.items()
    }


def parse_sizes(text: str) -> list[tuple[int, int, int]]:
    """Cases of the form 10000x160x90,..."""
    try:
        cases = [tuple(int(part) for part in case.split("x")) for case in text.split(",")]
    except ValueError:
        cases = []
    if not cases or any(len(case) != 3 or min(case) < 1 for case in cases):
        raise UserError(f"--sizes is {text!r}, expected NxWIDTHxHEIGHT,... like 10000x160x90,30000x320x180.")
    return cases  # type: ignore[return-value]


def run_case(count: int, width: int, height: int, args: Args) -> dict[str, float | None]:
    """One row: milliseconds per backend, and the ratio."""
    splats, camera = make_room(count, args.seed), make_camera(width, height)
    size_splats(splats, camera)
    rasterizers = {"numba": choose_rasterizer("numba")}
    often = {"numba": args.steps_per_round, "torch": 1, "gsplat": args.steps_per_round}
    if count <= args.torch_up_to:
        rasterizers["torch"] = choose_rasterizer("torch")
    steps = {name: make_step(r, splats, camera, "cpu") for name, r in rasterizers.items()}
    if torch.cuda.is_available():
        steps["gsplat"] = make_step(choose_rasterizer("gsplat", "cuda"), splats, camera, "cuda")
    ms = time_in_turns(steps, often, args.rounds)
    row: dict[str, float | None] = {
        "n": count,
        "width": width,
        "height": height,
        "overlap": round(overlap(splats, camera), 1),
        "threads": torch.get_num_threads(),
    }
    for name in ("torch", "numba", "gsplat"):
        row[f"{name}_ms"] = ms[name][0] if name in ms else None
    for name in ("torch", "numba"):
        row[f"{name}_cpu_ms"] = ms[name][1] if name in ms else None
    row["ratio_torch_over_numba"] = ms["torch"][0] / ms["numba"][0] if "torch" in ms else None
    row["ratio_torch_over_numba_cpu"] = ms["torch"][1] / ms["numba"][1] if "torch" in ms else None
    return row


def slope(xs: list[float], ys: list[float]) -> float:
    """Exponent b of the least-squares fit y = a x^b."""
    lx, ly = [math.log(x) for x in xs], [math.log(y) for y in ys]
    mx, my = statistics.fmean(lx), statistics.fmean(ly)
    return sum((a - mx) * (b - my) for a, b in zip(lx, ly, strict=True)) / sum((a - mx) ** 2 for a in lx)


def run_slopes(args: Args) -> dict[str, float]:
    """How numba's time grows: with Gaussians of equal size on one image, and with the pixels of one scene."""
    rasterizer = choose_rasterizer("numba")
    middle = make_camera(320, 180)
    reference = make_room(20_000, args.seed)
    before = reference.scales.clone()
    size_splats(reference, middle)
    factor = float((reference.scales / before).mean()) * math.sqrt(1 / 20_000)
    counts, sides = [10_000, 20_000, 40_000, 80_000], [(160, 90), (320, 180), (640, 360)]
    steps = {}
    for count in counts:
        splats = make_room(count, args.seed)
        splats.scales *= factor * math.sqrt(count)  # make_room's own sizes shrink with the number
        steps[f"n{count}"] = make_step(rasterizer, splats, middle, "cpu")
    for width, height in sides:
        steps[f"p{width}"] = make_step(rasterizer, reference, make_camera(width, height), "cpu")
    ms = time_in_turns(steps, dict.fromkeys(steps, 2), args.rounds)
    return {
        "slope_gaussians": slope([float(c) for c in counts], [ms[f"n{c}"][0] for c in counts]),
        "slope_pixels": slope([float(w * h) for w, h in sides], [ms[f"p{w}"][0] for w, _ in sides]),
    }


def print_table(rows: list[dict[str, float | None]], slopes: dict[str, float], console: Console) -> None:
    """Rows and slopes for people."""
    table = Table(title="Forward + backward, median ms")
    for column in ("Gaussians", "image", "torch", "numba", "gsplat", "torch / numba", "by CPU time"):
        table.add_column(column, justify="right")
    for row in rows:
        times = ["-" if row[k] is None else f"{row[k]:.1f}" for k in ("torch_ms", "numba_ms", "gsplat_ms")]
        ratios = [row["ratio_torch_over_numba"], row["ratio_torch_over_numba_cpu"]]
        table.add_row(
            f"{row['n']:,}",
            f"{row['width']}x{row['height']}",
            *times,
            *("-" if ratio is None else f"{ratio:.1f}x" for ratio in ratios),
        )
    console.print(table)
    if slopes:
        console.print(
            f"numba's time grows with (Gaussians of equal size)^{slopes['slope_gaussians']:.2f} and "
            f"(pixels)^{slopes['slope_pixels']:.2f}; 1 is linear."
        )


@exits_cleanly
def main(args: Args) -> None:
    """Run all cases and report."""
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    console = Console(stderr=args.json == "-")
    rows = []
    for count, width, height in parse_sizes(args.sizes):
        with console.status(f"{count:,} Gaussians, {width}x{height}..."):
            rows.append(run_case(count, width, height, args))
    slopes: dict[str, float] = {}
    if args.slopes and args.json is None:
        with console.status("slopes..."):
            slopes = run_slopes(args)
    if args.json is None:
        print_table(rows, slopes, console)
    elif args.json == "-":
        json.dump(rows, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        Path(args.json).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Args))
