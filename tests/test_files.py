"""`files`: a reader never meets half a file, and files have the mode that the user's umask leaves."""

import os
import subprocess
import sys

import pytest

from genfusion_ns.errors import UserError
from genfusion_ns.files import locked, replacing, write_atomic, write_errors


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "a.bin"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_failure_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    write_atomic(path, b"one")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"two")
    assert path.read_bytes() == b"one"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_full_disk_becomes_one_message(tmp_path):
    words = r"writing to .* failed \(No space left on device\). Make room."
    with pytest.raises(UserError, match=words), write_errors(tmp_path, "Make room."):
        raise OSError(28, "No space left on device")
    with pytest.raises(ZeroDivisionError), write_errors(tmp_path, ""):
        _ = 1 / 0


def test_one_process_at_a_time(tmp_path):
    with locked(tmp_path, "Wait."):
        with pytest.raises(UserError, match=r"another process works in .*\. Wait\."), locked(tmp_path, "Wait."):
            pytest.fail("two hold it")
        with pytest.raises(OSError, match="other"):  # errors of the work itself pass through
            (tmp_path / "sub").mkdir()
            with locked(tmp_path / "sub", ""):
                raise OSError(5, "other")
    with locked(tmp_path, "Wait."):  # let go
        pass


def test_a_process_that_dies_lets_go(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from genfusion_ns.files import locked\n"
        "with locked(Path(sys.argv[1]), ''):\n    os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 9
    with locked(tmp_path, ""):
        pass


def test_a_writer_that_fails_half_way_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        assert temporary.suffix == ".txt" and temporary.parent == tmp_path and temporary.name[0] == "."
        temporary.write_text("ha")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="no umask")
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_the_mode_follows_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "a.bin", b"one")
    finally:
        os.umask(before)
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o666 & ~umask
