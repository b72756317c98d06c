"""pycolmap is imported at first use, and leaves SIGTERM to who had it."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import signal, sys
signal.signal(signal.SIGTERM, lambda number, frame: print("ours"))
{imports}
print(type(pycolmap.Camera()).__name__)
signal.raise_signal(signal.SIGTERM)
"""


def run(imports: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which may die of the signal."""
    return subprocess.run([sys.executable, "-c", PROGRAM.format(imports=imports)], capture_output=True, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
def test_its_handler_of_sigterm_does_not_stay():
    lazy = "from genfusion_ns.data.lazy_pycolmap import pycolmap\nassert 'pycolmap' not in sys.modules"
    done = run(lazy)
    assert (done.returncode, done.stdout.split()) == (0, ["Camera", "ours"]), done.stderr


def test_without_it_the_handler_stays():
    """The fault is there: what this module mends."""
    done = run("import pycolmap")
    assert done.returncode != 0 and "SIGTERM" in done.stderr
