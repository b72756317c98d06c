"""Which parts of a scene a fit gets to see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from genfusion_ns.training_data import masks

Kind = Literal["corner", "window", "moving", "polygon", "sparse"]


@dataclass(frozen=True)
class Variant:
    """One way of hiding most of a scene."""

    name: str
    """Short and unique among a scene's variants: part of the shard's name."""
    kind: Kind
    """sparse = few whole photos; all others = parts of many photos."""
    seed: int
    """Where windows and views lie."""
    share: float = 0.25
    """Known part of each photo, for window and polygon."""
    every: int = 1
    """Masked kinds train on each so many-th frame of the path."""
    views: int = 3
    """sparse: how many photos."""
    first: float = 0.0
    """sparse: where on the path [0, 1] the first photo lies..."""
    last: float = 1.0
    """... and the last; frames beyond them are extrapolated."""

    def training_frames(self, count: int) -> list[int]:
        """Numbers of the path's frames that train, ascending."""
        if self.kind != "sparse":
            return list(range(0, count, self.every))
        if self.views == 1:
            places = np.array([(self.first + self.last) / 2])
        else:
            places = np.linspace(self.first, self.last, self.views)
        return sorted({round(float(place) * (count - 1)) for place in places})

    def masks(self, count: int, width: int, height: int) -> masks.Masks:
        """[F, H, W] known pixels of all frames."""
        if self.kind == "corner":
            return masks.corner_masks(self.seed, count, width, height)
        if self.kind == "window":
            return masks.window_masks(self.seed, count, width, height, self.share)
        if self.kind == "moving":
            return masks.moving_masks(self.seed, count, width, height)
        if self.kind == "polygon":
            return masks.polygon_masks(self.seed, count, width, height, self.share)
        return np.ones((count, height, width), bool)


_MASKED: tuple[tuple[str, Kind, float], ...] = (
    ("corner", "corner", 0.25),
    ("window10", "window", 0.10),
    ("window50", "window", 0.50),
    ("moving", "moving", 0.25),
    ("polygon", "polygon", 0.0),
)
_MASKED_ODDS = (0.3, 0.15, 0.15, 0.2, 0.2)
# How many photos: mostly 3 to 9, the numbers of the sparse-view protocols.
_VIEWS_ODDS = {1: 0.04, 2: 0.12, 3: 0.28, 4: 0.13, 5: 0.10, 6: 0.15, 7: 0.05, 8: 0.04, 9: 0.09}


def draw_variant(rng: np.random.Generator) -> Variant:
    """A way of hiding most of a scene: sparse photos two times of three, else parts of many."""
    return _sparse(rng) if rng.random() < 0.67 else _masked(rng)


def _masked(rng: np.random.Generator) -> Variant:
    name, kind, share = _MASKED[int(rng.choice(len(_MASKED), p=_MASKED_ODDS))]
    every = int(rng.choice([1, 2, 4], p=[0.6, 0.3, 0.1]))
    if kind == "polygon":
        share = float(rng.choice([0.1, 0.25, 0.5]))
        name = f"polygon{round(100 * share)}"
    return Variant(name if every == 1 else f"{name}-every{every}", kind, int(rng.integers(2**31)), share, every)


def _sparse(rng: np.random.Generator) -> Variant:
    views = int(rng.choice(list(_VIEWS_ODDS), p=list(_VIEWS_ODDS.values())))
    # two of three within the path's ends, so that frames beyond the photos occur as on the loop's orbits
    first, last = (0.0, 1.0) if rng.random() < 1 / 3 else (rng.uniform(0, 0.25), rng.uniform(0.75, 1.0))
    return Variant(f"sparse{views}", "sparse", int(rng.integers(2**31)), 1.0, 1, views, float(first), float(last))
