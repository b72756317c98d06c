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

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from genfusion_ns.cameras import Camera, project
from genfusion_ns.raster.api import Render
from genfusion_ns.splat_edits import State

CLASSES = ("observed", "repaired", "invented")
LEVELS = (1.0, 0.5, 0.0)
"""Trust in a splat of each class, for those who want one number."""
LEGEND = ((0.30, 0.52, 0.80), (0.95, 0.80, 0.20), (0.86, 0.16, 0.16))
"""RGB of each class: blue, yellow, red. They are linearly independent, so that `shares` can undo `paint`."""
TRAINED = 10
"""Steps of captured views after which photos have trained a splat; with fewer, Adam has hardly moved it."""
TOLERANCE = 0.05
"""A splat may lie by this share behind the surface and still belong to it: depths are those of centres. The surface is
the median depth, which a floater that lets most light through does not bring forward."""
SOLID = 0.5
"""Opacity below which a render hides nothing."""
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


@torch.no_grad()
def count_observers(means: Tensor, cameras: Sequence[Camera], render: Callable[[Camera], Render]) -> Tensor:
    """[N] float: how many of the captured views (of at most MOST_VIEWS) see each splat (`sees`).

    Args:
        means: [N, 3] world.
        cameras: captured views, on any device.
        render: draws all splats, in the order of `means`.
    """
    count = torch.zeros(len(means), device=means.device)
    step = max(1.0, len(cameras) / MOST_VIEWS)
    for i in range(min(len(cameras), MOST_VIEWS)):
        camera = cameras[int(i * step)]
        scale = min(1.0, COUNTING_SIDE / max(camera.width, camera.height))
        small = camera.resized(max(1, round(camera.width * scale)), max(1, round(camera.height * scale)))
        small = small.to(means.device)
        shown = render(small)
        count += sees(means, small, shown)
    return count


def sees(means: Tensor, camera: Camera, shown: Render) -> Tensor:
    """[N] bool: the splat is drawn, its centre lies within the frame or at most one sigma beside it, and not behind the
    surface rendered there.

    Args:
        means: [N, 3] world.
        shown: all splats in that view.
    """
    pixels, z = project(means, camera)
    size = pixels.new_tensor([camera.width, camera.height])
    beside = torch.maximum(-pixels, pixels - size).amax(-1)
    drawn = (shown.radii > 0) & (beside <= shown.radii / 3.0)
    # kept within the frame: of what lies beside it, the border tells
    column, row = pixels.nan_to_num(0.0).clamp_min(0.0).minimum(size - 1.0).long().unbind(-1)
    index = row * camera.width + column
    hides = shown.alpha.flatten()[index] >= SOLID
    return drawn & ~(hides & (z > (1.0 + TOLERANCE) * shown.median_depth.flatten()[index]))
