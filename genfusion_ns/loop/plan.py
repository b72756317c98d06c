"""Which clips a round renders: a pure function of the captured cameras, the configuration, the seed and the round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from genfusion_ns.cameras import Camera
from genfusion_ns.geometry import focus_point
from genfusion_ns.loop.config import LoopConfig, Trajectory
from genfusion_ns.loop.trajectories import (
    interpolate,
    partition,
    ring,
    spiral,
    surrounds,
    template_view,
    visiting_order,
)
from genfusion_ns.seeding import generator


@dataclass(frozen=True)
class Clip:
    """One clip to render and repair."""

    trajectory: str
    """Kind of path it belongs to."""
    cameras: list[Camera]
    """Its views."""
    poses: list[int]
    """Their numbers within the round; two frames of one number show the same view."""


def plan_round(cameras: Sequence[Camera], config: LoopConfig, seed: int, round: int) -> list[Clip]:
    """The clips of one round, every path in `config.trajectories` cut into the fewest."""
    template = path_template(cameras, config.max_side)
    clips, planned = [], 0
    for kind in config.trajectories:
        path = make_path(kind, cameras, config.frames, template, seed, round)
        for window in partition(len(path), config.clip_length, config.overlap):
            clips.append(Clip(kind, [path[i] for i in window], [planned + i for i in window]))
        planned += len(path)
    return clips


def path_template(cameras: Sequence[Camera], max_side: int) -> Camera:
    """The scene's usual field of view, its longer side at most `max_side` pixels."""
    template = template_view(cameras)
    scale = min(1.0, max_side / max(template.width, template.height))
    return template.resized(round(template.width * scale), round(template.height * scale))


def make_path(
    kind: Trajectory, cameras: Sequence[Camera], n: int, template: Camera, seed: int, round: int
) -> list[Camera]:
    """One path of n poses.

    `interpolate` runs through the captured views. `orbit` circles the scene where the views surround it and spirals
    in front of it where they don't; it changes with the round, so that rounds look from new places.
    """
    around = surrounds(cameras)
    if kind == "interpolate":
        ordered = [cameras[i] for i in visiting_order(cameras)]
        focus = focus_point(cameras) if around else None
        return interpolate(ordered, n, template, closed=around and len(ordered) > 2, focus=focus)
    phase, radius, height, pitch = torch.rand(4, generator=generator(seed, "orbit", round)).tolist()
    radius = 0.9 + 0.3 * radius
    if not around:
        return spiral(cameras, n, template, radius=radius, phase=phase)
    return ring(cameras, n, template, radius=radius, height=0.3 * height - 0.15, pitch=8.0 * pitch - 4.0, phase=phase)
