"""All that the loop remembers between steps."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from genfusion_ns.loop.pool import GeneratedViews


@dataclass(frozen=True)
class RoundReport:
    """What one round did."""

    round: int
    """Number of the round, from 0."""
    step: int
    """Finished training steps at that time."""
    clips: int
    """Clips rendered and repaired."""
    admitted: int
    """Frames that entered the pool."""
    evicted: int
    """Frames that left it because it was full."""
    pool: int
    """Frames in the pool afterwards."""
    coverage: float
    """Mean alpha of the renders: 1 = the splats cover every novel view."""
    change: float
    """Mean absolute difference of repaired and rendered colour."""
    seconds: float
    """Wall-clock time."""
    agreement: float = 1.0
    """Mean agreement of the repaired frames with the captured views."""
    refused: int = 0
    """Frames that did not enter, since an older one of the same view agreed better with the captured views."""
    replaced: int = 0
    """Older frames that left for a new one of the same view."""
    added: int = 0
    """Splats that were added where the repaired frames show surfaces that were missing."""


@dataclass
class LoopState:
    """Rounds done and views generated; `state_dict` holds tensors and plain scalars only."""

    pool: GeneratedViews
    """Generated views in use."""
    reports: list[RoundReport] = field(default_factory=list)
    """One per finished round."""

    @property
    def round(self) -> int:
        """Number of the next round."""
        return len(self.reports)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; loads under torch.load(weights_only=True)."""
        return {"pool": self.pool.state_dict(), "reports": [asdict(report) for report in self.reports]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.pool.load_state_dict(state["pool"])
        self.reports = [RoundReport(**report) for report in state["reports"]]
