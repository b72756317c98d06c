"""Initial points: what the training views alone can tell about the scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from genfusion_ns.data.colmap import ColmapModel
from genfusion_ns.data.views import TrainView

PointsMode = Literal["tracks", "official", "all", "random"]


@dataclass(frozen=True)
class InitialPoints:
    """Coloured points in the world of the training views."""

    xyz: NDArray[np.float32]
    """[P, 3] positions."""
    rgb: NDArray[np.uint8]
    """[P, 3] colours."""
    source: str
    """Where they come from, in words, for the log."""
    measured: int
    """How many of them (the first ones) are measured; the rest is sampled."""
    notes: list[str] = field(default_factory=list)
    """Warnings for the caller to log."""


def initial_points(
    views: Sequence[TrainView],
    model: ColmapModel | None,
    *,
    target: int,
    mode: PointsMode = "tracks",
    cloud: tuple[NDArray, NDArray] | None = None,
    seed: int = 0,
) -> InitialPoints:
    """Points to start from; positions, colours and everything else in the world of `views`.

    Args:
        views: the training views.
        model: the COLMAP model of the capture, None where there is none.
        target: how many points to end up with; fewer measured ones are completed by sampled ones.
        mode: `tracks`, `official`, `all` or `random`.
        cloud: [P, 3] positions and [P, 3] uint8 colours of the scene's own point cloud, for `all` without a model.
        seed: seed of the sampling.
    """
    ...
