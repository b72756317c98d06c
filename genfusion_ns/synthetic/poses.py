"""Camera paths for procedural scenes: pure functions of numbers and a seed. World axes: z up, metres."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from genfusion_ns.cameras import Camera, invert_rigid, look_at

Array = NDArray[np.floating]


def arc(count: int, target: Array, radius: float, height: float, sweep: float, start: float = 0.0) -> Array:
    """Positions [count, 3] on an arc about the vertical through `target`; angles in radians, `height` above it."""
    angle = start + sweep * (np.linspace(0.0, 1.0, count) - 0.5)
    offset = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(count, height)], -1)
    return np.asarray(target) + offset


def hand_held(points: Array, amount: Array | float, seed: int, sway: float = 4.0) -> Array:
    """The points [n, 3] with smooth, slow wandering added: four sines per axis with up to `sway` periods along the
    path; `amount` (metres, per axis or one for all) is the largest possible deviation."""
    rng = np.random.default_rng([seed, 0x6868])
    along = np.linspace(0.0, 1.0, len(points))[:, None]
    total = np.zeros_like(points)
    for _ in range(4):
        frequency = rng.uniform(0.5, sway, (1, 3))
        phase = rng.uniform(0.0, 2.0 * np.pi, (1, 3))
        total += 0.25 * np.sin(2.0 * np.pi * frequency * along + phase)
    return points + np.asarray(amount) * total


def pinhole(width: int, height: int, fov: float) -> torch.Tensor:
    """Intrinsics [3, 3] (float64) with square pixels, a centred principal point and a horizontal field of view of
    `fov` degrees."""
    focal = width / 2 / math.tan(math.radians(fov) / 2)
    return torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]], dtype=torch.float64)


def cameras_along(positions: Array, targets: Array, width: int, height: int, fov: float) -> list[Camera]:
    """One camera per position [n, 3] looking at its target [n, 3], upright."""
    K = pinhole(width, height, fov)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    poses = [
        look_at(torch.as_tensor(p, dtype=torch.float64), torch.as_tensor(t, dtype=torch.float64), up)
        for p, t in zip(positions, targets, strict=True)
    ]
    return [Camera(invert_rigid(c2w), K, width, height) for c2w in poses]
