"""The pool that runs kernels over ranges."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genfusion_ns.raster.numba import threads
from genfusion_ns.raster.numba.threads import even_bounds, run_ranges


@given(count=st.integers(0, 50_000), n=st.integers(1, 9))
@settings(deadline=None, max_examples=50, derandomize=True)
def test_every_element_is_visited_once(count, n):
    seen = np.zeros(count, int)

    def task(first, last):
        seen[first:last] += 1

    run_ranges(task, even_bounds(count, n), n)
    assert (seen == 1).all()


def test_bounds_are_even_and_not_too_small():
    bounds = even_bounds(100_000, 2)
    assert len(bounds) == 9 and np.ptp(np.diff(bounds)) <= 1
    assert even_bounds(1500, 8) == [0, 1500]
    assert even_bounds(100_000, 1) == [0, 100_000]


def test_several_threads_take_part():
    names, meet = set(), threading.Barrier(2, timeout=20)

    def task(first, last):
        names.add(threading.get_ident())
        meet.wait()

    run_ranges(task, [0, 1, 2], 2)
    assert len(names) == 2


def test_one_thread_stays_at_home():
    names = set()
    run_ranges(lambda first, last: names.add(threading.get_ident()), [0, 1, 2, 3], 1)
    assert names == {threading.get_ident()}


@pytest.mark.parametrize("guilty", [0, 3])
def test_an_exception_comes_through_and_nothing_is_left_running(guilty):
    running = []

    def task(first, last):
        if first == guilty:
            raise ValueError("boom")
        running.append(first)

    with pytest.raises(ValueError, match="boom"):
        run_ranges(task, [0, 1, 2, 3, 4], 2)
    before = list(running)
    run_ranges(lambda first, last: None, [0, 1, 2], 2)
    assert running == before


def test_a_busy_pool_does_not_hold_anyone_up(monkeypatch):
    """All of the pool's threads are taken: the caller does the work alone."""
    release = threading.Event()
    pool = threads._shared_pool()
    blockers = [pool.submit(release.wait, 20) for _ in range(pool._max_workers)]
    try:
        seen = []
        run_ranges(lambda first, last: seen.append(first), [0, 1, 2, 3], 4)
        assert sorted(seen) == [0, 1, 2]
    finally:
        release.set()
    assert all(b.result() for b in blockers)


def test_a_forked_child_starts_its_own_pool():
    threads._shared_pool()
    threads._forget_pool()  # what the fork hook does in the child
    seen = []
    run_ranges(lambda first, last: seen.append(first), [0, 1, 2], 2)
    assert sorted(seen) == [0, 1]
