"""Variants asked for by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from genfusion_ns.errors import UserError
from genfusion_ns.training_data.make import Recipe
from genfusion_ns.training_data.plan import plan_units
from genfusion_ns.training_data.variants import named_variant


def test_names_say_what_is_known():
    assert named_variant("sparse3", 0).training_frames(9) == [0, 4, 8]
    assert named_variant("corner", 1).masks(4, 32, 16).mean() == pytest.approx(0.25, abs=0.02)
    assert named_variant("window10", 1).masks(4, 40, 30).mean() == pytest.approx(0.10, abs=0.02)


@pytest.mark.parametrize("name", ["sparse", "corner3", "holes", "window0", "sparse101", ""])
def test_other_names_are_told(name):
    with pytest.raises(UserError, match="sparse3|from 1 to 100"):
        named_variant(name, 0)


def test_a_plan_of_captures_alone_does_not_depend_on_where_they_lie():
    plans = [
        plan_units(Recipe(split="val"), 3, 2, [Path(place) / "fox"], named=["corner", "sparse3"], only_captures=True)
        for place in ("/a", "/b/c")
    ]
    assert [unit.name for unit in plans[0]] == [unit.name for unit in plans[1]]
    assert [unit.variant for unit in plans[0]] == [unit.variant for unit in plans[1]]
    assert [unit.steps for unit in plans[0]] == [unit.steps for unit in plans[1]]
    assert all(unit.family == "capture" for unit in plans[0]) and len(plans[0]) == 6
