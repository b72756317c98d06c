"""The loop: rounds that choose views, render them, have them repaired, refine and admit them."""

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
from genfusion_ns.loop.supervision.gate import gather, held_out, judge_last_round, trust
from genfusion_ns.loop.supervision.refine import RefinedClip, RefinedFrame, refine_clip, with_photos
from genfusion_ns.loop.view_buffer import GeneratedFrame, GeneratedViews, Provenance
from genfusion_ns.raster.api import Render
from genfusion_ns.seeding import seed_of

__all__ = ["CapturedViews", "Loop"]

log = logging.getLogger(__name__)

Watch = Callable[[RGBDClip, Sequence[RefinedFrame]], None]
"""Shown each clip's renders and what became of them."""


class Loop:
    """The rounds of a run, what they remember, and the generated views that they leave.

    Args:
        config: for the length of this run (`LoopConfig.scaled_to`).
        repairer: or how to make it, which is called before the first round.
        seed: all random numbers follow from it and the round's number.
        state: of earlier rounds; None = there were none.
    """

    def __init__(
        self,
        config: LoopConfig,
        repairer: Repairer | Callable[[], Repairer],
        seed: int,
        state: LoopState | None = None,
    ) -> None:
        self.config, self.seed = config, seed
        self.state = LoopState(GeneratedViews(config.pool)) if state is None else state
        self._repairer = repairer

    @property
    def repairer(self) -> Repairer:
        """Who repairs the renders."""
        if not isinstance(self._repairer, Repairer):
            self._repairer = self._repairer()
        return self._repairer

    @repairer.setter
    def repairer(self, repairer: Repairer) -> None:
        self._repairer = repairer

    def pick(self, step: int) -> tuple[GeneratedFrame, float] | None:
        """The generated view of a step and lambda(step); None before the first round and once lambda is 0."""
        weight = self.config.generated_weight(step)
        if weight <= 0 or not self.state.pool:
            return None
        return self.state.pool.pick(self.seed, step), weight

    def judging(self, count: int, step: int) -> list[int]:
        """Which of `count` captured views judge rounds instead of training at a step: some, from the beginning (a photo
        that has trained already would make the first round look bad) until generated views no longer count."""
        if self.config.every < 1 or step >= self.config.until:
            return []
        return held_out(count, self.config.hold_out_from)

    def settle(
        self,
        render: Callable[[Camera], Render],
        captured: CapturedViews,
        held: CapturedViews | None = None,
        splats: SplatKeeper | None = None,
    ) -> None:
        """Judge the last round, if it is still open; each round does it for the one before. See `round`."""
        judging, spared = _judges(captured, held)
        judge_last_round(render, judging, spared, self.state, splats)

    def round(
        self,
        k: int,
        render: Callable[[Camera], Render],
        captured: CapturedViews,
        held: CapturedViews | None = None,
        splats: SplatKeeper | None = None,
        console: Console | None = None,
        watch: Watch | None = None,
    ) -> RoundReport:
        """Run one round after step k and note it in the state; judge the round before first.

        Args:
            render: draws the splats over black; it is called without gradients.
            captured, held: photos that train, and photos that don't and so can judge; without any, the others do.
            splats: takes new splats, and goes back to the old ones where a round was bad; None: neither happens.
            console: where the progress goes; None shows none.
        """
        began = time.monotonic()
        self.settle(render, captured, held, splats)
        if splats is not None:
            splats.keep()
        seen = SeenViews(render, captured, self.config.max_side)
        work = _Round(render, captured, seen, self.config, self.repairer, k, self.seed, self.state.round, watch)
        clips, frames = self._repaired(work, console)
        standing = trust([report.outcome for report in self.state.reports])
        admission = self.state.admit([replace(f, weight=f.weight * standing) for f in frames], seen.unit)
        before, added = None, 0
        if admission.entered:  # else no frame would teach what else is added
            before = asdict(gather(render, _judges(captured, held)[0], self.state.pool.of_round(work.number)))
            added = self._expand(work, splats)
        report = RoundReport(
            round=work.number,
            step=k,
            admitted=admission.entered,
            evicted=admission.evicted,
            pool=len(self.state.pool),
            seconds=time.monotonic() - began,
            agreement=_mean([frame.agreement for frame in frames]),
            refused=admission.refused,
            replaced=admission.replaced,
            added=added,
            before=before,
            outcome="open" if admission.entered else "refused" if clips and work.refused == len(clips) else "empty",
            **work.figures(),
        )
        self.state.reports.append(report)
        return report

    def _repaired(self, work: _Round, console: Console | None) -> tuple[list[Clip], list[GeneratedFrame]]:
        """The clips of a round, and their frames, repaired; the repairer then gives the device back."""
        try:
            with torch.no_grad():
                progress = RoundProgress(console, f"round {work.number + 1}")
                with INTERRUPTS.at_once(), progress:  # nothing of the run changes here
                    clips = work.plan()
                    return clips, list(work.frames(clips, progress))
        finally:
            if isinstance(self.repairer, HoldsDevice):
                self.repairer.release()

    @torch.no_grad()
    def _expand(self, work: _Round, splats: SplatKeeper | None) -> int:
        """How many splats the surfaces of the round's frames added."""
        if splats is None:
            return 0
        seed = seed_of(self.seed, "expand", work.number)
        return expand(work.points, work.seen.unit, self.config.expand, splats, seed)


def _judges(captured: CapturedViews, held: CapturedViews | None) -> tuple[CapturedViews, bool]:
    """Who judges rounds, and whether these are photos that do not train."""
    return (held, True) if held is not None and len(held.cameras) > 0 else (captured, False)


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
    watch: Watch | None = None

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
