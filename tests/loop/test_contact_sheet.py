"""The picture of what a round changed."""

from __future__ import annotations

import torch
from loop_scene import aimed, ball

from genfusion_ns.loop.config import LoopConfig
from genfusion_ns.loop.contact_sheet import MostChanged
from genfusion_ns.loop.repairers.base import IdentityRepairer, RepairedClip, RGBDClip
from genfusion_ns.loop.round import CapturedViews, Loop
from genfusion_ns.loop.state import LoopState
from genfusion_ns.loop.supervision.refine import RefinedFrame
from genfusion_ns.loop.view_buffer import GeneratedViews


def clip(length: int, before: float, after: list[float], confidence: float = 1.0):
    """A clip of grey frames and what became of them."""
    cameras = [aimed((0.0, -4.0, 0.0), width=6, height=5)] * length
    one = torch.ones(5, 6, 1)
    rendered = RGBDClip(
        torch.full((length, 5, 6, 3), before), torch.ones(length, 5, 6, 1), torch.ones(length, 5, 6, 1), cameras
    )
    refined = [
        RefinedFrame(cameras[0], torch.full((5, 6, 3), value), one, confidence * one, 1.0, True, one, one)
        for value in after
    ]
    return rendered, refined


def test_the_clip_that_changed_most_is_shown():
    watch = MostChanged()
    assert watch.sheet() is None
    watch(*clip(2, 0.5, [0.5, 0.6]))
    watch(*clip(8, 0.1, [0.1 * i for i in range(1, 9)], confidence=0.7))
    watch(*clip(2, 0.5, [0.5, 0.5]))
    sheet = watch.sheet()
    assert sheet.shape == (3 * 5, 4 * 6, 3)
    cells = sheet[2::5, 3::6, 0]  # the middle of each
    assert torch.allclose(cells[0], torch.full((4,), 0.1))
    assert torch.allclose(cells[1], torch.tensor([0.1, 0.3, 0.6, 0.8]))  # frames 0, 2, 5 and 7 of 8
    assert torch.allclose(cells[2], torch.full((4,), 0.7))


def test_short_clips_and_values_out_of_range():
    watch = MostChanged()
    watch(*clip(1, 0.0, [1.7]))
    sheet = watch.sheet()
    assert sheet.shape == (15, 6, 3) and sheet.max() == 1.0


class Brightener(IdentityRepairer):
    """Adds light to the frames of its second clip only."""

    def __init__(self) -> None:
        self.calls = 0

    def repair(self, clip, reference):
        self.calls += 1
        same = super().repair(clip, reference)
        return RepairedClip(clip.rgb + (0.3 if self.calls == 2 else 0.0), same.disparity, same.confidence)


def test_a_round_shows_its_clips(around):
    config = LoopConfig(frames=6, clip_length=3, expand=0)
    captured = CapturedViews(around, lambda i: ball(around[i]).color)
    watch, seen = MostChanged(), []

    def watching(rendered, refined):
        seen.append(rendered)
        watch(rendered, refined)

    report = Loop(config, Brightener(), 0, LoopState(GeneratedViews(100))).round(10, ball, captured, watch=watching)
    assert len(seen) == report.clips == 4
    before, after = watch.sheet().chunk(3)[:2]
    assert torch.equal(before[:, : seen[1].rgb.shape[2]], seen[1].rgb[0])
    assert torch.allclose(after, (before + 0.3).clamp(0, 1), atol=1e-6)
