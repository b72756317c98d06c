"""How long the rest of a run takes, rounds included."""

from __future__ import annotations

from collections import deque


class Clock:
    """What the last 50 steps and the rounds took."""

    def __init__(self) -> None:
        self._steps: deque[float] = deque(maxlen=50)
        self._rounds: list[float] = []
        self._within_step = 0.0

    def add_round(self, seconds: float) -> None:
        """A round was run, within the step that is under way."""
        self._rounds.append(seconds)
        self._within_step += seconds

    def add_step(self, seconds: float) -> float:
        """A step ended after so many seconds, its rounds included; returns what it took without them."""
        own = max(0.0, seconds - self._within_step)
        self._within_step = 0.0
        self._steps.append(own)
        return own

    def remaining(self, steps: int, rounds: int) -> float:
        """Seconds for so many steps and rounds; rounds count nothing before the first was measured."""
        return steps * _mean(self._steps) + rounds * _mean(self._rounds)


def duration(seconds: float) -> str:
    """Such as "40 s", "3.2 min", "1.5 h"."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 59.95 else f"{minutes / 60:.1f} h"


def _mean(values: deque[float] | list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
