"""`diffusion.train.rates`."""

from __future__ import annotations

import pytest

from diffusion.train.rates import ema_decay, learning_rate


def test_learning_rate_rises_and_falls() -> None:
    rates = [learning_rate(k, 1000, 2.0) for k in range(1000)]
    assert rates[0] == pytest.approx(0.01) and rates[199] == pytest.approx(2.0) and rates[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(rates[200:], rates[201:], strict=False))


def test_average_forgets_the_start_first() -> None:
    assert ema_decay(0, 0.999) == pytest.approx(0.1)
    assert ema_decay(10**6, 0.999) == 0.999
