"""The one exception for mistakes that a user can mend, and the wrapper that command lines need for it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from rich.console import Console
from rich.markup import escape

P = ParamSpec("P")
R = TypeVar("R")


class UserError(ValueError):
    """Bad input. The text says what was found, what was expected, and what to do next."""


def first_line(error: Exception) -> str:
    """The first line of what an exception says, without a full stop; its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def exits_cleanly(command: Callable[P, R]) -> Callable[P, R]:
    """Wrap an entry point: a `UserError` becomes one message on stderr and exit status 2."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except UserError as error:
            console = Console(stderr=True)
            console.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
            sys.exit(2)

    return wrapped
