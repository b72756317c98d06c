"""The gate on rounds: what photos and novel views look like before a round and after its frames have taught.

Where photos can be spared they judge; else the training photos do, and the sharpness of novel views: PSNR alone is
bought with fog. Clips that contradict the photos never get that far (`agreement.contradiction`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Literal

import torch

from genfusion_ns.cameras import Camera
from genfusion_ns.gaussians.keeper import SplatKeeper
from genfusion_ns.gaussians.losses import psnr, sharpness, ssim
from genfusion_ns.loop.captured import CapturedViews, reduced_photo
from genfusion_ns.loop.plan import evenly
from genfusion_ns.loop.state import LoopState
from genfusion_ns.raster.api import Render

log = logging.getLogger(__name__)

Outcome = Literal["open", "accepted", "refused", "empty", "lowered", "rolled back"]

SIDE = 320
"""Evidence is measured on images at most this wide or high, in pixels."""
TOLERANCE = 0.3
"""Loss of PSNR at photos that do not train, in dB, that a round may cause."""
PROBES = 8
"""Photos that train, and novel views, that are looked at, each."""
DULLER = 0.1
"""Share of their sharpness that views may lose where no photo is shown better for it."""
BETTER = 0.1
"""PSNR that photos must gain, in dB, for views to be allowed to become duller."""
FACTORS: dict[str, float] = {"accepted": 1.0, "lowered": 0.5, "rolled back": 0.0}
"""What an outcome leaves of the weights of a round's frames."""


def held_out(count: int, enough: int) -> list[int]:
    """Which of `count` captured views do not train while generated views do, so that they can judge: none below
    `enough`, one from there, two from twice as many; from the inside of the list, far from each other.

    Args:
        enough: 0 = never hold any out.
    """
    if enough < 1 or count < enough:
        return []
    return [count // 2] if count < 2 * enough else [count // 3, (2 * count) // 3]


@dataclass(frozen=True)
class Evidence:
    """What renders look like at photos and at novel views."""

    psnr: float
    """At the photos, in dB."""
    ssim: float
    """At the photos."""
    sharpness: float
    """Mean gradient of the renders at the photos, over that of the photos."""
    novel: float
    """Mean gradient of the renders at novel views of the round; 0 = there are none."""


def judge(before: Evidence, after: Evidence, held: bool) -> Outcome:
    """What becomes of a round.

    One that makes views duller without any photo being shown better is rolled back. At photos that do not train
    (`held`), a loss of PSNR of up to TOLERANCE is accepted; up to twice as much costs the frames half of their
    weight; a larger one rolls the round back.
    """
    gain = after.psnr - before.psnr
    duller = after.novel < (1 - DULLER) * before.novel or (held and after.sharpness < (1 - DULLER) * before.sharpness)
    if duller and gain < BETTER:
        return "rolled back"
    if not held or -gain <= TOLERANCE:
        return "accepted"
    return "lowered" if -gain <= 2.0 * TOLERANCE else "rolled back"


def trust(outcomes: Sequence[str]) -> float:
    """Factor in (0, 1] on the weights of the next round's frames: a round that was lowered halves it, one that was
    rolled back quarters it, one that was accepted, or left no frames to do harm, doubles it again."""
    factor = 1.0
    for outcome in outcomes:
        change = {"lowered": 0.5, "rolled back": 0.25, "accepted": 2.0, "empty": 2.0}.get(outcome, 1.0)
        factor = min(1.0, factor * change)
    return factor


def judge_last_round(
    render: Callable[[Camera], Render],
    photos: CapturedViews,
    held: bool,
    state: LoopState,
    splats: SplatKeeper | None = None,
) -> None:
    """Settle the last round of `state`, if it is still open, by the renders as they are now.

    Rounds do it for the one before; for the last one it has to be called when the loop ends.

    Args:
        photos: that do not train (`held`), or that do.
    """
    last = state.reports[-1] if state.reports else None
    if last is None or last.outcome != "open" or not isinstance(last.before, dict):
        return  # a checkpoint of an older version holds a number
    before = Evidence(**last.before)
    after = gather(render, photos, state.pool.of_round(last.round))
    outcome = judge(before, after, held)
    state.settle(outcome, asdict(after), FACTORS[outcome])
    if outcome == "accepted":
        return
    log.warning(
        "round %d of step %d is %s: photos %.2f to %.2f dB, sharpness of photos %.2f to %.2f, of novel views %.4f to "
        "%.4f.",
        *(last.round + 1, last.step, outcome, before.psnr, after.psnr, before.sharpness, after.sharpness),
        *(before.novel, after.novel),
    )
    if outcome == "rolled back" and splats is not None:
        splats.restore()


@torch.no_grad()
def gather(render: Callable[[Camera], Render], photos: CapturedViews, novel: Sequence[Camera]) -> Evidence:
    """What renders of at most SIDE pixels look like at PROBES of the photos and of the novel views."""
    rows = []
    for i in evenly(len(photos.cameras), PROBES):
        small = photos.cameras[i].limited(SIDE)
        shown = render(small).color.clamp(0, 1)
        photo = reduced_photo(photos.image(i), small.height, small.width).to(shown)
        sharp = sharpness(shown) / max(sharpness(photo), 1e-9)
        rows.append((float(psnr(shown, photo).clamp_max(60.0)), float(ssim(shown, photo)), sharp))
    decibels, similarity, sharp = (fmean(column) for column in zip(*rows, strict=True))
    device = photos.cameras[0].w2c.device
    chosen = [novel[i].limited(SIDE).to(device) for i in evenly(len(novel), PROBES)]
    return Evidence(
        decibels, similarity, sharp, fmean([sharpness(render(camera).color.clamp(0, 1)) for camera in chosen] or [0.0])
    )
