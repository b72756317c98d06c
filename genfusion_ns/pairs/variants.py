"""Which parts of a scene a fit gets to see."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np

from genfusion_ns.errors import UserError
from genfusion_ns.pairs import masks
from genfusion_ns.seeding import seed_of

MOST_VARIANTS = 12
"""So many different ones can be drawn for sure; there are 9 sparse ones."""

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


def draw_variants(scene: str, seed: int, count: int) -> list[Variant]:
    """`count` different variants of a scene, by turns masked and sparse, the first kind at random.

    Args:
        scene: the scene's name; with `seed` the only source of randomness.
        count: 1 to `MOST_VARIANTS`.
    """
    rng = np.random.default_rng(seed_of(seed, scene, "variants"))
    masked_first = bool(rng.integers(2))
    chosen: list[Variant] = []
    while len(chosen) < count:
        masked = (len(chosen) % 2 == 0) == masked_first
        variant = _masked(rng) if masked else _sparse(rng)
        if variant.name not in {other.name for other in chosen}:
            chosen.append(variant)
    return chosen


def named_variant(name: str, seed: int) -> Variant:
    """A variant by its name, such as corner, moving, window10, polygon25 or sparse3; `seed` says where it lies.

    Raises:
        UserError: there is no such variant.
    """
    match = re.fullmatch(r"(corner|moving|window|polygon|sparse)(\d*)", name)
    if match is None or (match[1] in ("corner", "moving")) != (match[2] == ""):
        raise UserError(
            f"There is no variant '{name}'; expected corner, moving, or window, polygon (with a percentage) or sparse "
            "(with a number of photos), such as window10 or sparse3."
        )
    kind, number = match[1], int(match[2] or 25)
    if not 1 <= number <= 100:
        raise UserError(f"Found variant '{name}'; expected a number from 1 to 100.")
    if kind == "sparse":
        return Variant(name, "sparse", seed, views=number)
    return Variant(name, cast(Kind, kind), seed, share=number / 100)


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
