"""All that the loop remembers between steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from genfusion_ns.loop.view_buffer import Admission, GeneratedFrame, GeneratedViews


@dataclass(frozen=True)
class RoundReport:
    """What one round did."""

    round: int
    """Number of the round, from 0."""
    step: int
    """The step that the round was scheduled for (it comes just before that step's growth), or asked for after."""
    clips: int
    """Clips rendered and repaired, refused ones among them."""
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
    """Frames that did not enter: they weighed next to nothing, or an older one of the same view agreed better with the
    captured views."""
    replaced: int = 0
    """Older frames that left for a new one of the same view."""
    added: int = 0
    """Splats that were added where the repaired frames show surfaces that were missing."""
    clips_refused: int = 0
    """Clips that contradicted the photos too much for any of their frames to enter (`agreement.contradiction`)."""
    clips_unjudged: int = 0
    """Clips of which photos show next to nothing, so that they were taken on trust, at half weight."""
    before: dict[str, float] | None = None
    """`gate.Evidence` when the round ended; None where there is nothing to judge."""
    after: dict[str, float] | None = None
    """The same after its frames have taught, when the next round begins or the loop ends; None until then."""
    outcome: str = "open"
    """'accepted', 'refused' (all of its clips), 'empty' (no frame entered), 'lowered' (its frames lost weight) or
    'rolled back'; 'open' while it is not judged yet."""


@dataclass
class LoopState:
    """Rounds done and views generated; `state_dict` holds tensors and plain scalars only."""

    pool: GeneratedViews
    """Generated views in use."""
    reports: list[RoundReport] = field(default_factory=list)
    """One per finished round."""
    retired: list[GeneratedFrame] = field(default_factory=list)
    """Frames that the last round pushed out of the pool; they come back if it is rolled back."""
    unfinished: bool = False
    """Whether the round after the last step was cut off; the resumed run has to make up for it."""

    @property
    def round(self) -> int:
        """Number of the next round."""
        return len(self.reports)

    def admit(self, frames: Sequence[GeneratedFrame], unit: float) -> Admission:
        """Take the frames of a new round into the pool (`GeneratedViews.admit`)."""
        before = list(self.pool.frames)
        admission = self.pool.admit(frames, unit)
        left = {frame.id for frame in before} - {frame.id for frame in self.pool.frames}
        self.retired = [frame for frame in before if frame.id in left]
        return admission

    def settle(self, outcome: str, after: dict[str, float], factor: float) -> None:
        """Note what became of the last round, and multiply its frames' weights by `factor`; 0 also brings back what it
        had pushed out."""
        last = self.reports[-1]
        self.reports[-1] = replace(last, after=after, outcome=outcome)
        self.pool.reweigh(last.round, factor)
        if factor == 0:
            frames = sorted([*self.pool.frames, *self.retired], key=lambda frame: frame.id)
            self.pool.frames = frames[: self.pool.capacity]
        self.retired = []

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; loads under torch.load(weights_only=True)."""
        return {
            "pool": self.pool.state_dict(),
            "reports": [asdict(report) for report in self.reports],
            "retired": [frame.state_dict() for frame in self.retired],
            "unfinished": self.unfinished,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.pool.load_state_dict(state["pool"])
        known = {field.name for field in fields(RoundReport)}
        self.reports = [RoundReport(**{k: v for k, v in report.items() if k in known}) for report in state["reports"]]
        self.retired = [GeneratedFrame.from_state_dict(frame) for frame in state["retired"]]
        self.unfinished = state.get("unfinished", False)
