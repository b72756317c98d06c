"""The make-believe GPU for tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from simulated_cuda import Ledger, simulated_cuda


@pytest.fixture
def cuda() -> Iterator[Ledger]:
    """A make-believe CUDA device, and its ledger."""
    with simulated_cuda() as ledger:
        yield ledger
