"""How far a round is: a bar in a terminal, a line now and then in a log."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SILENCE = 10.0
"""Longest time without a line in a log, in seconds."""


class RoundProgress:
    """A context manager around the work of one round.

    Args:
        console: None shows nothing.
        title: such as "round 1".
    """

    def __init__(self, console: Console | None, title: str) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("eta"))
        shown = console is not None and console.is_terminal
        self._bar = Progress(*columns, TimeRemainingColumn(), console=console, disable=not shown, transient=True)
        self._task = self._bar.add_task(title, total=None)
        self._console, self._title, self._doing = console, title, "choosing views"
        self._done = threading.Event()
        self._speaker = None if console is None or shown else threading.Thread(target=self._speak, daemon=True)
        self._began = time.monotonic()

    def __enter__(self) -> RoundProgress:
        self._bar.start()
        self.tell(self._doing)
        if self._speaker is not None:
            self._say(self._doing)
            self._speaker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        if self._speaker is not None:
            self._speaker.join()
        self._bar.stop()

    def tell(self, doing: str, done: int = 0, total: int | None = None) -> None:
        """Say what is being done, and how many of how many parts of it are."""
        self._doing = doing if total is None else f"{doing} {min(done + 1, total)} of {total}"
        self._bar.update(self._task, description=f"{self._title}: {self._doing}", completed=done, total=total)

    def _speak(self) -> None:
        while not self._done.wait(SILENCE):
            self._say(f"{self._doing}, {time.monotonic() - self._began:.0f} s")

    def _say(self, text: str) -> None:
        if self._console is not None:
            self._console.print(f"{self._title}: {text}", highlight=False, markup=False, soft_wrap=True)
