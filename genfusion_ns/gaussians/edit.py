"""Edits of the splats in place: parameters, Adam's moments and per-splat statistics always stay one."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from gsplat.strategy.ops import duplicate, remove
from torch import Tensor
from torch.nn import Parameter, ParameterDict
from torch.optim import Optimizer

from genfusion_ns.gaussians.parameters import THICKNESS

log = logging.getLogger(__name__)

Params = dict[str, Parameter] | ParameterDict
"""Raw parameters by Splatfacto's names (`parameters.PARAMETER_NAMES`)."""
Optimizers = dict[str, Optimizer]
"""One optimiser with one parameter group for each parameter name."""
MOST_OPACITY = 0.99
"""Opacity that splats keep to. In float32 the sigmoid's slope is exactly 0 from a logit of 17 on; with few photos and
thousands of steps many splats get there, and could never fade again wherever they are wrong (docs/measured.md)."""
State = dict[str, Tensor]
"""Per-splat tensors [N, ...] only; they are edited along with the splats."""


def bound_opacities(params: Params) -> None:
    """Bring opacities above MOST_OPACITY down to it, in place; Adam's moments stay."""
    params["opacities"].data.clamp_(max=math.log(MOST_OPACITY / (1.0 - MOST_OPACITY)))


def pull_down_opacities(params: Params, optimizers: Optimizers, rows: Tensor, value: float) -> None:
    """Bring the opacities of the splats in `rows` [N] down to at most `value`, in place, and forget their moments."""
    chosen = torch.where(rows)[0]
    opacities = params["opacities"].data
    opacities[chosen] = opacities[chosen].clamp_max(math.log(value / (1.0 - value)))
    _forget_moments({"opacities": optimizers["opacities"]}, chosen)


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
        old = params[name].data
        grown = Parameter(torch.cat([old, values.to(old)]))
        moments = _swap(params, optimizers, name, grown)
        if moments is not None:
            optimizers[name].state[grown] = {
                key: v if key == "step" else _with_zeros(v, len(values)) for key, v in moments.items()
            }
    for key, values in state.items():
        state[key] = _with_zeros(values, len(new["means"]))


def copy_splats(params: Params, optimizers: Optimizers, state: State) -> dict[str, Any]:
    """Everything about the splats that training changes, on the CPU: `params`, `moments` by parameter, `state`."""
    moments = {name: optimizers[name].state.get(p, {}) for name, p in params.items()}
    return {
        "params": {name: p.detach().to("cpu", copy=True) for name, p in params.items()},
        "moments": {
            name: {key: v.detach().to("cpu", copy=True) for key, v in values.items()}
            for name, values in moments.items()
        },
        "state": {key: v.to("cpu", copy=True) for key, v in state.items()},
    }


def restore_splats(params: Params, optimizers: Optimizers, state: State, copy: dict[str, Any]) -> None:
    """Bring splats, Adam's moments and statistics back to what `copy_splats` gave, in place."""
    for name in list(params.keys()):
        device = params[name].device
        restored = Parameter(copy["params"][name].to(device, copy=True))
        _swap(params, optimizers, name, restored)
        group = optimizers[name].param_groups[0]
        # Adam's step count is on the CPU, unless its kernels read it
        counted_on = device if group.get("fused") or group.get("capturable") else torch.device("cpu")
        if copy["moments"][name]:
            optimizers[name].state[restored] = {
                key: v.to(counted_on if key == "step" else device, copy=True)
                for key, v in copy["moments"][name].items()
            }
    for key, values in copy["state"].items():
        state[key] = values.to(state[key].device, copy=True)


def _swap(params: Params, optimizers: Optimizers, name: str, new: Parameter) -> Any:
    """Put another tensor in a parameter's place; returns the old one's moments, None if there were none."""
    moments = optimizers[name].state.pop(params[name], None)
    optimizers[name].param_groups[0]["params"] = [new]
    params[name] = new
    return moments


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
