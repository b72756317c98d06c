"""Writing files so that a reader, or a run resumed after a kill, never meets half of one."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from genfusion_ns.errors import UserError

LEFTOVERS = ".*.tmp*"
"""Glob pattern of the temporary files that a killed process leaves behind."""


@contextmanager
def replacing(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """Yield the name of a temporary file to write; on success it is flushed and takes the place of `path`, which holds
    the old or the new content, whole. On failure it is deleted.

    The name has the ending of `path`, by which writers choose their format; the file's mode follows the umask.

    Args:
        folder: where the temporary file lies, on the same file system; by default beside `path`.
    """
    name = f".{path.stem}.{os.getpid()}-{secrets.token_hex(4)}.tmp{path.suffix}"
    temporary = (folder or path.parent) / name
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path`, which holds the old or the new content, whole (`replacing`)."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def check_output(output: Path, endings: Sequence[str] = ()) -> None:
    """See that a command can write the file that `--output` names, with any ending unless `endings` says which. Raises
    UserError: it has none of the endings, or its folder does not exist."""
    if endings and output.suffix not in endings:
        raise UserError(
            f"--output is {output}; expected a name that ends in {', '.join(endings[:-1])} or {endings[-1]}."
        )
    if not output.parent.is_dir():
        raise UserError(f"the folder {output.parent} does not exist; create it, or choose another --output.")


@contextmanager
def write_errors(folder: Path, advice: str) -> Iterator[None]:
    """Turn a full disk, or a folder that can't be written to, into a `UserError` that ends in `advice`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"writing to {folder} failed ({error.strerror or error}). {advice}") from error


@contextmanager
def locked(folder: Path, advice: str) -> Iterator[None]:
    """Hold an existing folder against other processes that call this too; a process that dies lets go. Raises
    UserError: another one holds it; the message ends in `advice`."""
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
