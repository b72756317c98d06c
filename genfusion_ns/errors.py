"""The one exception for mistakes that a user can mend."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from rich.console import Console
from rich.markup import escape

from genfusion_ns import quiet

P = ParamSpec("P")
R = TypeVar("R")


class UserError(ValueError):
    """Bad input. The text says what was found, what was expected, and what to do next."""


def exits_cleanly(command: Callable[P, R]) -> Callable[P, R]:
    """Wrap a command line's entry point: a `UserError` is printed as one message on stderr and exits with status 2;
    other packages' warnings that nobody can act on are silenced."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        quiet.third_parties()
        try:
            return command(*args, **kwargs)
        except UserError as error:
            Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
            sys.exit(2)

    return wrapped
