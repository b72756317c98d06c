"""One round of the loop: choose views, render them, have them repaired, admit them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from genfusion_ns.cameras import Camera
from genfusion_ns.geometry import nearest_view
from genfusion_ns.loop.config import LoopConfig
from genfusion_ns.loop.plan import Clip, plan_round
from genfusion_ns.loop.pool import GeneratedFrame, Provenance
from genfusion_ns.loop.repair import HoldsDevice, RepairedClip, Repairer, RGBDClip
from genfusion_ns.loop.state import LoopState, RoundReport
from genfusion_ns.raster.api import Render
from genfusion_ns.seeding import seed_of


@dataclass(frozen=True)
class CapturedViews:
    """The photos, as far as a round needs them."""

    cameras: Sequence[Camera]
    """V views."""
    image: Callable[[int], Tensor]
    """Photo number i as [H, W, 3] in [0, 1]."""


def run_round(
    render: Callable[[Camera], Render],
    captured: CapturedViews,
    state: LoopState,
    config: LoopConfig,
    repairer: Repairer,
    k: int,
    seed: int,
    console: Console | None = None,
) -> RoundReport:
    """Run one round after step k and note it in `state`.

    Args:
        render: draws the splats over black; it is called without gradients.
        console: where the progress bar goes; None shows none.
    """
    began = time.monotonic()
    number = state.round
    device = captured.cameras[0].w2c.device
    # paths are a handful of small matrices: the CPU is faster, and gives the same ones whatever trains
    captured = replace(captured, cameras=[camera.to("cpu") for camera in captured.cameras])
    clips = plan_round(captured.cameras, config, seed, number)
    frames: list[GeneratedFrame] = []
    coverage, change = [], []
    with _progress(console) as progress, torch.no_grad():
        task = progress.add_task(f"round {number + 1}: render and {repairer.name}", total=len(clips))
        for index, clip in enumerate(clips):
            rendered = render_clip(render, [camera.to(device) for camera in clip.cameras])
            rendered = replace(rendered, seed=seed_of(seed, "repair", number, index))
            repaired = repairer.repair(rendered, reference_for(clip, captured))
            check_repaired(rendered, repaired, repairer.name)
            origin = Provenance(
                repairer.name, repairer.fingerprint, clip.trajectory, seed, number, k, clip=index, frame=0
            )
            frames += to_frames(clip, repaired, origin)
            coverage.append(float(rendered.alpha.mean()))
            change.append(float((repaired.rgb - rendered.rgb).abs().mean()))
            progress.advance(task)
    if isinstance(repairer, HoldsDevice):
        repairer.release()
    evicted = state.pool.admit(frames)
    report = RoundReport(
        round=number,
        step=k,
        clips=len(clips),
        admitted=len(frames),
        evicted=evicted,
        pool=len(state.pool),
        coverage=sum(coverage) / len(coverage),
        change=sum(change) / len(change),
        seconds=time.monotonic() - began,
    )
    state.reports.append(report)
    return report


def render_clip(render: Callable[[Camera], Render], cameras: Sequence[Camera]) -> RGBDClip:
    """Colour (clamped to [0, 1]), expected depth and alpha of every view."""
    views = [render(camera) for camera in cameras]
    return RGBDClip(
        rgb=torch.stack([view.color for view in views]).clamp(0, 1),
        depth=torch.stack([view.depth for view in views]),
        alpha=torch.stack([view.alpha for view in views]),
        cameras=cameras,
    )


def reference_for(clip: Clip, captured: CapturedViews) -> Tensor:
    """[h, w, 3] the photo whose view is nearest to the middle of the clip."""
    return captured.image(nearest_view(clip.cameras[len(clip.cameras) // 2], captured.cameras))


def check_repaired(rendered: RGBDClip, repaired: RepairedClip, name: str) -> None:
    """See that a repairer gave back maps of the shapes that it was asked for.

    Raises:
        ValueError: it did not.
    """
    found = [list(values.shape) for values in (repaired.rgb, repaired.disparity, repaired.confidence)]
    expected = [list(values.shape) for values in (rendered.rgb, rendered.depth, rendered.alpha)]
    if found != expected:
        raise ValueError(f"repairer '{name}' gave rgb, disparity, confidence of shapes {found}; expected {expected}.")


def to_frames(clip: Clip, repaired: RepairedClip, origin: Provenance) -> list[GeneratedFrame]:
    """The fresh frames of a repaired clip, encoded for the pool; `origin` says all but the frame's number."""
    frames = []
    for i, camera in enumerate(clip.cameras):
        if clip.fresh[i]:
            maps = repaired.rgb[i], repaired.disparity[i], repaired.confidence[i]
            frames.append(GeneratedFrame.encode(camera, *maps, replace(origin, frame=i)))
    return frames


def _progress(console: Console | None) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=console is None, transient=True)
