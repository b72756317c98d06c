"""What is due when: pure functions of k, the number of finished training steps (the first step ends at k = 1)."""

from __future__ import annotations

import math

MOST_RATE_FACTOR = 4.0
"""Learning rates are never higher than this many times the recipe's: in 700 steps 3.2 times helped all of four scenes,
5 times cost llff_fern with 3 photos 0.4 dB."""


def scaled(steps: int, max_iterations: int, reference_iterations: int) -> int:
    """`steps` of a recipe written for `reference_iterations`, stretched to a run of `max_iterations`; 0 stays 0."""
    return 0 if steps == 0 else max(1, round(steps * max_iterations / reference_iterations))


def sh_degree(k: int, max_degree: int, interval: int = 1000) -> int:
    """Active degree of the spherical harmonics: 0 at first, one more every `interval` steps (3DGS: 1000)."""
    return max_degree if interval <= 0 else min(max_degree, max(k, 0) // interval)


def generated_weight(k: float, start: int, until: int, peak: float) -> float:
    """lambda(k) = peak * sin(pi (k - start) / (until - start)) between `start` and `until`, else 0 (GenFusion)."""
    if not start < k < until:
        return 0.0
    return peak * math.sin(math.pi * (k - start) / (until - start))


def round_steps(start: int, every: int, until: int, max_iterations: int) -> list[int]:
    """The k at which a round of generation runs: start, start + every, ... below both `until`, where lambda is 0 again,
    and the run's end."""
    if every < 1:
        return []
    return list(range(max(start, 1), min(until, max_iterations), every))


def is_round_due(k: int, start: int, every: int, until: int, max_iterations: int) -> bool:
    """Whether k is one of `round_steps`, in constant time."""
    first = max(start, 1)
    return every >= 1 and first <= k < min(until, max_iterations) and (k - first) % every == 0


def log_linear(k: float, initial: float, final: float, max_steps: int) -> float:
    """Geometric interpolation from `initial` (k <= 0) to `final` (k >= max_steps): the means' learning rate."""
    share = min(max(k / max_steps, 0.0), 1.0)
    return initial * (final / initial) ** share


def rate_factor(max_iterations: int, reference_iterations: int) -> float:
    """What learning rates of a recipe for `reference_iterations` are multiplied by in a shorter run: the square root of
    the ratio, at most `MOST_RATE_FACTOR`; 1 in a longer one. With the long one's rates a short run ends before its
    splats have arrived."""
    return min(max(1.0, math.sqrt(reference_iterations / max_iterations)), MOST_RATE_FACTOR)


def is_densify_due(k: int, start: int, stop: int, every: int) -> bool:
    """Whether Gaussians are cloned, split and pruned after step k: start < k < stop, k a multiple of `every`."""
    return every >= 1 and start < k < stop and k % every == 0


def is_opacity_reset_due(k: int, every: int, stop: int) -> bool:
    """Whether opacities are pulled down after step k: multiples of `every` below `stop`; every = 0 is never."""
    return every >= 1 and 0 < k < stop and k % every == 0


def min_visible_count(k: int, base: int = 50, every: int = 100, cap: int = 100) -> int:
    """T(k) = min(cap, base + floor(k / every)): how often a splat must be seen before the sparsity-aware densifier
    trusts its gradient (GenFusion's numbers)."""
    return min(cap, base + k // every)
