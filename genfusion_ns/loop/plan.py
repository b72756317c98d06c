"""Which clips a round renders: a function of the captured cameras, the configuration, the seed and the round, and of
where the splats leave room along the paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from genfusion_ns.camera_path import read_camera_path
from genfusion_ns.cameras import Camera
from genfusion_ns.geometry import focus_point
from genfusion_ns.loop.config import LoopConfig, Trajectory
from genfusion_ns.loop.safety import Prober
from genfusion_ns.loop.trajectories import (
    at_poses_of,
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
    new: list[bool]
    """Which frames no earlier clip shows; the others are there because all clips are of one length."""


def plan_round(
    cameras: Sequence[Camera], config: LoopConfig, seed: int, round: int, prober: Prober | None = None
) -> list[Clip]:
    """The clips of one round: every path in `config.trajectories`, less unsafe poses, cut into the fewest.

    Args:
        cameras: the captured views at full frame, on the CPU.
        prober: None takes every pose for safe.
    """
    template = path_template(cameras, config.max_side)
    clips: list[Clip] = []
    for kind in config.trajectories:
        path = make_path(kind, cameras, config, template, seed, round)
        if prober is not None:
            path = [found for camera in path if (found := prober.safe(camera)) is not None]
        shown: set[int] = set()
        for window in partition(len(path), config.clip_length) if path else []:
            first = [i not in shown and i not in window[:place] for place, i in enumerate(window)]
            clips.append(Clip(kind, [path[i] for i in window], first))
            shown.update(window)
    return clips


def path_template(cameras: Sequence[Camera], max_side: int) -> Camera:
    """The scene's usual field of view, its longer side at most `max_side` pixels."""
    return template_view(cameras).limited(max_side)


def make_path(
    kind: Trajectory, cameras: Sequence[Camera], config: LoopConfig, template: Camera, seed: int, round: int
) -> list[Camera]:
    """One path of `config.frames` poses.

    `interpolate` runs through the captured views. `orbit` circles the scene where the views surround it and spirals
    in front of it where they don't; it changes with the round, so that rounds look from new places. `captured` stays
    at the captured views, a different choice each round where they are more than the frames. `path` is
    `config.camera_path`, evenly thinned, with the field of view that it was saved with.
    """
    if kind == "path":
        assert config.camera_path is not None  # LoopConfig.check
        saved = [camera.limited(config.max_side) for camera in read_camera_path(config.camera_path)]
        return [saved[i] for i in evenly(len(saved), config.frames)]
    if kind == "captured":
        order = visiting_order(cameras)
        shift = round * max(1, len(order) // (2 * config.frames)) if len(order) > config.frames else 0
        chosen = [order[(i + shift) % len(order)] for i in evenly(len(order), config.frames)]
        return at_poses_of([cameras[i] for i in chosen], template)
    around = surrounds(cameras)
    if kind == "interpolate":
        ordered = [cameras[i] for i in visiting_order(cameras)]
        focus = focus_point(cameras) if around else None
        return interpolate(ordered, config.frames, template, closed=around and len(ordered) > 2, focus=focus)
    phase, radius, height, pitch = torch.rand(4, generator=generator(seed, "orbit", round)).tolist()
    radius = 0.9 + 0.3 * radius
    if not around:
        return spiral(cameras, config.frames, template, radius=radius, phase=phase)
    changes = {"radius": radius, "height": 0.3 * height - 0.15, "pitch": 8.0 * pitch - 4.0, "phase": phase}
    return ring(cameras, config.frames, template, **changes)


def evenly(count: int, n: int) -> list[int]:
    """n numbers from 0 to count - 1, evenly spaced and rounded down; all of them where there are no more than n."""
    return list(range(count)) if count <= n else np.linspace(0, count - 1, n).astype(int).tolist()
