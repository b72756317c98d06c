"""One round, its plan, its state and what its frames teach, on a scene that needs no rasteriser."""

import io
import time
from dataclasses import replace

import pytest
import torch
from loop_scene import ball
from oracle import SMALL, EchoRepairer, Recorder
from rich.console import Console

from genfusion_ns.gaussians.losses import photometric, ssi_disparity
from genfusion_ns.geometry import positions
from genfusion_ns.loop import progress
from genfusion_ns.loop.repairers.base import RepairedClip
from genfusion_ns.loop.round import CapturedViews, Loop, render_clip
from genfusion_ns.loop.state import LoopState
from genfusion_ns.loop.supervision.view_loss import block_means, generated_view_loss
from genfusion_ns.loop.view_buffer import GeneratedViews


def captured(cameras) -> CapturedViews:
    return CapturedViews(cameras, lambda i: ball(cameras[i]).color)


# -- round -----------------------------------------------------------------------------------------------------------


def test_identity_round_admits_the_renders(around):
    state = LoopState(GeneratedViews(SMALL.pool))
    report = Loop(SMALL, EchoRepairer(), 5, state).round(1000, ball, captured(around))
    assert (report.round, report.step, report.clips, report.admitted, report.pool) == (0, 1000, 6, 20, 20)
    assert report.change == 0
    assert 0.05 < report.coverage < 0.9
    assert state.round == 1
    for frame in state.pool.frames:
        render = ball(frame.camera)
        assert (frame.image() - render.color).abs().max() <= 0.5 / 255 + 1e-6
        assert (frame.confidence_map() - render.alpha).abs().max() <= 0.5 / 255 + 1e-6
        assert frame.provenance.repairer == "identity"
        assert (frame.provenance.seed, frame.provenance.round, frame.provenance.step) == (5, 0, 1000)
        assert frame.weight == pytest.approx(float(render.alpha.mean()), abs=1e-6)
    places = {(f.provenance.clip, f.provenance.frame) for f in state.pool.frames}
    assert len(places) == 20


def test_repairer_gets_clips_and_the_nearest_photo(around):
    recorder = Recorder()
    state = LoopState(GeneratedViews(SMALL.pool))
    Loop(replace(SMALL, trajectories=("interpolate",)), recorder, 0, state).round(7, ball, captured(around))
    assert len(recorder.seen) == 3
    for clip, reference in recorder.seen:
        assert clip.rgb.shape == (4, 24, 32, 3)
        assert clip.rgb.min() >= 0
        assert clip.rgb.max() <= 1
        middle = clip.cameras[2].position
        nearest = int((positions(around) - middle).norm(dim=-1).argmin())
        assert torch.equal(reference, ball(around[nearest]).color)
    assert {f.provenance.fingerprint for f in state.pool.frames} == {"f00"}


@pytest.mark.slow
def test_pool_stays_bounded_and_new_views_replace_like_ones(around):
    config = replace(SMALL, pool=25)
    state = LoopState(GeneratedViews(config.pool))
    for k in (1000, 2000, 3000):
        Loop(config, EchoRepairer(), 0, state).round(k, ball, captured(around))
        assert len(state.pool) <= 25
    # the path between the photos is the same in each round, the other one is not
    assert all(report.replaced >= 10 for report in state.reports[1:])
    assert all(report.refused == 0 for report in state.reports)
    newest = [f for f in state.pool.frames if f.provenance.trajectory == "interpolate"]
    assert {f.provenance.round for f in newest} == {2}


def test_round_takes_no_gradients_and_draws_no_global_numbers(around):
    scale = torch.ones(1, requires_grad=True)

    def render(camera):
        assert not torch.is_grad_enabled()
        view = ball(camera)
        return replace(view, color=view.color * scale)

    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    state = LoopState(GeneratedViews(SMALL.pool))
    Loop(SMALL, EchoRepairer(), 0, state).round(1, render, captured(around))
    assert torch.equal(torch.rand(1), expected)


def test_wrong_shapes_from_a_repairer_are_named(around):
    class Halving(EchoRepairer):
        name = "halving"

        def repair(self, clip, reference):
            full = super().repair(clip, reference)
            return RepairedClip(full.rgb[:, ::2], full.disparity, full.confidence)

    state = LoopState(GeneratedViews(SMALL.pool))
    with pytest.raises(ValueError, match="repairer 'halving' gave .*expected"):
        Loop(SMALL, Halving(), 0, state).round(1, ball, captured(around))
    assert len(state.pool) == 0
    assert state.round == 0


def test_progress_is_shown_where_asked_for(around):
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    state = LoopState(GeneratedViews(SMALL.pool))
    Loop(SMALL, EchoRepairer(), 0, state).round(1, ball, captured(around), console=console)
    assert "round 1: identity, clip" in console.file.getvalue()


@pytest.mark.slow
def test_in_a_log_a_round_is_never_silent_for_long(around, monkeypatch):
    """One line at the start; more where a clip takes long."""
    monkeypatch.setattr(progress, "SILENCE", 0.05)

    class Slow(EchoRepairer):
        name = "slow"

        def repair(self, clip, reference):
            time.sleep(0.2)
            return super().repair(clip, reference)

    console = Console(file=io.StringIO(), width=100)
    state = LoopState(GeneratedViews(SMALL.pool))
    Loop(SMALL, Slow(), 0, state).round(1, ball, captured(around), console=console)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "round 1: choosing views"
    assert any(line.startswith("round 1: slow, clip 1 of 6, ") for line in lines)
    assert any(line.startswith("round 1: slow, clip 6 of 6, ") for line in lines)


@pytest.mark.slow
def test_state_survives_a_checkpoint(around, tmp_path):
    state = LoopState(GeneratedViews(SMALL.pool))
    Loop(SMALL, EchoRepairer(), 0, state).round(1000, ball, captured(around))
    torch.save(state.state_dict(), tmp_path / "loop.pt")
    resumed = LoopState(GeneratedViews(1))
    resumed.load_state_dict(torch.load(tmp_path / "loop.pt", weights_only=True))
    assert resumed.reports == state.reports
    assert resumed.round == 1
    for run in (state, resumed):
        Loop(SMALL, EchoRepairer(), 0, run).round(2000, ball, captured(around))
    assert len(state.pool) == len(resumed.pool) >= 30
    for a, b in zip(state.pool.frames, resumed.pool.frames, strict=True):
        assert a.id == b.id
        assert torch.equal(a.rgb, b.rgb)


def test_render_clip_stacks_and_clamps(around):
    bright = lambda camera: replace(ball(camera), color=2 * ball(camera).color)  # noqa: E731
    clip = render_clip(bright, around[:3])
    assert clip.rgb.shape == (3, 24, 32, 3)
    assert clip.rgb.max() == 1
    assert torch.equal(clip.depth[1], ball(around[1]).depth)


# -- loss ------------------------------------------------------------------------------------------------------------


def one_frame(around, weight: float = 1.0):
    state = LoopState(GeneratedViews(SMALL.pool))
    Loop(SMALL, EchoRepairer(), 0, state).round(1, ball, captured(around))
    return replace(state.pool.frames[3], weight=weight)


def test_loss_on_the_frames_own_render_is_nothing(around):
    frame = one_frame(around)
    assert float(generated_view_loss(ball(frame.camera), frame, 1.0)) < 0.01


def test_loss_is_the_weighted_sum_of_its_parts(around):
    frame = one_frame(around, weight=0.25)
    render = ball(frame.camera)
    render = replace(render, color=0.7 * render.color + 0.1, depth=render.depth.square())
    render.color.requires_grad_()
    render.depth.requires_grad_()
    confidence = frame.confidence_map()
    (shown, known), (wanted, _) = (block_means(x, confidence) for x in (render.color, frame.image()))
    color = photometric(shown, wanted, 0.5, known)
    depth = ssi_disparity(render.depth, frame.disparity_map(), confidence * render.alpha)
    assert color > 0.03
    assert depth > 0.03
    loss = generated_view_loss(render, frame, 0.5, depth_weight=2.0)
    torch.testing.assert_close(loss, 0.5 * 0.25 * (color + 2 * depth))
    torch.testing.assert_close(generated_view_loss(render, frame, 0.5, 0.0), 0.5 * 0.25 * color)
    loss.backward()
    empty = ball(frame.camera).alpha[..., 0] == 0
    assert render.color.grad[empty].abs().max() == 0
    assert render.color.grad.abs().max() > 0
    assert render.depth.grad.isfinite().all()
