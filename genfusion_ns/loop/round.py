"""One round of the loop: choose views, render them, have them repaired, refine and admit them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from genfusion_ns.cameras import Camera
from genfusion_ns.gaussians.keeper import SplatKeeper
from genfusion_ns.geometry import nearest_view
from genfusion_ns.interrupts import INTERRUPTS
from genfusion_ns.loop.backproject import Points, expand, missing_points
from genfusion_ns.loop.captured import NEIGHBOURS, CapturedViews, SeenViews
from genfusion_ns.loop.config import LoopConfig
from genfusion_ns.loop.plan import Clip, plan_round
from genfusion_ns.loop.progress import RoundProgress
from genfusion_ns.loop.repairers.base import HoldsDevice, RepairedClip, Repairer, RGBDClip
from genfusion_ns.loop.safety import Prober
from genfusion_ns.loop.state import LoopState, RoundReport
from genfusion_ns.loop.supervision.gate import gather, judge_last_round, trust
from genfusion_ns.loop.supervision.refine import RefinedClip, RefinedFrame, refine_clip, with_photos
from genfusion_ns.loop.view_buffer import GeneratedFrame, Provenance
from genfusion_ns.raster.api import Render
from genfusion_ns.seeding import seed_of

__all__ = ["CapturedViews", "run_round"]

log = logging.getLogger(__name__)


def run_round(
    render: Callable[[Camera], Render],
    captured: CapturedViews,
    state: LoopState,
    config: LoopConfig,
    repairer: Repairer,
    k: int,
    seed: int,
    console: Console | None = None,
    splats: SplatKeeper | None = None,
    held: CapturedViews | None = None,
    watch: Callable[[RGBDClip, Sequence[RefinedFrame]], None] | None = None,
) -> RoundReport:
    """Run one round after step k and note it in `state`; judge the round before first.

    Clips that contradict the photos are refused before they can teach.

    Args:
        render: draws the splats over black; it is called without gradients.
        console: where the progress goes; None shows none.
        splats: who takes new splats, and goes back to the old ones where a round was bad; None: neither happens.
        held: photos that do not train, to judge rounds by; without any, those that train do.
        watch: shown each clip's renders and what became of them.
    """
    began = time.monotonic()
    spared = held is not None and len(held.cameras) > 0
    judging = held if spared else captured
    assert judging is not None
    judge_last_round(render, judging, spared, state, config, splats)
    if splats is not None:
        splats.keep()
    work = _Round(
        render, captured, SeenViews(render, captured, config.max_side), config, repairer, k, seed, state.round, watch
    )
    try:
        with torch.no_grad():
            progress = RoundProgress(console, f"round {state.round + 1}")
            with INTERRUPTS.at_once(), progress:  # nothing of the run changes here
                clips = work.plan()
                frames = list(work.frames(clips, progress))
    finally:
        if isinstance(repairer, HoldsDevice):
            repairer.release()
    standing = trust([report.outcome for report in state.reports])
    weighed = [replace(frame, weight=frame.weight * standing) for frame in frames]
    admission = state.admit(weighed, work.seen.unit)
    before = None
    if admission.entered:
        before = asdict(gather(render, judging, state.pool.of_round(state.round)))
    added = 0
    if splats is not None and admission.entered:  # no frame would teach what else is added
        with torch.no_grad():
            added = expand(work.points, work.seen.unit, config.expand, splats, seed_of(seed, "expand", state.round))
    outcome = "open" if admission.entered else "refused" if clips and work.refused == len(clips) else "empty"
    report = RoundReport(
        round=state.round,
        step=k,
        admitted=admission.entered,
        evicted=admission.evicted,
        pool=len(state.pool),
        seconds=time.monotonic() - began,
        agreement=_mean([frame.agreement for frame in frames]),
        refused=admission.refused,
        replaced=admission.replaced,
        added=added,
        before=before,
        outcome=outcome,
        **work.figures(),
    )
    state.reports.append(report)
    return report


@dataclass
class _Round:
    """What stays fixed over the clips of a round, and what they add up to."""

    render: Callable[[Camera], Render]
    captured: CapturedViews
    seen: SeenViews
    config: LoopConfig
    repairer: Repairer
    k: int
    seed: int
    number: int
    watch: Callable[[RGBDClip, Sequence[RefinedFrame]], None] | None = None

    def __post_init__(self) -> None:
        self.device = self.captured.cameras[0].w2c.device
        self.changes: list[float] = []
        self.coverages: list[float] = []
        self.points: list[Points] = []
        self.refused = self.unjudged = 0

    def figures(self) -> dict[str, Any]:
        """What the report says about the clips."""
        return {
            "clips": len(self.changes),
            "clips_refused": self.refused,
            "clips_unjudged": self.unjudged,
            "coverage": _mean(self.coverages),
            "change": _mean(self.changes),
        }

    def plan(self) -> list[Clip]:
        """The clips of the round."""
        prober = Prober(self.render, self.captured)
        # paths are a handful of small matrices: the CPU is faster, and gives the same ones whatever trains
        cameras = [camera.to("cpu") for camera in self.captured.full or self.captured.cameras]
        return plan_round(cameras, self.config, self.seed, self.number, prober)

    def frames(self, clips: Sequence[Clip], progress: RoundProgress) -> Iterator[GeneratedFrame]:
        """Every pose of the round once."""
        for index, clip in enumerate(clips):
            progress.tell(f"{self.repairer.name}, clip", index, len(clips))
            repaired = self._repair(clip, index)
            if repaired.refused:
                continue
            for i, refined in enumerate(repaired.frames):
                if clip.new[i]:
                    self._note(refined)
                    yield encode(refined, self._provenance(clip, index, i))

    def _repair(self, clip: Clip, index: int) -> RefinedClip:
        rendered = render_clip(self.render, [camera.to(self.device) for camera in clip.cameras])
        rendered = with_photos(rendered, self.seen, NEIGHBOURS)
        rendered = replace(rendered, seed=seed_of(self.seed, "repair", self.number, index))
        repaired = self.repairer.repair(rendered, reference_for(clip, self.captured))
        check_repaired(rendered, repaired, self.repairer.name)
        self.changes.append(float((repaired.rgb - rendered.rgb).abs().mean()))
        refined = refine_clip(rendered, repaired)
        if self.watch is not None:
            self.watch(rendered, refined.frames)
        self.unjudged += refined.contradicted is None
        self.refused += refined.refused
        if refined.refused:
            log.warning(
                "round %d: clip %d (%s) is refused: it contradicts %.0f %% of what the photos show of it.",
                *(self.number + 1, index + 1, clip.trajectory, 100.0 * (refined.contradicted or 0.0)),
            )
        return refined

    def _note(self, refined: RefinedFrame) -> None:
        """Keep of a frame what the report and the expansion need."""
        self.coverages.append(float(refined.alpha.mean()))
        if self.config.expand:
            views = self.seen.near(refined.camera, NEIGHBOURS)
            self.points.append(missing_points(refined, views, self.seen.unit))

    def _provenance(self, clip: Clip, index: int, frame: int) -> Provenance:
        made_by = self.repairer.name, self.repairer.fingerprint, clip.trajectory
        return Provenance(*made_by, self.seed, self.number, self.k, clip=index, frame=frame)


def encode(refined: RefinedFrame, origin: Provenance) -> GeneratedFrame:
    """A refined frame as the pool keeps it; its weight is its agreement, and how much of it is believed at all."""
    weight = refined.agreement * float(refined.confidence.mean())
    maps = refined.rgb, refined.disparity, refined.confidence
    return GeneratedFrame.encode(refined.camera, *maps, origin, weight, refined.agreement)


def render_clip(render: Callable[[Camera], Render], cameras: Sequence[Camera]) -> RGBDClip:
    """Colour (clamped to [0, 1]), expected depth and alpha of every view."""
    views = [render(camera) for camera in cameras]
    return RGBDClip(
        rgb=torch.stack([view.color for view in views]).clamp(0, 1),
        depth=torch.stack([view.depth for view in views]),
        alpha=torch.stack([view.alpha for view in views]).clamp(0, 1),
        cameras=cameras,
    )


def reference_for(clip: Clip, captured: CapturedViews) -> Tensor:
    """[h, w, 3] the photo whose view is nearest to the middle of the clip."""
    cameras = [camera.to("cpu") for camera in captured.cameras]
    return captured.image(nearest_view(clip.cameras[len(clip.cameras) // 2], cameras))


def check_repaired(rendered: RGBDClip, repaired: RepairedClip, name: str) -> None:
    """See that a repairer gave back maps of the shapes that it was asked for.

    Raises:
        ValueError: it did not.
    """
    found = [list(values.shape) for values in (repaired.rgb, repaired.disparity, repaired.confidence)]
    expected = [list(values.shape) for values in (rendered.rgb, rendered.depth, rendered.alpha)]
    if found != expected:
        raise ValueError(f"repairer '{name}' gave rgb, disparity, confidence of shapes {found}; expected {expected}.")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
