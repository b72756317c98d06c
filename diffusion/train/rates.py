"""Schedules of a training run: pure functions."""

from __future__ import annotations

import math


def learning_rate(step: int, total: int, peak: float, warmup: int, schedule: str, floor: float = 0.05) -> float:
    """Rises linearly to `peak` over `warmup` steps, then falls as half a cosine to `floor` * peak at the last step, or
    stays ("constant"). `step` counts from 0."""
    rise = min(1.0, (step + 1) / max(warmup, 1))
    if schedule == "constant":
        return peak * rise
    along = min(1.0, max(0.0, (step - warmup) / max(1, total - 1 - warmup)))
    return peak * rise * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * along)))


def ema_decay(step: int, decay: float) -> float:
    """Decay of the weights' average after update number `step` (from 0): small first, so that it forgets the start."""
    return min(decay, (1 + step) / (10 + step))
