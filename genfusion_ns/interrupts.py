"""SIGINT and SIGTERM as a request to stop, which is granted where nothing is left half done."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 1.0
"""Seconds within which further signals are taken for echoes of the first: some launchers send it twice."""


class Interrupted(SystemExit):
    """The process was asked to stop; its exit status is 128 + the signal's number, as shells expect."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)


class Interrupts:
    """Signals of this process: outside of `deferred` Python's own handlers act."""

    def __init__(self) -> None:
        self._signum = 0
        self._since = 0.0
        self._at_once = False
        self._wake: Callable[[], object] | None = None

    @contextmanager
    def deferred(self, wake: Callable[[], object] | None = None) -> Iterator[None]:
        """Within it a signal raises at the next `check`, and in `at_once`; another one later ends the process. Outside
        of the main thread, where Python sets no handlers, it does nothing.

        Args:
            wake: called when a signal has come, so that the main thread reaches a `check` soon.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._signum, self._wake = 0, wake
        before: dict[int, Any] = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            self._signum, self._wake = 0, None
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within it a signal raises `Interrupted` wherever the main thread is."""
        self.check()
        before, self._at_once = self._at_once, True
        try:
            yield
        finally:
            self._at_once = before

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come."""
        if self._signum:
            raise Interrupted(self._signum)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        del frame
        if self._signum:
            if time.monotonic() - self._since > PATIENCE:
                signal.signal(signum, signal.SIG_DFL)
                signal.raise_signal(signum)
            return
        self._signum, self._since = signum, time.monotonic()
        if self._at_once:
            raise Interrupted(signum)
        if self._wake is not None:
            self._wake()


INTERRUPTS = Interrupts()
"""The process's only one, since handlers belong to the process."""
