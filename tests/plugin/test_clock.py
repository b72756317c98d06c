"""Time to the end of a run: steps and rounds count apart."""

from __future__ import annotations

import pytest

from genfusion_ns.plugin.clock import Clock, duration


def test_a_round_within_a_step_is_no_part_of_the_step():
    clock = Clock()
    assert clock.remaining(10, 4) == 0.0  # nothing is known yet
    assert clock.add_step(0.5) == 0.5
    clock.add_round(60.0)
    assert clock.add_step(60.7) == pytest.approx(0.7)
    assert clock.remaining(10, 4) == pytest.approx(10 * 0.6 + 4 * 60.0)
    clock.add_round(20.0)
    clock.add_step(20.1)
    assert clock.remaining(0, 1) == pytest.approx(40.0)
    assert clock.add_step(0.1) == pytest.approx(0.1)  # the next step has no round


def test_the_steps_of_long_ago_do_not_count():
    clock = Clock()
    for seconds in (9.0, *[1.0, 3.0] * 25):
        clock.add_step(seconds)
    assert clock.remaining(1, 0) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59.2, "59 s"), (59.9, "1.0 min"), (200, "3.3 min"), (7200, "2.0 h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
