"""`loop.select` and the plan: no camera inside geometry, clips where they are needed."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_scene import aimed, ball, ball_of, textured

from genfusion_ns.loop.captured import CapturedViews
from genfusion_ns.loop.config import LoopConfig
from genfusion_ns.loop.plan import plan_round
from genfusion_ns.loop.pool import GeneratedViews
from genfusion_ns.loop.repair import IdentityRepairer
from genfusion_ns.loop.round import run_round
from genfusion_ns.loop.select import Prober, most_needed, windows_of_need
from genfusion_ns.loop.state import LoopState

SMALL = LoopConfig(frames=12, clip_length=4, trajectories=("orbit",), skip_covered=0.9)


def captured(cameras, truth=textured) -> CapturedViews:
    return CapturedViews(cameras, lambda i: truth(cameras[i]).color)


def prober(cameras, shown=textured, clearance=0.3) -> Prober:
    return Prober(shown, captured(cameras), clearance, neighbours=4)


# -- need ------------------------------------------------------------------------------------------------------------


def test_need_grows_with_the_distance_from_what_was_captured():
    probes = prober([aimed((3.0, 0.0, 1.0))])
    needs = [probes.probe(aimed(p)).need for p in ((3.0, 0.0, 1.0), (2.9, 0.7, 1.0), (2.0, 2.2, 1.0), (-3.0, 0.0, 1.0))]
    assert needs == sorted(needs)
    assert needs[0] < 0.02
    assert needs[-1] > 0.95


def test_empty_views_are_needed_most(around):
    nothing = lambda c: replace(ball(c), alpha=0 * ball(c).alpha, depth=0 * ball(c).depth)  # noqa: E731
    probe = prober(around, nothing).probe(aimed((2.0, 0.1, 0.0)))
    assert probe.need == 1
    assert probe.clearance == float("inf")


# -- clearance -------------------------------------------------------------------------------------------------------


def test_clearance_of_a_wall():
    camera = aimed((0.0, 0.0, 0.0), (1.0, 0.0, 0.0))
    probe = prober([aimed((3.0, 0.0, 1.0))]).probe(camera)
    assert probe.clearance == pytest.approx(float(textured(camera).depth.quantile(0.2)), rel=0.05)


def test_a_camera_before_geometry_is_moved_back_and_looks_the_same_way():
    probes = prober([aimed((3.0, y, 0.5)) for y in (-0.5, 0.0, 0.5)], ball_or_wall)
    assert 0.3 < probes.limit < 1.5
    near = aimed((1.1, 0.0, 0.0))
    assert probes.probe(near).clearance < probes.limit
    camera, probe = probes.safe(near)
    assert probe.clearance >= probes.limit
    torch.testing.assert_close(camera.w2c[:3, :3], near.w2c[:3, :3])
    away = camera.position - near.position
    torch.testing.assert_close(away / away.norm(), torch.tensor([1.0, 0, 0]), atol=1e-4, rtol=0)


def ball_or_wall(camera):
    """The big ball fills nearer views; one whose centre lies inside of it sees its surface at distance 0.05."""
    view = textured(camera)
    if float(camera.position.norm()) < 1.0:
        return replace(view, depth=torch.full_like(view.depth, 0.05))
    return view


def test_a_camera_deep_inside_is_left_out():
    deep = lambda c: replace(textured(c), depth=torch.full_like(textured(c).depth, 0.05))  # noqa: E731
    probes = prober([aimed((3.0, 0.0, 0.5))], textured)
    probes._render = deep
    assert probes.safe(aimed((-2.0, 0.0, 0.0))) is None
    # but where a photo was taken, there was room for a camera
    assert probes.safe(aimed((3.0, 0.0, 0.5))) is not None


def test_no_planned_camera_is_inside_of_anything(around):
    inside = lambda c: ball_or_wall(c)  # noqa: E731
    probes = prober(around, inside)
    close = replace(SMALL, trajectories=("interpolate", "orbit"), skip_covered=2.0)
    for clip in plan_round(around, close, 0, 0, probes):
        for camera in clip.cameras:
            assert probes.probe(camera).clearance >= probes.limit or any(
                float((camera.position - c.position).norm()) < 0.01 for c in around
            )


# -- clips -----------------------------------------------------------------------------------------------------------


def test_all_needed_is_the_fewest_clips():
    assert windows_of_need([1.0] * 10, 0.1, 4, 0) == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]


def test_covered_stretches_get_no_clip():
    needs = [0.0] * 30
    needs[12:14] = [0.5, 0.5]
    assert windows_of_need(needs, 0.1, 8, 0) == [list(range(9, 17))]
    needs[29] = 0.5
    assert windows_of_need(needs, 0.1, 8, 0) == [list(range(9, 17)), list(range(22, 30))]
    assert windows_of_need([0.0] * 30, 0.1, 8, 0) == []
    assert windows_of_need([0.0] * 5, 0.1, 8, 0) == []


@settings(deadline=None, max_examples=150)
@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=60), st.integers(1, 12))
def test_windows_cover_all_need_with_whole_clips(needs, length):
    windows = windows_of_need(needs, 0.5, length, 0)
    assert all(len(window) == length for window in windows)
    shown = {i for window in windows for i in window}
    assert {i for i, need in enumerate(needs) if need} <= shown <= set(range(len(needs)))


def test_the_clips_with_the_largest_gain_are_taken_in_their_order():
    assert most_needed([1.0, 5.0, 3.0, 5.0], 2) == [1, 3]
    assert most_needed([1.0, 1.0], 0) == most_needed([1.0, 1.0], 9) == [0, 1]


def test_a_budget_goes_to_the_unseen_side():
    cameras = [aimed((3.0, y, 1.0)) for y in (-0.6, 0.0, 0.6)]
    cameras += [aimed((0.0, 3.0, 1.0)), aimed((-1.5, 2.5, 1.0))]
    every = plan_round(cameras, SMALL, 0, 0, prober(cameras))
    budget = plan_round(cameras, replace(SMALL, clips_per_round=1), 0, 0, prober(cameras))
    assert len(every) > len(budget) == 1
    assert budget[0].gain == max(clip.gain for clip in every)
    need = sum(prober(cameras).probe(c).need for c in budget[0].cameras)
    least = min(sum(prober(cameras).probe(c).need for c in clip.cameras) for clip in every)
    assert need > least


def test_well_covered_frames_are_not_kept(around):
    # frames that the repairer left alone are not kept either, unless all count alike
    config = replace(SMALL, trajectories=("interpolate",), skip_covered=0.8, weigh=False)
    state = LoopState(GeneratedViews(99))
    report = run_round(textured, captured(around), state, config, IdentityRepairer(), 1, 0)
    probes = prober(around)
    assert all(probes.probe(frame.camera).need >= 0.2 for frame in state.pool.frames)
    everything = LoopState(GeneratedViews(99))
    run_round(textured, captured(around), everything, replace(config, skip_covered=2.0), IdentityRepairer(), 1, 0)
    assert 0 < report.admitted < len(everything.pool) == 12


def test_a_round_with_nothing_to_do_is_a_round(around):
    config = replace(SMALL, trajectories=("captured",), skip_covered=0.5)
    state = LoopState(GeneratedViews(99))
    report = run_round(textured, captured(around), state, config, IdentityRepairer(), 1, 0)
    assert (report.clips, report.admitted, state.round) == (0, 0, 1)


def test_ball_of_another_radius_is_what_it_says():
    camera = aimed((3.0, 0.0, 0.0))
    assert float(ball_of(camera, 0.5).depth[12, 16]) == pytest.approx(2.5, abs=0.01)
