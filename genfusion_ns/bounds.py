"""Which numbers a setting may be: each configuration class has a table `BOUNDS` below its fields, and one function
checks a configuration with all that it holds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from genfusion_ns.errors import UserError


@dataclass(frozen=True)
class Bound:
    """An interval of numbers; NaN lies in none, infinity only where `most` says so."""

    least: float
    """Smallest value."""
    most: float | None = None
    """Largest value; None = any finite one."""
    above: bool = False
    """Whether `least` itself is excluded."""

    def holds(self, value: float) -> bool:
        """Whether `value` lies in the interval."""
        if self.most is None and not math.isfinite(value):
            return False
        low = value > self.least if self.above else value >= self.least
        return low and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        if self.above:
            return f"above {self.least}" + ("" if self.most is None else f" and at most {self.most}")
        return f"at least {self.least}" if self.most is None else f"{self.least} to {self.most}"


Bounds = dict[str, Bound]
"""By field; a dotted name is a field of another package's class, which has no table of its own."""

SHARE = Bound(0, 1)
POSITIVE = Bound(0, above=True)
ANY = Bound(-math.inf)
COUNT = Bound(1)
NATURAL = Bound(0)


def check_bounds(config: Any, where: str = "") -> None:
    """Look for numbers in `config`, a dataclass, or in the configurations that it holds, which can't work.

    Args:
        where: what stands before the fields' names in messages, such as "loop.".

    Raises:
        UserError: every offender: the setting, what it is, and what it may be.
    """
    faults = list(_faults(config, where))
    if faults:
        raise UserError("\n".join(faults))


def _faults(config: Any, where: str) -> Iterator[str]:
    for name, bound in getattr(config, "BOUNDS", {}).items():
        value = config
        for part in name.split("."):
            value = getattr(value, part)
        numbers = value if isinstance(value, tuple | list) else (value,)
        if any(number is not None and not bound.holds(number) for number in numbers):
            found = " x ".join(map(str, numbers))
            yield f"{where}{name.replace('_', '-')} is {found}; expected {bound}."
    for field in dataclasses.fields(config):
        yield from _inner_faults(getattr(config, field.name), f"{where}{field.name.replace('_', '-')}.")


def _inner_faults(value: Any, where: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _inner_faults(inner, f"{where}{name}.")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from _faults(value, where)
