"""The first splats of a run, from the photos' depth or from points, and a line that says what was found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from genfusion_ns.data.colmap import ColmapModel
from genfusion_ns.data.points import PointsMode, initial_points, measured_points
from genfusion_ns.data.triangulate import Triangulated
from genfusion_ns.data.views import TrainView
from genfusion_ns.files import write_atomic
from genfusion_ns.seeding import generator, thinned_rows
from genfusion_ns.stereo.capture_depth import FILE_NAME, CaptureDepth, capture_depth
from genfusion_ns.stereo.estimator import create_estimator


def depth_folder(run: Path, checkpoint: Path | None) -> Path:
    """Where a run keeps its photos' depth: its own folder, with what the run that it goes on from had found."""
    if checkpoint is not None:
        kept = checkpoint.parent.parent / FILE_NAME
        if kept.is_file() and kept.parent != run and not (run / FILE_NAME).exists():
            run.mkdir(parents=True, exist_ok=True)
            write_atomic(run / FILE_NAME, kept.read_bytes())
    return run


def find_depth(
    views: Sequence[TrainView],
    model: ColmapModel | None,
    estimator: str,
    side: int,
    folder: Path | None,
    device: torch.device | str,
) -> tuple[CaptureDepth, Triangulated]:
    """The depth of the training views, and the points that they alone triangulate; see `capture_depth` and
    `create_estimator` for the arguments."""
    tracks, notes, origin = measured_points(views, model)
    chosen = create_estimator(estimator, device)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=CONSOLE, transient=True) as progress:
        bar = progress.add_task(f"depth of the photos ({chosen.name})", total=len(views))
        found = capture_depth(views, tracks, chosen, side, folder, lambda done: progress.update(bar, completed=done))
    sure = torch.cat([depth.confidence.flatten() for depth in found.depths]) > 0.5
    CONSOLE.print(
        f"[bold]genfusion:[/] {chosen.name} depth of {len(views)} photos: {float(sure.float().mean()):.0%} of their "
        f"pixels are sure; {len(tracks.xyz):,} {origin} anchor it.",
        soft_wrap=True,
    )
    for note in notes:
        CONSOLE.print(f"[yellow]genfusion:[/] {note}", soft_wrap=True)
    return found, tracks


def seed_points(
    views: Sequence[TrainView],
    model: ColmapModel | None,
    target: int,
    mode: PointsMode,
    cloud: tuple[Tensor, Tensor] | None,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """xyz and rgb of at most `target` first points, thinned at random; see `initial_points` for the arguments."""
    arrays = None if cloud is None else (cloud[0].numpy(), cloud[1].numpy())
    found = initial_points(views, model, target=target, mode=mode, cloud=arrays, seed=seed)
    CONSOLE.print(
        f"[bold]genfusion:[/] {len(found.xyz):,} initial points, {found.measured:,} measured; {found.source}.",
        soft_wrap=True,
    )
    for note in found.notes:
        CONSOLE.print(f"[yellow]note:[/] {note}", soft_wrap=True)
    kept = thinned_rows(len(found.xyz), target, generator(seed, "seed points"))
    return torch.from_numpy(found.xyz)[kept], torch.from_numpy(found.rgb)[kept]
