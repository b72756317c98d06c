"""`loop.safety`: no camera inside geometry, or right before it."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_scene import aimed, ball, ball_of, textured

from genfusion_ns.loop.captured import CapturedViews
from genfusion_ns.loop.config import LoopConfig
from genfusion_ns.loop.plan import plan_round
from genfusion_ns.loop.repairers.base import IdentityRepairer
from genfusion_ns.loop.round import Loop
from genfusion_ns.loop.safety import SIDE, Prober
from genfusion_ns.loop.state import LoopState
from genfusion_ns.loop.view_buffer import GeneratedViews

SMALL = LoopConfig(frames=12, clip_length=4, trajectories=("interpolate", "orbit"))


def captured(cameras) -> CapturedViews:
    return CapturedViews(cameras, lambda i: textured(cameras[i]).color)


def prober(cameras, shown=textured) -> Prober:
    return Prober(shown, captured(cameras))


def ball_or_wall(camera):
    """The big ball fills nearer views; one whose centre lies inside of it sees its surface at distance 0.05."""
    view = textured(camera)
    if float(camera.position.norm()) < 1.0:
        return replace(view, depth=torch.full_like(view.depth, 0.05))
    return view


def nothing(camera):
    return replace(ball(camera), alpha=0 * ball(camera).alpha, depth=0 * ball(camera).depth)


def test_clearance_is_the_depth_of_the_nearest_fifth():
    camera = aimed((0.0, 0.0, 0.0), (1.0, 0.0, 0.0))
    found = prober([aimed((3.0, 0.0, 1.0))]).clearance(camera)
    assert found == pytest.approx(float(textured(camera).depth.quantile(0.2)), rel=0.05)


def test_probes_are_small():
    sides = []
    probes = prober([aimed((3.0, 0.0, 1.0))], lambda c: sides.append(max(c.width, c.height)) or textured(c))
    probes.safe(aimed((2.0, 0.1, 0.0)).resized(960, 720))
    assert max(sides) <= SIDE


def test_where_nothing_is_shown_every_pose_is_safe(around):
    probes = prober(around, nothing)
    camera = aimed((0.1, 0.1, 0.0))
    assert probes.clearance(camera) == float("inf") and probes.limit == 0
    assert probes.safe(camera) is camera


@settings(max_examples=6, deadline=None)
@given(st.floats(1.05, 1.25), st.floats(-3.1, 3.1))
def test_a_camera_before_geometry_is_moved_back_and_looks_the_same_way(distance, angle):
    probes = prober([aimed((3.0, y, 0.5)) for y in (-0.5, 0.0, 0.5)], ball_or_wall)
    assert 0.3 < probes.limit < 1.5
    direction = torch.tensor([angle, 0.0]).cos()[0], torch.tensor(angle).sin()
    near = aimed((distance * float(direction[0]), distance * float(direction[1]), 0.0))
    assert probes.clearance(near) < probes.limit
    camera = probes.safe(near)
    assert camera is not None and probes.clearance(camera) >= probes.limit
    torch.testing.assert_close(camera.w2c[:3, :3], near.w2c[:3, :3])
    away = camera.position - near.position
    torch.testing.assert_close(away / away.norm(), -near.w2c[2, :3], atol=1e-3, rtol=0)


def test_a_camera_deep_inside_is_left_out():
    deep = lambda c: replace(textured(c), depth=torch.full_like(textured(c).depth, 0.05))  # noqa: E731
    probes = prober([aimed((3.0, 0.0, 0.5))], textured)
    probes._render = deep
    assert probes.safe(aimed((-2.0, 0.0, 0.0))) is None
    # but where a photo was taken, there was room for a camera
    assert probes.safe(aimed((3.0, 0.0, 0.5))) is not None


def test_no_planned_camera_is_inside_of_anything(around):
    probes = prober(around, ball_or_wall)
    clips = plan_round(around, SMALL, 0, 0, probes)
    assert clips
    for clip in clips:
        for camera in clip.cameras:
            assert probes.clearance(camera) >= probes.limit or any(
                float((camera.position - c.position).norm()) < 0.01 for c in around
            )


def test_a_round_of_which_no_pose_is_safe_is_a_round(around):
    """Splats of a failing run may fill all that cameras could stand in."""
    far = [aimed((3.0, 0.0, 1.0)), aimed((3.0, 0.3, 1.0))]
    calls = []

    def closing_in(camera):
        calls.append(camera)
        view = textured(camera)
        return view if len(calls) <= len(far) else replace(view, depth=torch.full_like(view.depth, 1e-3))

    state = LoopState(GeneratedViews(99))
    orbit = replace(SMALL, trajectories=("orbit",))
    report = Loop(orbit, IdentityRepairer(), 0, state).round(1, closing_in, captured(far))
    assert (report.clips, report.admitted, state.round) == (0, 0, 1)


def test_ball_of_another_radius_is_what_it_says():
    camera = aimed((3.0, 0.0, 0.0))
    assert float(ball_of(camera, 0.5).depth[12, 16]) == pytest.approx(2.5, abs=0.01)
