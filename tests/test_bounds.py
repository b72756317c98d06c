"""`bounds`: one check of all numbers that a user can set."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from genfusion_ns.bounds import COUNT, POSITIVE, SHARE, Bound, Bounds, check_bounds
from genfusion_ns.errors import UserError


@dataclass
class Inner:
    share: float = 0.5
    size: tuple[int, int] | None = None

    BOUNDS: ClassVar[Bounds] = {"share": SHARE, "size": COUNT}


@dataclass
class Outer:
    every: int | None = None
    inner: Inner = field(default_factory=Inner)
    groups: dict = field(default_factory=dict)

    BOUNDS: ClassVar[Bounds] = {"every": Bound(0), "inner.share": Bound(0.25, 1)}


@pytest.mark.parametrize(
    ("bound", "inside", "outside"),
    [
        (Bound(0), (0, 1e9), (-1, -1e-9, math.nan, math.inf)),
        (POSITIVE, (1e-30, 5), (0, -0.0, math.nan, math.inf)),
        (SHARE, (0, 0.5, 1), (-1e-9, 1.0001, math.nan)),
        (Bound(0, math.inf), (0, math.inf), (-1, math.nan)),
        (Bound(-math.inf), (-1e300, 1e300), (math.nan, math.inf, -math.inf)),
    ],
)
def test_nan_and_infinity_lie_in_no_interval_that_does_not_name_them(bound, inside, outside):
    assert [value for value in inside if not bound.holds(value)] == []
    assert [value for value in outside if bound.holds(value)] == []


def test_all_offenders_are_named_at_once_with_their_whole_path():
    config = Outer(every=-1, inner=Inner(share=0.1), groups={"means": {"optimizer": Inner(size=(64, 0))}})
    with pytest.raises(UserError) as caught:
        check_bounds(config, "--")
    assert str(caught.value).splitlines() == [
        "--every is -1; expected at least 0.",
        "--inner.share is 0.1; expected 0.25 to 1.",
        "--groups.means.optimizer.size is 64 x 0; expected at least 1.",
    ]


def test_what_is_unset_or_fits_passes():
    check_bounds(Outer(inner=Inner(share=0.25, size=(1, 1))))
