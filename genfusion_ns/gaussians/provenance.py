"""What a picture rests on: splats that the photos show, splats that only repaired frames support, invented ones.

Per-splat bookkeeping lives beside the densifier's statistics, so that splitting, pruning, rounds and checkpoints carry
it along: `captured`, training steps of captured views that a splat had a gradient in (`densify_sparse`); `seen_by`, how
many captured views see it (`count_observers`); `from_start`, 1 where it descends from the initial splats, 0 where a
round added it or an ancestor.

* observed: a captured view sees it, and photos have trained it;
* invented: no captured view sees it, and rounds have added it or its ancestors;
* repaired: the rest, which hardly any photo has trained: its looks come from repaired frames, or from where it began.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from genfusion_ns.cameras import Camera
from genfusion_ns.gaussians.edit import State, rotate
from genfusion_ns.raster.api import Rasterizer, Splats

CLASSES = ("observed", "repaired", "invented")
LEVELS = (1.0, 0.5, 0.0)
"""Trust in a splat of each class, for those who want one number."""
LEGEND = ((0.30, 0.52, 0.80), (0.95, 0.80, 0.20), (0.86, 0.16, 0.16))
"""RGB of each class: blue, yellow, red. They are linearly independent, so that `shares` can undo `paint`."""
TRAINED = 10
"""Steps of captured views after which photos have trained a splat; with fewer, Adam has hardly moved it."""
REACHES = 0.05
"""Share of its light that must reach a captured view for this view to see a splat; behind an opaque surface it is 0.01
and less, in the haze of an early scene far more."""
PARALLAX = 2
"""Views that must see a surface before its place is sure."""
COUNTING_SIDE = 160
"""Longer side of the renders that `count_observers` compares with, in pixels."""
MOST_VIEWS = 64
"""At most so many captured views, evenly spread over their order, are asked who sees what: a bound on its time."""


def fresh_origins(n: int, device: torch.device | str = "cpu") -> State:
    """Bookkeeping of `n` initial splats; those that are appended later get zeros."""
    return {"seen_by": torch.zeros(n, device=device), "from_start": torch.ones(n, device=device)}


def classify(state: State) -> Tensor:
    """[N] long, index into CLASSES."""
    seen = state["seen_by"] > 0
    observed = seen & (state["captured"] >= TRAINED)
    invented = ~seen & (state["from_start"] == 0)
    return torch.where(observed, 0, torch.where(invented, 2, 1))


def levels(state: State) -> Tensor:
    """[N] trust in each splat: LEVELS."""
    return state["seen_by"].new_tensor(LEVELS)[classify(state)]


def completed(state: State) -> State:
    """A state with all bookkeeping: what a checkpoint from before it lacks is taken for initial splats."""
    return fresh_origins(len(state["grad"])) | state


def features(state: State) -> Tensor:
    """[N, 4] what to blend per splat for `maps`: one 1 in the place of its class, and how surely photos cover it."""
    one_hot = torch.nn.functional.one_hot(classify(state), len(CLASSES)).to(state["seen_by"])
    return torch.cat([one_hot, (state["seen_by"][:, None] / PARALLAX).clamp_max(1.0)], dim=1)


def maps(blended: Tensor) -> dict[str, Tensor]:
    """The outputs `coverage` and `trust` from blended `features` [H, W, 4].

    `coverage` [H, W, 1] in [0, 1]: share of the pixel covered by surfaces that captured views see; a splat that one
    view sees counts half, from two on whole, since only then its place is sure. Divide by `accumulation` for the share
    of what is drawn there.

    `trust` [H, W, 3] in [0, 1]: the shares of the three classes in the colours of LEGEND, black where nothing is drawn;
    `shares` gives the numbers.
    """
    blended = blended.clamp(0.0, 1.0)
    return {"coverage": blended[..., 3:], "trust": paint(blended[..., :3])}


def paint(share: Tensor) -> Tensor:
    """[..., 3] shares of observed, repaired and invented (sum at most 1) as colours [..., 3] in [0, 1]."""
    return share @ share.new_tensor(LEGEND)


def shares(trust: Tensor) -> Tensor:
    """Inverse of `paint`: the output `trust` [..., 3] as shares of observed, repaired and invented surface."""
    return trust @ torch.linalg.inv(trust.new_tensor(LEGEND))


def count_observers(splats: Splats, cameras: Sequence[Camera], rasterizer: Rasterizer, near: float) -> Tensor:
    """[N] float: how many of the captured views (of at most MOST_VIEWS) see each splat: `reach` is REACHES there.

    Args:
        cameras: captured views, on any device.
        near: the rasteriser's near plane.
    """
    count = torch.zeros_like(splats.opacities)
    step = max(1.0, len(cameras) / MOST_VIEWS)
    for i in range(min(len(cameras), MOST_VIEWS)):
        camera = cameras[int(i * step)]
        small = camera.limited(COUNTING_SIDE)
        count += reach(splats, small.to(count.device), rasterizer, near) >= REACHES
    return count


def reach(splats: Splats, camera: Camera, rasterizer: Rasterizer, near: float) -> Tensor:
    """[N] share, about 0 to 1, of a splat's light that reaches a view: its blending weight summed over the picture, as
    a share of what that would be if nothing stood before it and the frame had no end.

    The sum of weights is the gradient of the picture's sum with respect to the splat's colour.
    """
    with torch.enable_grad():
        colour = torch.zeros_like(splats.opacities)[:, None].requires_grad_()
        means, quats, scales, opacities = (values.detach() for values in splats[:4])
        render = rasterizer(means, quats, scales, opacities, colour, camera, sh_degree=None, near=near)
        (weight,) = torch.autograd.grad(render.color.sum(), colour)
    alone = opacities * footprint(splats, camera)
    return weight[:, 0] / alone.clamp_min(1e-12)


@torch.no_grad()
def footprint(splats: Splats, camera: Camera) -> Tensor:
    """[N] area in pixels, the integral of a splat's Gaussian on the screen: at least that of the rasteriser's low-pass
    (pi), at most the frame's."""
    world_to_camera = camera.w2c[:3, :3]
    centre = splats.means @ world_to_camera.T + camera.w2c[:3, 3]
    depth = centre[:, 2:].clamp_min(1e-6)
    edges = []
    for axis in (0, 1):
        along = torch.zeros_like(splats.scales)
        along[:, axis] = splats.scales[:, axis]
        moved = rotate(splats.quats, along) @ world_to_camera.T
        # derivative of the perspective projection, in pixels
        on_plane = (moved[:, :2] - centre[:, :2] / depth * moved[:, 2:]) / depth
        edges.append(on_plane * camera.K.diagonal()[:2])
    area = edges[0][:, 0] * edges[1][:, 1] - edges[0][:, 1] * edges[1][:, 0]
    return (2.0 * math.pi * area.abs()).clamp(math.pi, max(math.pi, camera.width * camera.height))
