"""Families of random scenes: each a pure function of a seed, with a smooth hand-held camera path.

The demo's room (`demo`) belongs to none of them.
"""

from __future__ import annotations

from collections.abc import Callable

from genfusion_ns.errors import UserError
from genfusion_ns.synthetic.clutter import clutter
from genfusion_ns.synthetic.facades import facades
from genfusion_ns.synthetic.irregular import menger, point_cloud, tree
from genfusion_ns.synthetic.rooms import rooms
from genfusion_ns.synthetic.staging import Staged
from genfusion_ns.synthetic.tables import tables
from genfusion_ns.synthetic.terrains import terrains

_FAMILIES: dict[str, Callable[[int], Staged]] = {
    "rooms": rooms,
    "tables": tables,
    "facades": facades,
    "clutter": clutter,
    "terrains": terrains,
    "points": point_cloud,
    "menger": menger,
    "tree": tree,
}


def scene_names() -> list[str]:
    """Names of all families."""
    return list(_FAMILIES)


def make_family_scene(family: str, seed: int) -> Staged:
    """The scene and path of one seed >= 0.

    Raises:
        UserError: there is no such family, or the seed is negative.
    """
    if family not in _FAMILIES:
        raise UserError(f"There is no family {family!r}; expected one of {', '.join(_FAMILIES)}.")
    if seed < 0:
        raise UserError(f"Found seed {seed}; expected 0 or more.")
    return _FAMILIES[family](seed)
