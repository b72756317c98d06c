"""Paths through the views of a scene, and the world that they are looked at in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from genfusion_ns.cameras import Camera, invert_rigid
from genfusion_ns.geometry import positions


def neighbour_path(cameras: Sequence[Camera], count: int, rng: np.random.Generator) -> list[int]:
    """`count` views from a random one on, each the most similar to the one before of those not yet taken; turning
    back costs, so that the path goes on the way it went."""
    centres = positions(cameras).numpy()
    axes = torch.stack([camera.w2c[2, :3] for camera in cameras]).numpy()
    spread = max(float(np.linalg.norm(centres - centres.mean(0), axis=1).max()), 1e-9)
    path = [int(rng.integers(len(cameras)))]
    heading = np.zeros(3)
    while len(path) < count:
        here = path[-1]
        offset = (centres - centres[here]) / spread
        distance = np.linalg.norm(offset, axis=1)
        cost = distance + 0.5 * (1.0 - axes @ axes[here]) - 0.3 * (offset @ heading)
        cost[path] = np.inf
        following = int(cost.argmin())
        step = offset[following]
        heading = 0.5 * heading + 0.5 * step / max(float(np.linalg.norm(step)), 1e-9)
        path.append(following)
    return path


def within_unit(cameras: Sequence[Camera]) -> tuple[list[Camera], float]:
    """The cameras moved to their mean and scaled so that no coordinate of a centre exceeds 1, and that scale."""
    centres = positions(cameras)
    centre = centres.mean(0)
    reach = float((centres - centre).abs().max())
    scale = 1.0 / reach if reach > 1e-9 else 1.0
    moved = []
    for camera in cameras:
        c2w = camera.c2w.clone()
        c2w[:3, 3] = (c2w[:3, 3] - centre) * scale
        moved.append(replace(camera, w2c=invert_rigid(c2w)))
    return moved, scale
