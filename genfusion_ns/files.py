"""Writing files so that a reader, or a run resumed after a kill, never meets half of one."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genfusion_ns.errors import UserError


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` by way of a temporary file beside it; `path` holds the old or the new content, whole."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def write_errors(folder: Path, advice: str) -> Iterator[None]:
    """Turn a full disk, or a folder that can't be written to, into a `UserError` that ends in `advice`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"writing to {folder} failed ({error.strerror or error}). {advice}") from error


@contextmanager
def locked(folder: Path, advice: str) -> Iterator[None]:
    """Hold an existing folder against other processes that call this too; a process that dies lets go.

    Raises:
        UserError: another one holds it; the message ends in `advice`.
    """
    try:
        import fcntl
    except ImportError:  # Windows has other locks, and two runs there stay the user's care
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        raise UserError(f"another process works in {folder}. {advice}") from error
    finally:
        os.close(descriptor)
