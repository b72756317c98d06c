"""One round, its plan, its state and what its frames teach, on a scene that needs no rasteriser."""

import io
import json
import math
import time
from collections import Counter
from dataclasses import replace

import pytest
import torch
from loop_scene import aimed, ball
from oracle import EchoRepairer
from rich.console import Console

from genfusion_ns.camera_path import to_nerfstudio_camera_path
from genfusion_ns.errors import UserError
from genfusion_ns.gaussians.losses import photometric, ssi_disparity
from genfusion_ns.geometry import positions
from genfusion_ns.loop import progress
from genfusion_ns.loop.config import DiffusionConfig, LoopConfig
from genfusion_ns.loop.plan import make_path, path_template, plan_round
from genfusion_ns.loop.repairers.base import RepairedClip
from genfusion_ns.loop.round import CapturedViews, Loop, render_clip
from genfusion_ns.loop.state import LoopState
from genfusion_ns.loop.supervision.view_loss import block_means, generated_view_loss
from genfusion_ns.loop.view_buffer import GeneratedViews

SMALL = LoopConfig(frames=10, clip_length=4, pool=100)
PLAIN = SMALL


class Recorder(EchoRepairer):
    """Identity that remembers what it was given."""

    name = "recorder"
    fingerprint = "f00"

    def __init__(self) -> None:
        self.seen = []

    def repair(self, clip, reference):
        self.seen.append((clip, reference))
        return super().repair(clip, reference)


def captured(cameras) -> CapturedViews:
    return CapturedViews(cameras, lambda i: ball(cameras[i]).color)


# -- plan ------------------------------------------------------------------------------------------------------------


def test_plan_covers_every_path_once(around):
    clips = plan_round(around, SMALL, seed=0, round=0)
    assert Counter(clip.trajectory for clip in clips) == {"interpolate": 3, "orbit": 3}
    assert all(len(clip.cameras) == 4 for clip in clips)
    # ten poses are three clips of four; the two that are shown again do not count twice
    assert sum(sum(clip.new) for clip in clips) == 20
    places = torch.stack([c.w2c for clip in clips for c, new in zip(clip.cameras, clip.new, strict=True) if new])
    assert len(places.flatten(1).round(decimals=4).unique(dim=0)) >= 19  # a closed path ends where it begins


def test_plan_follows_from_seed_and_round(around):
    poses = lambda seed, round: torch.cat(  # noqa: E731
        [positions(c.cameras) for c in plan_round(around, SMALL, seed, round) if c.trajectory == "orbit"]
    )
    assert torch.equal(poses(0, 1), poses(0, 1))
    assert not torch.allclose(poses(0, 1), poses(0, 2), atol=0.05)
    assert not torch.allclose(poses(0, 1), poses(1, 1), atol=0.05)


def test_paths_suit_the_capture(around, facing):
    config = replace(SMALL, frames=12)
    path = lambda kind, cameras: make_path(kind, cameras, config, path_template(cameras, 960), 0, 0)  # noqa: E731
    ring = positions(path("orbit", around))
    assert ring[:, 0].min() < -2
    assert ring[:, 0].max() > 2
    before = positions(path("orbit", facing))
    assert before[:, 1].max() < 2
    closed = path("interpolate", around)
    torch.testing.assert_close(closed[0].w2c, closed[-1].w2c, atol=1e-5, rtol=0)
    open_end = path("interpolate", facing)
    assert not torch.allclose(open_end[0].w2c, open_end[-1].w2c, atol=1e-2)


def test_captured_poses_at_full_frame(around):
    windows = [camera.window(4, 3, 16, 12) for camera in around]
    recorder = Recorder()
    config = replace(SMALL, trajectories=("captured",))
    views = CapturedViews(windows, lambda i: ball(windows[i]).color, full=around)
    state = LoopState(GeneratedViews(SMALL.pool))
    report = Loop(config, recorder, 0, state).round(1, ball, views)
    assert (report.clips, report.admitted) == (2, 7)
    cameras = [camera for clip, _ in recorder.seen for camera in clip.cameras]
    assert {(camera.width, camera.height) for camera in cameras} == {(32, 24)}
    for captured in around:
        assert min(float((camera.w2c - captured.w2c).abs().max()) for camera in cameras) < 1e-5


def test_many_captured_poses_take_turns(around):
    many = [*around] * 4
    config = replace(SMALL, frames=7)
    template = path_template(many, 960)
    first, second = (torch.cat([c.w2c for c in make_path("captured", many, config, template, 0, r)]) for r in (0, 1))
    assert len(first) == 4 * 7
    assert not torch.equal(first, second)


def test_a_saved_path_is_thinned_as_officially(tmp_path, around):
    saved = [aimed((3 * math.cos(a / 38), 3 * math.sin(a / 38), 1.0)) for a in range(240)]
    file = tmp_path / "path.json"
    file.write_text(json.dumps(to_nerfstudio_camera_path(saved)))
    config = replace(SMALL, frames=48, trajectories=("path",), camera_path=file, max_side=16)
    config.check()
    path = make_path("path", around, config, path_template(around, 16), 0, 0)
    found = [int((positions(saved) - camera.position).norm(dim=-1).argmin()) for camera in path]
    assert found[:3] == [0, 5, 10]
    assert found[-3:] == [228, 233, 239]
    assert len(found) == 48
    assert path[0].width == 16
    assert float(path[0].K[1, 1] / path[0].height) == pytest.approx(float(saved[0].K[1, 1] / saved[0].height), rel=1e-5)
    assert len(plan_round(around, config, 0, 0)) == 12


def test_template_is_limited(around):
    template = path_template(around, 16)
    assert (template.width, template.height) == (16, 12)
    torch.testing.assert_close(template.K[0, 0], torch.tensor(15.0))
    assert path_template(around, 960).width == 32


# -- round -----------------------------------------------------------------------------------------------------------


def test_identity_round_admits_the_renders(around):
    state = LoopState(GeneratedViews(SMALL.pool))
    report = Loop(PLAIN, EchoRepairer(), 5, state).round(1000, ball, captured(around))
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
    Loop(replace(PLAIN, trajectories=("interpolate",)), recorder, 0, state).round(7, ball, captured(around))
    assert len(recorder.seen) == 3
    for clip, reference in recorder.seen:
        assert clip.rgb.shape == (4, 24, 32, 3)
        assert clip.rgb.min() >= 0
        assert clip.rgb.max() <= 1
        middle = clip.cameras[2].position
        nearest = int((positions(around) - middle).norm(dim=-1).argmin())
        assert torch.equal(reference, ball(around[nearest]).color)
    assert {f.provenance.fingerprint for f in state.pool.frames} == {"f00"}


def test_pool_stays_bounded_and_new_views_replace_like_ones(around):
    config = replace(PLAIN, pool=25)
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


def test_state_survives_a_checkpoint(around, tmp_path):
    state = LoopState(GeneratedViews(SMALL.pool))
    Loop(PLAIN, EchoRepairer(), 0, state).round(1000, ball, captured(around))
    torch.save(state.state_dict(), tmp_path / "loop.pt")
    resumed = LoopState(GeneratedViews(1))
    resumed.load_state_dict(torch.load(tmp_path / "loop.pt", weights_only=True))
    assert resumed.reports == state.reports
    assert resumed.round == 1
    for run in (state, resumed):
        Loop(PLAIN, EchoRepairer(), 0, run).round(2000, ball, captured(around))
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
    Loop(PLAIN, EchoRepairer(), 0, state).round(1, ball, captured(around))
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


# -- configuration ---------------------------------------------------------------------------------------------------


def test_config_scales_with_the_run():
    config = LoopConfig().scaled_to(700)
    assert (config.start, config.every, config.until) == (400, 100, 650)
    assert [k for k in range(701) if config.is_round_due(k, 700)] == [400, 500, 600]
    assert config.generated_weight(400) == config.generated_weight(650) == config.generated_weight(680) == 0
    assert config.generated_weight(525) == config.weight


def test_loop_can_be_switched_off():
    config = LoopConfig(every=0).scaled_to(700)
    assert not any(config.is_round_due(k, 700) for k in range(701))
    assert config.generated_weight(525) == 0


def test_files_of_the_rounds_are_looked_at_before_training(tmp_path):
    """A run without rounds needs none of them."""
    config = LoopConfig(repairer="identity", trajectories=("path",), camera_path=tmp_path / "path.json")
    with pytest.raises(UserError, match="path.json cannot be read as a camera path"):
        config.check_files(7000)
    config.check_files(500)
    replace(config, every=0).check_files(7000)
    (tmp_path / "path.json").write_text(json.dumps(to_nerfstudio_camera_path([aimed((3.0, 0.0, 1.0))])))
    config.check_files(7000)
    other = replace(config, repairer="diffusion", diffusion=DiffusionConfig(weights="nonsense"))
    with pytest.raises(UserError, match="there are no weights 'nonsense'"):
        other.check_files(7000)
    other.check_files(500)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 0}, "loop.frames is 0; expected at least 1"),
        ({"clip_length": 0}, "loop.clip-length is 0; expected at least 1"),
        ({"pool": 0}, "loop.pool is 0"),
        ({"max_side": 4}, "loop.max-side is 4; expected at least 16"),
        ({"weight": -1.0}, "loop.weight is -1.0"),
        ({"weight": math.nan}, "loop.weight is nan; expected at least 0"),
        ({"weight": math.inf}, "loop.weight is inf"),
        ({"diffusion": DiffusionConfig(steps=0)}, "loop.diffusion.steps is 0"),
        ({"depth_weight": -0.1}, "loop.depth-weight is -0.1"),
        ({"trajectories": ("path",)}, "loop.camera-path is not set"),
        ({"repairer": "magic"}, "loop.repairer is 'magic'; expected one of: classical, diffusion, identity"),
    ],
)
def test_settings_that_cannot_work_are_named(change, message):
    LoopConfig().check()
    with pytest.raises(UserError, match=message):
        replace(LoopConfig(), **change).check()
