"""Writing files so that a reader never meets half of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the name of a temporary file to write; on success it takes the place of `path`, on failure it is deleted.
    The folder is made if it isn't there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # beside the target, and with its ending, which writers go by
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
