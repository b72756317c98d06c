"""Novel camera paths, and their cut into clips: pure functions of captured cameras.

Every path is a list of `Camera`s that share one template's intrinsics and size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor

from genfusion_ns.cameras import Camera, invert_rigid, look_at
from genfusion_ns.geometry import directions, focus_point, positions, up_axis


def template_view(cameras: Sequence[Camera], width: int | None = None, height: int | None = None) -> Camera:
    """Intrinsics for a path: the captured camera with the median field of view, its principal point centred.

    Args:
        width, height: another pixel grid; the field of view is kept along the side that it fits best.
    """
    by_view = sorted(cameras, key=lambda camera: float(camera.K[0, 0]) / camera.width)
    camera = by_view[len(by_view) // 2]
    width, height = width or camera.width, height or camera.height
    zoom = max(width / camera.width, height / camera.height)
    K = torch.zeros_like(camera.K)
    K[0, 0], K[1, 1] = camera.K[0, 0] * zoom, camera.K[1, 1] * zoom
    K[0, 2], K[1, 2], K[2, 2] = width / 2, height / 2, 1.0
    return replace(camera, K=K, width=width, height=height)


def visiting_order(cameras: Sequence[Camera]) -> list[int]:
    """Indices of the captured views along a short walk: from the outermost one always to the nearest unvisited."""
    centres, axes = positions(cameras), directions(cameras)
    spread = (centres - centres.mean(0)).norm(dim=-1)
    unit = float(spread.mean().clamp_min(1e-9))
    left = set(range(len(cameras)))
    order = [int(spread.argmax())]
    left.remove(order[0])
    while left:
        here = order[-1]
        rest = sorted(left)
        cost = (centres[rest] - centres[here]).norm(dim=-1) / unit + 0.5 * (1.0 - axes[rest] @ axes[here])
        order.append(rest[int(cost.argmin())])
        left.remove(order[-1])
    return order


def at_poses_of(cameras: Sequence[Camera], template: Camera) -> list[Camera]:
    """The captured poses, seen with the template's intrinsics."""
    return [_posed(camera.c2w, template) for camera in cameras]


def interpolate(
    cameras: Sequence[Camera], n: int, template: Camera, *, closed: bool = False, focus: Tensor | None = None
) -> list[Camera]:
    """n poses through the captured views in the given order, which it starts and ends at (`closed`: back at the start).

    Orientations follow the shortest rotation (slerp). Centres move in straight lines or, with `focus` [3], on arcs
    around that point, so that views on two sides of an object are not joined through it.
    """
    stops = [*cameras, cameras[0]] if closed else list(cameras)
    if len(stops) == 1 or n == 1:
        return [_posed(stops[0].c2w, template)] * n
    poses = [stop.c2w.double() for stop in stops]
    turns = Slerp(np.arange(len(stops)), Rotation.from_matrix(np.stack([pose[:3, :3] for pose in poses])))
    path = []
    for time in np.linspace(0, len(stops) - 1, n).tolist():
        segment = min(int(time), len(stops) - 2)
        share = time - segment
        c2w = torch.eye(4, dtype=torch.float64)
        c2w[:3, :3] = torch.from_numpy(turns([time]).as_matrix()[0])
        c2w[:3, 3] = _between(poses[segment], poses[segment + 1], focus, share)
        path.append(_posed(c2w, template))
    return path


def _between(a: Tensor, b: Tensor, focus: Tensor | None, share: float) -> Tensor:
    """Centre between two poses, straight or with distance and direction from `focus` interpolated."""
    straight = torch.lerp(a[:3, 3], b[:3, 3], share)
    if focus is None:
        return straight
    focus = focus.to(a)
    from_a, from_b = a[:3, 3] - focus, b[:3, 3] - focus
    distance_a, distance_b = from_a.norm(), from_b.norm()
    if min(distance_a, distance_b) < 1e-9:
        return straight
    cosine = float((from_a @ from_b / (distance_a * distance_b)).clamp(-1, 1))
    angle = math.acos(cosine)
    if angle < 1e-6 or share in (0.0, 1.0):
        return straight
    # the shortest way round has no side between opposite views; then around the first camera's own vertical axis
    axis = torch.linalg.cross(from_a, from_b) if angle < math.pi - 1e-3 else a[:3, 1]
    turn = Rotation.from_rotvec((F.normalize(axis, dim=0) * share * angle).numpy())
    return focus + torch.lerp(distance_a, distance_b, share) / distance_a * torch.from_numpy(turn.apply(from_a.numpy()))


def surrounds(cameras: Sequence[Camera]) -> bool:
    """Whether the views stand around what they look at, rather than on one side of it (mean direction < 0.6)."""
    up, outward = up_axis(cameras), positions(cameras) - focus_point(cameras)
    outward = F.normalize(outward - (outward @ up)[:, None] * up, dim=-1)
    return float(outward.mean(0).norm()) < 0.6


def ring(
    cameras: Sequence[Camera],
    n: int,
    template: Camera,
    *,
    radius: float = 1.0,
    height: float = 0.0,
    pitch: float = 0.0,
    phase: float = 0.0,
) -> list[Camera]:
    """n poses on an ellipse around the focus point, perpendicular to the up axis, looking inwards.

    Args:
        radius: times the 90th percentile of the captured views' horizontal distances, along each of their main axes.
        height: added to the captured views' mean height, in mean horizontal distances.
        pitch: degrees by which every pose looks above the focus point.
        phase: angle of the first pose, in turns.
    """
    focus, up = focus_point(cameras).double(), up_axis(cameras).double()
    offset = positions(cameras).double() - focus
    heights = offset @ up
    flat = offset - heights[:, None] * up
    mean_radius = max(float(flat.norm(dim=-1).mean()), 0.1 * float(offset.norm(dim=-1).mean()), 1e-6)
    first, second = _plane_axes(flat, up)
    radii = [max(float((flat @ axis).abs().quantile(0.9)), 0.5 * mean_radius) * radius for axis in (first, second)]
    level = float(heights.mean()) + height * mean_radius
    path = []
    for i in range(n):
        angle = 2 * math.pi * (i / n + phase)
        position = focus + radii[0] * math.cos(angle) * first + radii[1] * math.sin(angle) * second + level * up
        path.append(_posed(_pitched(_look(position, focus, up), pitch), template))
    return path


def spiral(
    cameras: Sequence[Camera], n: int, template: Camera, *, radius: float = 1.0, turns: float = 2.0, phase: float = 0.0
) -> list[Camera]:
    """n poses that wind around the mean view, looking at the focus point: for captures from one side.

    Args:
        radius: times the 90th percentile of the captured views' offsets to the right, up and forwards.
        phase: angle of the first pose, in turns.
    """
    focus, up = focus_point(cameras).double(), up_axis(cameras).double()
    centres = positions(cameras).double()
    frame = _look(centres.mean(0), focus, up)
    least = 0.05 * float((focus - centres.mean(0)).norm())
    reach = ((centres - centres.mean(0)) @ frame[:3, :3]).abs().quantile(0.9, dim=0).clamp_min(least) * radius
    path = []
    for i in range(n):
        angle = 2 * math.pi * (turns * i / n + phase)
        local = torch.tensor([math.cos(angle), math.sin(angle), math.sin(angle / 2)], dtype=torch.float64) * reach
        path.append(_posed(_look(frame[:3, 3] + frame[:3, :3] @ local, focus, up), template))
    return path


def _plane_axes(flat: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Two axes perpendicular to `up`: the main direction of the rows of `flat` [V, 3], and the one across."""
    scatter = flat.T @ flat - flat.square().sum() * torch.outer(up, up)
    first = torch.linalg.eigh(scatter).eigenvectors[:, -1]
    first = F.normalize(first - (first @ up) * up, dim=0)
    return first, torch.linalg.cross(up, first)


def _look(position: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """`look_at`, with another axis as up where the view runs along `up` itself."""
    if abs(float(F.normalize(target - position, dim=0) @ up)) > 0.9999:
        up = F.one_hot(up.abs().argmin(), 3).to(up)
    return look_at(position, target, up)


def _pitched(c2w: Tensor, degrees: float) -> Tensor:
    """The pose turned about its own x axis; positive looks up (y is down)."""
    turn = torch.eye(4, dtype=c2w.dtype)
    turn[:3, :3] = torch.from_numpy(Rotation.from_euler("x", degrees, degrees=True).as_matrix())
    return c2w @ turn


def _posed(c2w: Tensor, template: Camera) -> Camera:
    return replace(template, w2c=invert_rigid(c2w).to(template.w2c))


def partition(n: int, length: int) -> list[list[int]]:
    """The fewest clips of exactly `length` poses that cover n poses, their starts spread evenly; each as the numbers of
    its poses. A path shorter than one clip is played to and fro until the clip is full.

    Raises:
        ValueError: a number below 1.
    """
    if n < 1 or length < 1:
        raise ValueError(f"expected n >= 1 and length >= 1, got n={n}, length={length}.")
    if n <= length:
        there_and_back = [*range(n), *range(n - 2, 0, -1)]
        return [[there_and_back[i % len(there_and_back)] for i in range(length)]]
    count = math.ceil(n / length)
    starts = [round(clip * (n - length) / (count - 1)) for clip in range(count)]
    return [list(range(start, start + length)) for start in starts]
