"""What the benchmark's method names mean.

splatfacto                        Nerfstudio's own, where there is CUDA
2dgs                              our model without the loop
genfusion-REPAIRER                the loop with 'identity', 'classical', or bundled weights by name; 'lite' stands for
                                  whichever of the lite family is bundled
genfusion:WEIGHTS                 the loop with any weights: a folder, a bundled name or a hub id
genfusion-REPAIRER-no-expansion   the loop without surfaces unprojected from repaired frames
genfusion-REPAIRER-no-densifier   the loop with 3DGS's gradient densifier instead of the sparsity-aware one
genfusion-REPAIRER-neither        the loop without both
genfusion-REPAIRER-every-500      the loop with a round every 500 (or 2000) steps of the preset's 7,000, not every 1000
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion.configurations import CONFIGURATIONS
from diffusion.errors import UserError as DiffusionError
from diffusion.loading import bundled_names, locate_weights
from genfusion_ns.errors import UserError
from genfusion_ns.loop.repairers.base import repairer_names
from genfusion_ns.loop.repairers.diffusion import fingerprint

ABLATIONS: dict[str, dict[str, Any]] = {
    "no-expansion": {"expand": False},
    "no-densifier": {"sparsity_aware": False},
    "neither": {"expand": False, "sparsity_aware": False},
    "every-500": {"every": 500},
    "every-2000": {"every": 2000},
}
"""Suffix -> what of the recipe it changes."""
DEFAULTS = ("splatfacto", "2dgs", "genfusion-identity", "genfusion-classical", "genfusion-lite")
"""What is measured where nothing else is asked for, less what cannot run."""


@dataclass(frozen=True)
class Recipe:
    """What one method trains with."""

    model: str
    """splatfacto or genfusion."""
    repairer: str | None = None
    """Who repairs renders; None = no loop."""
    weights: str = ""
    """Folder, name or hub id, where the repairer is the video model."""
    expand: bool = True
    """Whether repaired frames add splats where surfaces are missing."""
    sparsity_aware: bool = True
    """Whether growth waits until a splat was seen often enough."""
    every: int | None = None
    """Steps of the preset's run between rounds; None = the preset's."""


def recipe_of(method: str) -> Recipe:
    """The recipe that a method's name stands for.

    Raises:
        UserError: no such method.
    """
    if method == "splatfacto":
        return Recipe("splatfacto")
    if method == "2dgs":
        return Recipe("genfusion")
    if method.startswith("genfusion:") and len(method) > len("genfusion:"):
        return Recipe("genfusion", "diffusion", method.removeprefix("genfusion:"))
    if method.startswith("genfusion-"):
        name, changes = _without_ablation(method.removeprefix("genfusion-"))
        if name in CONFIGURATIONS or name in bundled_names():
            return Recipe("genfusion", "diffusion", name, **changes)
        if name in repairer_names() and name != "diffusion":
            return Recipe("genfusion", name, **changes)
    names = [name for name in repairer_names() if name != "diffusion"]
    raise UserError(
        f"there is no method {method!r}; expected splatfacto, 2dgs, genfusion-REPAIRER (of {', '.join(names)}, or "
        f"weights by name: {', '.join(CONFIGURATIONS)}), that with -{', -'.join(ABLATIONS)} behind it, or "
        "genfusion:WEIGHTS."
    )


def missing(method: str, has_cuda: bool) -> str:
    """Why a method cannot run on this machine, in words; empty where it can."""
    recipe = recipe_of(method)
    if recipe.model == "splatfacto" and not has_cuda:
        return "it needs CUDA, which this machine lacks"
    if recipe.weights in CONFIGURATIONS and recipe.weights not in bundled_names() and not Path(recipe.weights).is_dir():
        return f"no weights called {recipe.weights!r} are bundled with this installation"
    return ""


def weights_hash(method: str) -> str:
    """What tells a method's weights from others of the same name; empty for methods without weights.

    Raises:
        UserError: the weights cannot be found.
    """
    weights = recipe_of(method).weights
    if not weights:
        return ""
    try:
        return fingerprint(locate_weights(weights))
    except DiffusionError as error:
        raise UserError(f"method {method!r}: {error}") from error


def is_ablation(method: str) -> bool:
    """Whether a method changes a part of the loop for comparison, so that pictures may do without it."""
    return method.startswith("genfusion-") and bool(_without_ablation(method)[1])


def runnable(asked: Sequence[str], has_cuda: bool) -> tuple[list[str], list[str]]:
    """The methods to measure (all of `DEFAULTS` where none are asked for), and one line for each that is left out.

    Raises:
        UserError: a method that does not exist.
    """
    reasons = {method: missing(method, has_cuda) for method in asked or DEFAULTS}
    return [m for m, why in reasons.items() if not why], [f"{m} is left out: {w}." for m, w in reasons.items() if w]


def _without_ablation(name: str) -> tuple[str, dict[str, Any]]:
    for suffix, changes in ABLATIONS.items():
        if name.endswith(f"-{suffix}"):
            return name.removesuffix(f"-{suffix}"), changes
    return name, {}
