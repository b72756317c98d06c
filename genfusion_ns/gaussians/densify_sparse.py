"""The densifier for few views: it waits until a splat has been seen often enough, and spares what only generated views
see (GenFusion, sparsity-aware densification)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
from torch import Tensor

from genfusion_ns.bounds import COUNT, NATURAL, SHARE, Bounds
from genfusion_ns.gaussians.densify import STATISTICS, GradientDensifier
from genfusion_ns.gaussians.edit import State
from genfusion_ns.schedule import min_visible_count, scaled


@dataclass
class SparsityAwareDensifier(GradientDensifier):
    """Grows splats whose gradient is large AND that were seen often; keeps the statistics of the others.

    With few views a splat in the shared part of two photos is seen twice as often as one at the rim; resetting all
    statistics at each event would never let the latter reach a reliable mean.
    """

    visible_base: int = 50
    """Views that must have shown a splat before it grows, at step 0; GenFusion's 50. More wait for surer gradients."""
    visible_every: int = 100
    """Steps after which one view more is asked for; GenFusion's 100."""
    visible_cap: int = 100
    """Most views asked for; GenFusion's 100."""
    forget_after: int = 500
    """Statistics of a splat that did not grow start anew after so many views, so that they stay recent; GenFusion's
    500."""
    prune_generated: float = 0.005
    """Splats that no captured view shows are removed below this opacity only: generated views count half at most, and
    would lose them before they have grown. Ours."""

    BOUNDS: ClassVar[Bounds] = GradientDensifier.BOUNDS | {
        "visible_base": NATURAL,
        "visible_every": COUNT,
        "visible_cap": NATURAL,
        "forget_after": NATURAL,
        "prune_generated": SHARE,
    }

    def scaled_to(self, max_iterations: int, reference: int = 30_000, tail: float = 0.2) -> SparsityAwareDensifier:
        """As `GradientDensifier.scaled_to`; counts of views are stretched like steps, since each step shows as many."""
        full = cast(SparsityAwareDensifier, super().scaled_to(max_iterations, reference, tail))
        base, cap, forget = (
            scaled(n, max_iterations, reference) for n in (self.visible_base, self.visible_cap, self.forget_after)
        )
        return replace(full, visible_base=base, visible_cap=cap, forget_after=forget)

    def min_visible(self, k: int) -> int:
        """T(k): how many views must have shown a splat before it may grow."""
        return min_visible_count(k, self.visible_base, self.visible_every, self.visible_cap)

    def _wants_growth(self, state: State, k: int) -> Tensor:
        return super()._wants_growth(state, k) & (state["count"] >= self.min_visible(k))

    def _forget(self, state: State, grow: Tensor) -> None:
        done = grow | (state["count"] > self.forget_after)
        for name in STATISTICS:
            state[name].masked_fill_(done, 0.0)

    def _resettable(self, state: State) -> Tensor:
        return ~only_generated(state)

    def _faint(self, state: State, opacity: Tensor) -> Tensor:
        least = torch.where(only_generated(state), self.prune_generated, self.prune_opacity)
        return opacity < least


def only_generated(state: State) -> Tensor:
    """[N] bool: splats that took part in generated views, and never in a captured one."""
    return (state["captured"] == 0) & (state["generated"] > 0)
