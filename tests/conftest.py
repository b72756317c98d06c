"""What several folders of tests share."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path

import pytest


def frames_without_source(context: int = 1) -> list[inspect.FrameInfo]:
    """What `inspect.stack` returns, less the source lines. Nerfstudio asks 26 times who imports it; to find the source
    of every frame of pytest took half of the time that collecting the tests did."""
    frame, found = sys._getframe(1), []
    while frame is not None:
        code = frame.f_code
        found.append(inspect.FrameInfo(frame, code.co_filename, frame.f_lineno, code.co_name, None, None))
        frame = frame.f_back
    return found


inspect.stack = frames_without_source


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the repository; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("GENFUSION_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no reference data at {folder} (set GENFUSION_SHARED)")
    return folder
