"""Where splats are added and removed: the densifier's surface, and the gradient-scaled densifier of 3DGS and 2DGS.

A densifier is a plain dataclass of numbers; what it remembers is an explicit dict of per-splat tensors, so that a
checkpoint holds all of it (gsplat's form). k is the number of finished steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
from gsplat.strategy.ops import duplicate
from torch import Tensor

from genfusion_ns.bounds import COUNT, NATURAL, POSITIVE, SHARE, Bound, Bounds
from genfusion_ns.gaussians.edit import (
    Optimizers,
    Params,
    State,
    bound_opacities,
    finite_rows,
    prune_splats,
    pull_down_opacities,
    split_in_plane,
)
from genfusion_ns.schedule import is_densify_due, is_opacity_reset_due, scaled
from genfusion_ns.seeding import generator

STATISTICS = ("grad", "count", "max_radius")
"""What an event forgets."""
OBSERVERS = ("captured", "generated")
"""Who saw a splat, which nothing forgets."""


@dataclass(frozen=True)
class DensifyReport:
    """What one call of `step` did."""

    cloned: int = 0
    """Small splats that were copied in place."""
    split: int = 0
    """Large splats that were replaced by two smaller ones each."""
    pruned: int = 0
    """Splats removed: too faint, too large, or not finite."""
    reset: bool = False
    """Whether opacities were pulled down."""
    total: int = 0
    """Splats afterwards."""

    @property
    def changed(self) -> bool:
        """Whether parameters were replaced by new tensors."""
        return bool(self.cloned or self.split or self.pruned)


class Densifier(Protocol):
    """Decides where splats are added and removed."""

    def initialize_state(self, n: int, device: torch.device | str = "cpu") -> State:
        """Statistics of `n` fresh splats."""
        ...

    def observe(
        self,
        state: State,
        signal_grad: Tensor,
        radii: Tensor,
        width: int,
        height: int,
        weight: float = 1.0,
        generated: bool = False,
    ) -> None:
        """Take in one rendered view after backward; `weight` < 1 makes it count less, `generated` tells that it is no
        captured one."""
        ...

    def step(
        self, params: Params, optimizers: Optimizers, state: State, k: int, extent: float, seed: int
    ) -> DensifyReport:
        """After the optimiser's step k: edit the splats in place where an event is due."""
        ...


@dataclass
class GradientDensifier:
    """Clones or splits splats whose screen position the loss pulls hard, prunes the faint and the huge (3DGS, sec. 5.2;
    2DGS's thresholds)."""

    start: int = 500
    """No event before this many steps; 3DGS's 500. Earlier ones act on gradients of a scene that is still a blur."""
    stop: int = 15000
    """No event from this step on; half of 3DGS's 30000. The rest of the run only refines what is there."""
    every: int = 100
    """Steps between two events; 3DGS's 100. Fewer steps mean noisier statistics, and faster growth."""
    reset_every: int = 3000
    """Steps between two opacity resets, which let floaters die; 3DGS's 3000; 0 switches them off."""
    pause_after_reset: int = 200
    """No event for this many steps after a reset, so that faint splats can recover first; ours (3DGS has none)."""
    grow_grad2d: float = 0.0002
    """Mean screen-space gradient (in units of half the image) above which a splat grows; 3DGS's 0.0002. Lower values
    give more splats."""
    grow_scale3d: float = 0.01
    """Share of the scene's extent up to which a growing splat is cloned, above which it is split; 3DGS's 0.01."""
    prune_opacity: float = 0.05
    """Splats fainter than this are removed at each event; 2DGS's 0.05."""
    prune_scale3d: float = 0.1
    """Splats larger than this share of the scene's extent are removed after the first reset; 3DGS's 0.1."""
    reset_opacity: float = 0.01
    """Opacity that a reset leaves at most; 3DGS's 0.01."""
    split_shrink: float = 1.6
    """A split splat's halves are smaller by this factor; 3DGS's 1.6."""
    max_gaussians: int = 1_000_000
    """No growth beyond this many splats; those with the largest gradients come first. Bounds memory and time."""

    BOUNDS: ClassVar[Bounds] = {
        "start": NATURAL,
        "stop": NATURAL,
        "every": NATURAL,
        "reset_every": NATURAL,
        "pause_after_reset": NATURAL,
        "grow_grad2d": NATURAL,
        "grow_scale3d": NATURAL,
        "prune_opacity": SHARE,
        "prune_scale3d": POSITIVE,
        "reset_opacity": Bound(0, 1, above=True),
        "split_shrink": Bound(1),
        "max_gaussians": COUNT,
    }

    def scaled_to(self, max_iterations: int, reference: int = 30_000, tail: float = 0.2) -> GradientDensifier:
        """The same recipe for a run of `max_iterations`: steps stretched from `reference`, and no event in the last
        `tail` share of the run, which polishes. `every` is kept, since statistics need as many views as before."""
        return replace(
            self,
            start=scaled(self.start, max_iterations, reference),
            stop=min(scaled(self.stop, max_iterations, reference), math.floor((1.0 - tail) * max_iterations)),
            reset_every=scaled(self.reset_every, max_iterations, reference),
        )

    def initialize_state(self, n: int, device: torch.device | str = "cpu") -> State:
        """Zero statistics: `grad` sum of gradient norms, `count` of views, `max_radius` as a share of the image; and
        `captured` and `generated`, how many views of each kind a splat ever took part in."""
        return {name: torch.zeros(n, device=device) for name in (*STATISTICS, *OBSERVERS)}

    @torch.no_grad()
    def observe(
        self,
        state: State,
        signal_grad: Tensor,
        radii: Tensor,
        width: int,
        height: int,
        weight: float = 1.0,
        generated: bool = False,
    ) -> None:
        """Add one view's gradients to the statistics of the splats that it shows. It counts as captured or generated
        for the splats that it has a gradient for: one that stands behind others lies within the frame but is not seen.

        Args:
            signal_grad: [N, 2] `Render.densify_signal.grad`, in pixels; rows that are not finite count as unseen.
            radii: [N] screen radius in pixels, 0 = not visible.
            weight: >= 0, how much this view counts.
            generated: whether it is no captured view; makes no difference to the statistics.
        """
        norm = screen_norm(signal_grad, width, height)
        seen = ((radii > 0) & norm.isfinite()).to(norm.dtype) * weight
        state["grad"] += seen * norm.nan_to_num(0.0, 0.0, 0.0)
        state["count"] += seen
        share = radii.to(norm.dtype) / max(width, height) * (seen > 0)
        torch.maximum(state["max_radius"], share, out=state["max_radius"])
        state["generated" if generated else "captured"] += (radii > 0) & norm.isfinite() & (norm > 0)

    @torch.no_grad()
    def step(
        self, params: Params, optimizers: Optimizers, state: State, k: int, extent: float, seed: int
    ) -> DensifyReport:
        """Grow and prune, or reset opacities, if step k is an event; `params`, Adam moments and `state` are edited. No
        opacity stays above `edit.MOST_OPACITY`.

        Args:
            extent: the scene's unit of length (`geometry.scene_extent`).
            seed: with k the only source of randomness.
        """
        bound_opacities(params)
        cloned = split = pruned = 0
        if self._is_event(k):
            grow = self._strongest(state, self._wants_growth(state, k))
            # before growing: what is forgotten of a splat is forgotten of its children
            self._forget(state, grow)
            cloned, split = self._grow(params, optimizers, state, grow, extent, generator(seed, "split", k))
            pruned = self._prune(params, optimizers, state, k, extent)
        # a reset that no event follows would only leave faint splats behind
        reset = is_opacity_reset_due(k, self.reset_every, self.stop - self.pause_after_reset)
        if reset:
            pull_down_opacities(params, optimizers, self._resettable(state), self.reset_opacity)
        return DensifyReport(cloned, split, pruned, reset, len(params["means"]))

    def _is_event(self, k: int) -> bool:
        if not is_densify_due(k, self.start, self.stop, self.every):
            return False
        return self.reset_every < 1 or k < self.reset_every or k % self.reset_every >= self.pause_after_reset

    def _wants_growth(self, state: State, k: int) -> Tensor:
        """[N] bool: the splats that the loss pulls hard enough."""
        del k
        return mean_gradient(state) > self.grow_grad2d

    def _strongest(self, state: State, grow: Tensor) -> Tensor:
        """[N] bool: of the splats in `grow` as many as `max_gaussians` leaves room for."""
        room = max(0, self.max_gaussians - len(grow))
        if int(grow.sum()) <= room:
            return grow
        strongest = torch.where(grow, mean_gradient(state), -1.0).topk(room).indices
        return torch.zeros_like(grow).index_fill_(0, strongest, True)

    def _forget(self, state: State, grow: Tensor) -> None:
        """Begin new statistics after an event: for all splats. What else a model keeps per splat is left alone."""
        del grow
        for name in STATISTICS:
            state[name].zero_()

    def _resettable(self, state: State) -> Tensor:
        """[N] bool: the splats whose opacity a reset pulls down: all."""
        return torch.ones_like(state["count"], dtype=torch.bool)

    def _faint(self, state: State, opacity: Tensor) -> Tensor:
        """[N] bool: the splats that are too faint to keep."""
        del state
        return opacity < self.prune_opacity

    def _grow(
        self,
        params: Params,
        optimizers: Optimizers,
        state: State,
        grow: Tensor,
        extent: float,
        random: torch.Generator,
    ) -> tuple[int, int]:
        size = params["scales"][:, :2].exp().amax(dim=-1)
        small = size <= self.grow_scale3d * extent
        clones, splits = grow & small, grow & ~small
        n_clones, n_splits = int(clones.sum()), int(splits.sum())
        if n_clones:
            duplicate(params, optimizers, state, clones)
        if n_splits:
            splits = torch.cat([splits, splits.new_zeros(n_clones)])
            split_in_plane(params, optimizers, state, splits, self.split_shrink, random)
        return n_clones, n_splits

    def _prune(self, params: Params, optimizers: Optimizers, state: State, k: int, extent: float) -> int:
        broken = ~finite_rows(params)
        opacity = torch.sigmoid(params["opacities"][:, 0])
        gone = broken | self._faint(state, opacity)
        if 0 < self.reset_every < k:
            gone |= params["scales"][:, :2].exp().amax(dim=-1) > self.prune_scale3d * extent
        return prune_splats(params, optimizers, state, gone, broken)


def screen_norm(signal_grad: Tensor, width: int, height: int) -> Tensor:
    """[N] lengths of screen gradients [N, 2] in pixels, in units of half the image (3DGS's normalised coordinates)."""
    return (signal_grad[:, 0] * (0.5 * width)).hypot(signal_grad[:, 1] * (0.5 * height))


def mean_gradient(state: State) -> Tensor:
    """[N] mean length of the screen gradient over the views counted; 0 where none was."""
    return state["grad"] / state["count"].clamp_min(1e-12)
