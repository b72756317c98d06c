"""Run a kernel over ranges on a pool of threads.

numba's own `prange` is not used: its OpenMP layer spins for milliseconds after every region when cores are shared, and
its workqueue layer aborts the process when two Python threads render at once, as a viewer and a trainer do.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

_pool: ThreadPoolExecutor | None = None


def _shared_pool() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="raster")
    return _pool


def _forget_pool() -> None:
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    # A forked child has the pool, but none of its threads.
    os.register_at_fork(after_in_child=_forget_pool)


def run_ranges(task: Callable[[int, int], None], bounds: Sequence[int], threads: int) -> None:
    """Call `task(first, last)` for each two neighbours of `bounds`, on this thread and up to `threads` - 1 others.

    The ranges must write to different places; then the result does not depend on the number of threads. Returns when
    all are done; the first exception of a task is raised here.
    """
    pending = deque(pairwise(bounds))

    def drain() -> None:
        while True:
            try:
                first, last = pending.popleft()
            except IndexError:
                return
            task(first, last)

    helpers = [_shared_pool().submit(drain) for _ in range(min(threads, len(pending)) - 1)]
    try:
        drain()
    finally:
        pending.clear()
        # A helper that found no free thread is not waited for: there is nothing left to do for it.
        errors = [helper.exception() for helper in helpers if not helper.cancel()]
    for error in errors:
        if error is not None:
            raise error


def even_bounds(count: int, threads: int, smallest: int = 1024) -> list[int]:
    """Bounds of about equal ranges over [0, count), a few per thread, none much smaller than `smallest`."""
    chunks = max(1, min(count // smallest, 1 if threads == 1 else 4 * threads))
    return [count * i // chunks for i in range(chunks + 1)]
