"""Schedules of a training run: pure functions."""

from __future__ import annotations

import math

WARMUP = 200
"""Steps over which the learning rate rises."""
FLOOR = 0.05
"""Share of the peak that is left at the last step."""


def learning_rate(step: int, total: int, peak: float) -> float:
    """Rises linearly to `peak` over `WARMUP` steps, then falls as half a cosine to `FLOOR` * peak at the last step.
    `step` counts from 0."""
    rise = min(1.0, (step + 1) / WARMUP)
    along = min(1.0, max(0.0, (step - WARMUP) / max(1, total - 1 - WARMUP)))
    return peak * rise * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * along)))


def ema_decay(step: int, decay: float) -> float:
    """Decay of the weights' average after update number `step` (from 0): small first, so that it forgets the start."""
    return min(decay, (1 + step) / (10 + step))
