"""Where splats are added and removed: the densifier's surface, and the gradient-scaled densifier of 3DGS and 2DGS.

A densifier is a plain dataclass of numbers; what it remembers is an explicit dict of per-splat tensors, so that a
checkpoint holds all of it (gsplat's form). k is the number of finished steps.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from gsplat.strategy.ops import duplicate, remove, reset_opa
from torch import Tensor
from torch.nn import Parameter, ParameterDict
from torch.optim import Optimizer

from genfusion_ns.gaussians import THICKNESS
from genfusion_ns.schedule import is_densify_due, is_opacity_reset_due, scaled
from genfusion_ns.seeding import generator

log = logging.getLogger(__name__)

Params = dict[str, Parameter] | ParameterDict
"""Raw parameters by Splatfacto's names (`gaussians.PARAMETER_NAMES`)."""
Optimizers = dict[str, Optimizer]
"""One optimiser with one parameter group for each parameter name."""
State = dict[str, Tensor]
"""Per-splat tensors [N, ...] only; they are edited along with the splats."""


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
        self, state: State, signal_grad: Tensor, radii: Tensor, width: int, height: int, weight: float = 1.0
    ) -> None:
        """Take in one rendered view after backward; `weight` < 1 makes it count less (generated views)."""
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
        """Zero statistics: `grad` sum of gradient norms, `count` of views, `max_radius` as a share of the image."""
        return {name: torch.zeros(n, device=device) for name in ("grad", "count", "max_radius")}

    @torch.no_grad()
    def observe(
        self, state: State, signal_grad: Tensor, radii: Tensor, width: int, height: int, weight: float = 1.0
    ) -> None:
        """Add one view's gradients to the statistics of the splats that it shows.

        Args:
            signal_grad: [N, 2] `Render.densify_signal.grad`, in pixels; rows that are not finite count as unseen.
            radii: [N] screen radius in pixels, 0 = not visible.
            weight: >= 0, how much this view counts.
        """
        norm = (signal_grad * signal_grad.new_tensor([0.5 * width, 0.5 * height])).norm(dim=-1)
        seen = ((radii > 0) & norm.isfinite()).to(norm.dtype) * weight
        state["grad"] += seen * norm.nan_to_num(0.0, 0.0, 0.0)
        state["count"] += seen
        share = radii.to(norm.dtype) / max(width, height) * (seen > 0)
        torch.maximum(state["max_radius"], share, out=state["max_radius"])

    @torch.no_grad()
    def step(
        self, params: Params, optimizers: Optimizers, state: State, k: int, extent: float, seed: int
    ) -> DensifyReport:
        """Grow and prune, or reset opacities, if step k is an event; `params`, Adam moments and `state` are edited.

        Args:
            extent: the scene's unit of length (`geometry.scene_extent`).
            seed: with k the only source of randomness.
        """
        cloned = split = pruned = 0
        if self._is_event(k):
            cloned, split = self._grow(params, optimizers, state, k, extent, seed)
            pruned = self._prune(params, optimizers, state, k, extent)
            for values in state.values():
                values.zero_()
        # a reset that no event follows would only leave faint splats behind
        reset = is_opacity_reset_due(k, self.reset_every, self.stop - self.pause_after_reset)
        if reset:
            reset_opa(params, optimizers, state, self.reset_opacity)
        return DensifyReport(cloned, split, pruned, reset, len(params["means"]))

    def _is_event(self, k: int) -> bool:
        if not is_densify_due(k, self.start, self.stop, self.every):
            return False
        return self.reset_every < 1 or k < self.reset_every or k % self.reset_every >= self.pause_after_reset

    def _grow(
        self, params: Params, optimizers: Optimizers, state: State, k: int, extent: float, seed: int
    ) -> tuple[int, int]:
        mean_grad = state["grad"] / state["count"].clamp_min(1e-12)
        grow = mean_grad > self.grow_grad2d
        room = max(0, self.max_gaussians - len(mean_grad))
        if int(grow.sum()) > room:
            strongest = torch.where(grow, mean_grad, -1.0).topk(room).indices
            grow = torch.zeros_like(grow).index_fill_(0, strongest, True)
        size = params["scales"][:, :2].exp().amax(dim=-1)
        small = size <= self.grow_scale3d * extent
        clones, splits = grow & small, grow & ~small
        n_clones, n_splits = int(clones.sum()), int(splits.sum())
        if n_clones:
            duplicate(params, optimizers, state, clones)
        if n_splits:
            splits = torch.cat([splits, splits.new_zeros(n_clones)])
            split_in_plane(params, optimizers, state, splits, self.split_shrink, generator(seed, "split", k))
        return n_clones, n_splits

    def _prune(self, params: Params, optimizers: Optimizers, state: State, k: int, extent: float) -> int:
        broken = ~finite_rows(params)
        opacity = torch.sigmoid(params["opacities"][:, 0])
        gone = broken | (opacity < self.prune_opacity)
        if 0 < self.reset_every < k:
            gone |= params["scales"][:, :2].exp().amax(dim=-1) > self.prune_scale3d * extent
        return prune_splats(params, optimizers, state, gone, broken)


def finite_rows(params: Params) -> Tensor:
    """[N] bool: every parameter of the splat is finite."""
    return torch.stack([values.flatten(1).isfinite().all(dim=1) for values in params.values()]).all(dim=0)


def split_in_plane(
    params: Params, optimizers: Optimizers, state: State, mask: Tensor, shrink: float, random: torch.Generator
) -> None:
    """Replace each splat in `mask` [N] by two, drawn from its own Gaussian in its plane and smaller by `shrink`.

    One takes the parent's row, the other is appended; both start with zero Adam moments. The thin axis is left alone.
    """
    n, chosen = len(mask), torch.where(mask)[0]
    duplicate(params, optimizers, state, mask)
    rows = torch.cat([chosen, torch.arange(n, len(params["means"]), device=mask.device)])
    means, scales = params["means"].data, params["scales"].data
    noise = torch.randn(len(rows), 2, generator=random).to(means)
    local = torch.cat([noise * scales[rows, :2].exp(), torch.zeros_like(noise[:, :1])], dim=-1)
    means[rows] += rotate(params["quats"].data[rows], local)
    scales[rows, :2] -= math.log(shrink)
    _forget_moments(optimizers, chosen)


def rotate(quats: Tensor, vectors: Tensor) -> Tensor:
    """Vectors [N, 3] turned by quaternions [N, 4] (wxyz, any non-zero norm)."""
    quats = torch.nn.functional.normalize(quats, dim=-1)
    w, axis = quats[:, :1], quats[:, 1:]
    twist = 2.0 * torch.linalg.cross(axis, vectors)
    return vectors + w * twist + torch.linalg.cross(axis, twist)


def append_splats(params: Params, optimizers: Optimizers, state: State, new: dict[str, Tensor]) -> None:
    """Add splats in place: their Adam moments and statistics start at zero.

    Args:
        new: raw parameters under the names of `params`, each [M, ...].

    Raises:
        ValueError: names or shapes do not fit.
    """
    shapes = {name: (values.shape[1:], len(new["means"])) for name, values in params.items()}
    if {name: (values.shape[1:], len(values)) for name, values in new.items()} != shapes:
        found = {name: list(values.shape) for name, values in new.items()}
        raise ValueError(
            f"expected splats like { ({name: list(v.shape) for name, v in params.items()}) }, got {found}."
        )
    for name, values in new.items():
        old, optimizer = params[name], optimizers[name]
        grown = Parameter(torch.cat([old.data, values.to(old.data)]))
        moments = optimizer.state.pop(old, None)
        optimizer.param_groups[0]["params"] = [grown]
        if moments is not None:
            optimizer.state[grown] = {
                key: v if key == "step" else _with_zeros(v, len(values)) for key, v in moments.items()
            }
        params[name] = grown
    for key, values in state.items():
        state[key] = _with_zeros(values, len(new["means"]))


def _with_zeros(values: Tensor, count: int) -> Tensor:
    return torch.cat([values, values.new_zeros(count, *values.shape[1:])])


def prune_splats(
    params: Params, optimizers: Optimizers, state: State, gone: Tensor, broken: Tensor, keep: int = 16
) -> int:
    """Remove the splats in `gone` [N], but never all of them: the `keep` most opaque stay, with a warning.

    Splats in `broken` [N] hold values that are not finite. They go even then; if nothing else is left, the first is
    mended into a small grey one, since an empty scene can no longer learn.

    Returns:
        how many were removed.
    """
    if bool(gone.all()):
        log.warning("all %d splats were to be pruned; keeping the most opaque ones", len(gone))
        if bool(broken.all()):
            _mend_first(params, optimizers)
            broken = broken.clone()
            broken[0] = False
        opacity = torch.where(broken, -math.inf, params["opacities"][:, 0])
        best = opacity.topk(min(keep, int((~broken).sum()))).indices
        gone = gone.index_fill(0, best, False)
    count = int(gone.sum())
    if count:
        remove(params, optimizers, state, gone)
    return count


def _mend_first(params: Params, optimizers: Optimizers) -> None:
    fill = {"scales": math.log(0.01)}
    for name, values in params.items():
        values.data[0] = fill.get(name, 0.0)
    params["scales"].data[0, 2] = math.log(THICKNESS)
    params["quats"].data[0, 0] = 1.0
    _forget_moments(optimizers, torch.zeros(1, dtype=torch.long, device=params["means"].device))


def _forget_moments(optimizers: Optimizers, rows: Tensor) -> None:
    for optimizer in optimizers.values():
        for moments in optimizer.state.values():
            for name, values in moments.items():
                if name != "step":
                    values[rows] = 0
