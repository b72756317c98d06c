"""Which units a data set consists of: a function of a few numbers, so that a resumed run finds its place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from genfusion_ns.data.procedural.families import scene_names
from genfusion_ns.errors import UserError
from genfusion_ns.pairs.make import Recipe, Unit
from genfusion_ns.pairs.variants import draw_variants, named_variant
from genfusion_ns.seeding import seed_of

VALIDATION_SEEDS = 1_000_000
"""Scenes of the validation split have seeds from here on, so that none is ever trained on."""

_SEED_STEP = 10_000
# so many seeds have their validation scenes in one block, which training seeds leave out
_RESERVED = VALIDATION_SEEDS // _SEED_STEP
# The made families by turns; one irregular scene to five of them.
_MADE = ("rooms", "tables", "facades", "clutter", "terrains")
_CAPTURE_EVERY = 6


def plan_units(
    recipe: Recipe,
    scenes: int,
    variants: int,
    captures: Sequence[Path] = (),
    families: Sequence[str] = (),
    first: int = 0,
    named: Sequence[str] = (),
    only_captures: bool = False,
) -> list[Unit]:
    """`scenes` scenes with `variants` variants each, masked and sparse ones by turns; where there are captures, every
    sixth scene is a path through one of them.

    Args:
        families: which families to choose from; empty = all.
        first: number of the first scene, to go on where an earlier plan ended.
        named: these variants of every scene, instead of random ones.
        only_captures: all scenes are paths through the captures.

    Raises:
        UserError: an unknown family, or numbers beyond the seeds that a split has.
    """
    _check_seeds(recipe, first + scenes)
    unknown = sorted(set(families) - set(scene_names()))
    if unknown:
        raise UserError(f"There is no family {', '.join(unknown)}; expected some of {', '.join(scene_names())}.")
    offset = VALIDATION_SEEDS if recipe.split == "val" else 0
    units: list[Unit] = []
    for number in range(first, first + scenes):
        capture = ""
        if captures and (only_captures or number % _CAPTURE_EVERY == _CAPTURE_EVERY - 1):
            family = "capture"
            capture = str(captures[number // (1 if only_captures else _CAPTURE_EVERY) % len(captures)])
        else:
            # captures take no family's turn
            family = _family(number - number // _CAPTURE_EVERY if captures else number, families)
        seed = offset + recipe.seed * _SEED_STEP + number
        scene = f"{Path(capture).name or family}-{seed}"  # the same wherever a capture's folder lies
        drawn = [named_variant(name, seed_of(scene, name)) for name in named]
        for variant in drawn or draw_variants(scene, recipe.seed, variants):
            units.append(Unit(family, seed, variant, _steps(scene, variant.name), capture))
    return units


def _check_seeds(recipe: Recipe, scenes: int) -> None:
    """Raises UserError where a training scene could be a validation scene too, or a scene of another seed."""
    reserved = range(_RESERVED, 2 * _RESERVED)
    if scenes > _SEED_STEP:
        raise UserError(
            f"Found scenes up to number {scenes}; expected at most {_SEED_STEP}. Take another seed for more."
        )
    if recipe.split == "val" and recipe.seed >= _RESERVED:
        raise UserError(f"Found seed {recipe.seed} for the split val; expected one below {_RESERVED}.")
    if recipe.split != "val" and recipe.seed in reserved:
        raise UserError(
            f"Found seed {recipe.seed} for the split train; {reserved[0]} to {reserved[-1]} would give the scenes "
            "of the split val. Take a seed below or above."
        )


def _family(number: int, families: Sequence[str]) -> str:
    if families:
        return families[number % len(families)]
    irregular = [name for name in scene_names() if name not in _MADE]
    turn, place = divmod(number, len(_MADE) + 1)
    return _MADE[place] if place < len(_MADE) else irregular[turn % len(irregular)]


def _steps(scene: str, variant: str) -> tuple[int, int]:
    """Two training lengths: an early one, in which surfaces are still a blur, and one of an almost finished fit."""
    rng = np.random.default_rng(seed_of(scene, variant, "steps"))
    early, late = np.exp(rng.uniform(np.log([100, 450]), np.log([400, 1300])))
    return int(early), int(late)
