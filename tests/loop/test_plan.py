"""Which clips a round renders."""

import json
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from loop_scene import aimed, ball
from oracle import SMALL, Recorder

from genfusion_ns.camera_path import to_nerfstudio_camera_path
from genfusion_ns.geometry import positions
from genfusion_ns.loop.plan import make_path, path_template, plan_round
from genfusion_ns.loop.round import CapturedViews, Loop
from genfusion_ns.loop.state import LoopState
from genfusion_ns.loop.view_buffer import GeneratedViews


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
