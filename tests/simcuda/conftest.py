"""The make-believe GPU for tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import simulated_gsplat
from simulated_cuda import Ledger, simulated_cuda
from simulated_runs import make_scene

os.environ.setdefault("COLUMNS", "200")  # rich would wrap paths in captured logs


@pytest.fixture
def cuda() -> Iterator[Ledger]:
    """A make-believe CUDA device, and its ledger."""
    with simulated_cuda() as ledger:
        yield ledger


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen photos of 48 x 30 pixels."""
    return make_scene(tmp_path_factory.mktemp("scenes") / "room")


@pytest.fixture
def gpu(cuda: Ledger, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A make-believe CUDA device with gsplat."""
    simulated_gsplat.install(monkeypatch)
    return cuda


@pytest.fixture(autouse=True)
def _restore_excepthook() -> Iterator[None]:
    """Importing the plugin installs a hook; other tests must not inherit it."""
    before = sys.excepthook
    yield
    sys.excepthook = before


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The make-believe device is for changes to the CUDA path: not in the inner loop."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.slow)
