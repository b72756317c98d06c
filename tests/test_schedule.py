"""`schedule`: the official presets' tables, and our rule where we differ."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genfusion_ns import schedule

SPARSE = {"start": 1000, "every": 1000, "until": 7000, "max_iterations": 7000}
MASKED = {"start": 3000, "every": 1000, "until": 7000, "max_iterations": 7000}
COMPLETION = {"start": 5000, "every": 4000, "until": 30000, "max_iterations": 26000}


@pytest.mark.parametrize(
    ("preset", "rounds"),
    [
        (SPARSE, [1000, 2000, 3000, 4000, 5000, 6000]),
        (MASKED, [3000, 4000, 5000, 6000]),
        (COMPLETION, [5000, 9000, 13000, 17000, 21000, 25000]),
    ],
)
def test_rounds_of_the_official_presets(preset, rounds):
    assert schedule.round_steps(**preset) == rounds
    assert [k for k in range(preset["max_iterations"] + 1) if schedule.is_round_due(k, **preset)] == rounds


@given(st.integers(-5, 60), st.integers(-1, 9), st.integers(0, 70), st.integers(1, 80))
def test_round_due_is_membership(start, every, until, max_iterations):
    due = [k for k in range(100) if schedule.is_round_due(k, start, every, until, max_iterations)]
    assert due == schedule.round_steps(start, every, until, max_iterations)


@pytest.mark.parametrize(
    ("k", "expected"),
    [(1500, 0.26), (2000, 0.5), (3000, 0.87), (4000, 1.0), (5000, 0.87), (6000, 0.5), (6500, 0.26), (7000, 0.0)],
)
def test_generated_weight_of_the_sparse_preset(k, expected):
    assert schedule.generated_weight(k, 1000, 7000, 1.0) == pytest.approx(expected, abs=0.005)


def test_mean_generated_weight_of_the_sparse_preset():
    weights = [schedule.generated_weight(k, 1000, 7000, 1.0) for k in range(1000, 7001)]
    assert sum(weights) / len(weights) == pytest.approx(2 / math.pi, abs=1e-3)


@given(st.integers(0, 1000), st.integers(1, 1000), st.floats(0.01, 10))
def test_generated_weight_is_an_arch(start, length, peak):
    until = start + length
    assert schedule.generated_weight(start, start, until, peak) == 0
    assert schedule.generated_weight(until, start, until, peak) == 0
    assert schedule.generated_weight(until + 5, start, until, peak) == 0
    assert schedule.generated_weight(start + length / 2, start, until, peak) == pytest.approx(peak)
    quarter = schedule.generated_weight(start + length / 4, start, until, peak)
    assert quarter == pytest.approx(schedule.generated_weight(until - length / 4, start, until, peak))
    assert quarter == pytest.approx(peak * math.sqrt(0.5))


def test_sh_degree():
    assert [schedule.sh_degree(k, 3) for k in (0, 999, 1000, 1999, 2000, 2999, 3000, 9000)] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert schedule.sh_degree(0, 3, interval=0) == 3
    assert schedule.sh_degree(-1, 3) == 0


@pytest.mark.parametrize(
    ("k", "rate"), [(0, 1.6e-4), (1000, 1.372e-4), (3000, 1.010e-4), (7000, 5.463e-5), (30000, 1.6e-6), (40000, 1.6e-6)]
)
def test_learning_rate_of_means(k, rate):
    assert schedule.log_linear(k, 1.6e-4, 1.6e-6, 30000) == pytest.approx(rate, rel=1e-3)


def test_short_runs_take_larger_steps_and_long_ones_the_recipes():
    assert schedule.rate_factor(7000, 7000) == schedule.rate_factor(30_000, 7000) == 1.0
    assert schedule.rate_factor(1750, 7000) == 2.0
    assert schedule.rate_factor(1, 7000) == schedule.rate_factor(10, 7000) == schedule.MOST_RATE_FACTOR


def test_densify_events_of_the_sparse_preset():
    events = [k for k in range(7001) if schedule.is_densify_due(k, 100, 5000, 500)]
    assert events == list(range(500, 4501, 500))
    assert [k for k in range(7001) if schedule.is_opacity_reset_due(k, 3100, 5000)] == [3100]


def test_no_densify_event_at_the_stop():
    # the official masked run densifies at its very last step and saves splats that were never optimised
    assert schedule.is_densify_due(6900, 1000, 7000, 100)
    assert not schedule.is_densify_due(7000, 1000, 7000, 100)
    assert not schedule.is_densify_due(1000, 1000, 7000, 100)


def test_resets_can_be_switched_off():
    assert not any(schedule.is_opacity_reset_due(k, 0, 100) for k in range(200))
    assert not schedule.is_opacity_reset_due(0, 10, 100)


@pytest.mark.parametrize(("k", "count"), [(1100, 61), (2000, 70), (5000, 100), (7000, 100)])
def test_min_visible_count(k, count):
    assert schedule.min_visible_count(k) == count


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_scaled_is_exact_for_the_reference_and_never_loses_a_step(steps, reference):
    assert schedule.scaled(steps, reference, reference) == steps
    assert (schedule.scaled(steps, 1, reference) == 0) == (steps == 0)


def test_scaled_by_hand():
    assert schedule.scaled(1000, 700, 7000) == 100
    assert schedule.scaled(15000, 60000, 30000) == 30000
