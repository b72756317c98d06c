"""Units so small that a fit takes a second."""

from __future__ import annotations

from genfusion_ns.training_data.make import Recipe, Unit
from genfusion_ns.training_data.variants import Variant

TINY = Recipe(width=32, height=32, frames=4, clip_length=2, splats=200, points=120)


def tiny_unit(kind: str = "corner", family: str = "points", seed: int = 1) -> Unit:
    """Two snapshots of a fit of a few steps."""
    return Unit(family, seed, Variant(kind, kind, 3, views=2), (2, 5))  # type: ignore[arg-type]
