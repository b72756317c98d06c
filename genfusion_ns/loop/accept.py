"""Where photos can be spared to judge rounds: what they say before a round and after its frames have taught.

Clips that contradict the photos that train never get that far (`confidence.contradiction`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from genfusion_ns.cameras import Camera
from genfusion_ns.loop.captured import CapturedViews
from genfusion_ns.loop.config import LoopConfig
from genfusion_ns.loop.keeper import SplatKeeper
from genfusion_ns.loop.state import LoopState
from genfusion_ns.losses import psnr
from genfusion_ns.raster.api import Render

log = logging.getLogger(__name__)

Outcome = Literal["open", "accepted", "refused", "empty", "lowered", "rolled back"]

SIDE = 320
"""Evidence is measured on images at most this wide or high, in pixels."""
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


def judge(before: float, after: float, tolerance: float) -> Outcome:
    """What becomes of a round, from the evidence before it and after its frames have taught, in dB.

    A loss of up to `tolerance` is accepted; up to twice as much costs the frames half of their weight; a larger one
    rolls the round back.
    """
    loss = before - after
    if loss <= tolerance:
        return "accepted"
    return "lowered" if loss <= 2.0 * tolerance else "rolled back"


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
    held: CapturedViews,
    state: LoopState,
    config: LoopConfig,
    splats: SplatKeeper | None = None,
) -> float:
    """Settle the last round of `state`, if it is still open, by the held-out photos, and return the renders' mean PSNR
    there for the splats as they are then.

    Rounds do it for the one before; for the last one it has to be called when the loop ends.
    """
    now = at_views(render, held)
    last = state.reports[-1] if state.reports else None
    if last is None or last.outcome != "open":
        return now
    before = now if last.before is None or not last.admitted else last.before
    outcome = judge(before, now, config.tolerance)
    state.settle(outcome, now, FACTORS[outcome])
    if outcome == "accepted":
        return now
    log.warning(
        "round %d of step %d is %s: held-out photos fell from %.2f to %.2f dB (tolerance %.2f).",
        *(last.round + 1, last.step, outcome, before, now, config.tolerance),
    )
    if outcome == "rolled back" and splats is not None:
        splats.restore()
        return before
    return now


@torch.no_grad()
def at_views(render: Callable[[Camera], Render], views: CapturedViews) -> float:
    """Mean PSNR of renders at photos, in dB, on images of at most SIDE pixels."""
    found = []
    for i, camera in enumerate(views.cameras):
        small = camera.limited(SIDE)
        photo = _shrunk(views.image(i), small.height, small.width)
        shown = render(small).color.clamp(0, 1)
        found.append(float(psnr(shown, photo.to(shown)).clamp_max(60.0)))
    return sum(found) / len(found)


def _shrunk(photo: Tensor, height: int, width: int) -> Tensor:
    """[H, W, 3] -> [height, width, 3], by areas."""
    return F.interpolate(photo.permute(2, 0, 1)[None], (height, width), mode="area")[0].permute(1, 2, 0)
