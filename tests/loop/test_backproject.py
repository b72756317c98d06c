"""`loop.backproject`: missing surfaces become splats where they are, and nothing else does."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_scene import aimed, textured
from oracle import OracleRepairer

from genfusion_ns.cameras import unproject
from genfusion_ns.gaussians.parameters import PARAMETER_NAMES
from genfusion_ns.loop.backproject import VOXEL, Points, expand, in_free_space, missing_points, missing_region, thin
from genfusion_ns.loop.captured import CapturedViews, SeenViews
from genfusion_ns.loop.config import LoopConfig
from genfusion_ns.loop.round import Loop
from genfusion_ns.loop.state import LoopState, RoundReport
from genfusion_ns.loop.supervision.refine import RefinedFrame
from genfusion_ns.loop.view_buffer import GeneratedViews

CAPTURED = [aimed((3.0, y, 1.0)).resized(96, 72) for y in (-0.6, 0.0, 0.6)]
SIDE = aimed((0.5, 3.0, 1.0)).resized(96, 72)


class Taker:
    """Takes new splats down, and nothing else."""

    def __init__(self, given: list, sh_degree: int, room: int) -> None:
        self.given, self.sh_degree, self._room = given, sh_degree, room

    def room(self) -> int:
        return self._room

    def append(self, new) -> None:
        self.given.append(new)

    def keep(self) -> None: ...

    def restore(self) -> None: ...


def holed(camera):
    """The scene without its ball's other half: a hole where y > 0.3, as splats that were only seen from x > 0."""
    view = textured(camera)
    gone = (unproject(view.depth, camera)[..., 1:2] > 0.3) & (view.depth < 4)
    return replace(
        view, color=view.color * ~gone, alpha=view.alpha * ~gone, depth=view.depth * ~gone, median_depth=view.depth
    )


def truthful(camera, render=holed, **changes) -> RefinedFrame:
    truth, shown = textured(camera), render(camera)
    ones = torch.ones_like(truth.depth)
    frame = RefinedFrame(camera, truth.color, 1 / truth.depth, ones, 1.0, True, shown.depth, shown.alpha)
    return replace(frame, **changes)


def seen(shown=holed) -> SeenViews:
    return SeenViews(shown, CapturedViews(CAPTURED, lambda i: textured(CAPTURED[i]).color), 96)


def test_a_hole_is_filled_with_the_surface_that_is_there():
    found = missing_points(truthful(SIDE), seen().near(SIDE, 3), unit=1.0)
    assert len(found.xyz) > 50
    radius = found.xyz.norm(dim=-1)
    torch.testing.assert_close(radius, torch.ones_like(radius), atol=1e-3, rtol=0)
    assert found.xyz[:, 1].min() > 0.29
    expected = (0.5 + 0.4 * torch.sin(4.0 * found.xyz + torch.tensor([0.0, 1.0, 2.0]))).clamp(0, 1)
    torch.testing.assert_close(found.rgb, expected, atol=1e-3, rtol=0)


def test_nothing_is_missing_where_splats_are_right():
    assert len(missing_points(truthful(SIDE, textured), seen(textured).near(SIDE, 3), 1.0).xyz) == 0


@pytest.mark.parametrize(("factor", "floats"), [(0.4, True), (0.7, False), (1.1, False), (2.0, False)])
def test_what_a_floater_hides_is_missing(factor, floats):
    """A render at a share of the true depth; splats behind the surface leave the surface to supervision."""
    region = missing_region(truthful(SIDE, lambda c: replace(textured(c), depth=factor * textured(c).depth)))
    assert region.all() if floats else not region.any()


@pytest.mark.parametrize(
    "changes",
    [
        {"metric": False},
        {"agreement": 0.05},
        {"confidence": torch.full((72, 96, 1), 0.05)},
        {"disparity": torch.zeros(72, 96, 1)},
        {"disparity": torch.full((72, 96, 1), 100.0)},
        {"disparity": torch.full((72, 96, 1), 1e-4)},
        {"alpha": torch.zeros(72, 96, 1)},  # nothing rendered: no scale to trust
    ],
)
def test_what_is_not_believed_or_not_placed_adds_nothing(changes):
    assert not missing_region(truthful(SIDE, **changes)).any()


def test_points_in_free_space_are_refused():
    view = seen(textured)[1]
    centre_depth = float(view.depth[36, 48])
    ray = (view.camera.c2w[:3, :3] @ torch.tensor([0.0, 0.0, 1.0])) * centre_depth
    at = view.camera.position + ray
    behind, before = view.camera.position + 1.3 * ray, view.camera.position + 0.7 * ray
    near_at = view.camera.position + 0.95 * ray
    back, beside = view.camera.position - ray, torch.tensor([-9.0, 30.0, 0.0])
    points = torch.stack([at, near_at, behind, before, back, beside])
    assert in_free_space(points, view).tolist() == [False, False, False, True, False, False]
    # where the captured view sees nothing solid, it cannot tell
    empty = replace(view, alpha=0 * view.alpha)
    assert not in_free_space(points, empty).any()


def test_a_floater_that_a_repairer_invents_before_the_cameras_is_refused():
    frame = truthful(CAPTURED[1], textured)
    hole = (torch.arange(96) >= 48).float().view(1, 96, 1).expand(72, 96, 1)
    invented = replace(frame, disparity=torch.full((72, 96, 1), 1 / 1.2), alpha=hole)
    assert missing_region(invented).any()
    assert len(missing_points(invented, seen(textured).near(frame.camera, 3), 1.0).xyz) == 0


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 200), st.integers(0, 1000))
def test_thinning_keeps_the_most_believed_of_each_cell(count, seed):
    gen = torch.Generator().manual_seed(seed)
    xyz, confidence = torch.rand(count, 3, generator=gen) - 0.5, torch.rand(count, generator=gen)
    kept = thin(Points(xyz, xyz, confidence), 0.25)
    best = {}
    for i in range(count):
        cell = tuple(torch.floor(xyz[i] / 0.25).int().tolist())
        if cell not in best or confidence[i] > confidence[best[cell]]:
            best[cell] = i
    assert sorted(kept.confidence.tolist()) == sorted(float(confidence[i]) for i in best.values())
    assert kept.confidence.tolist() == sorted(kept.confidence.tolist(), reverse=True)


def test_cap_and_room_keep_the_most_believed():
    points = Points(torch.arange(30.0).view(10, 3), torch.zeros(10, 3), torch.linspace(0, 1, 10))
    for cap, room, expected in ((4, 99, 4), (99, 3, 3), (99, 99, 10), (0, 99, 0), (5, -2, 0)):
        given = []
        assert expand([points], 1.0, cap, Taker(given, 2, room), seed=0) == expected
        assert [len(new["means"]) for new in given] == ([expected] if expected else [])
        if expected:
            assert set(given[0]) == set(PARAMETER_NAMES)
            assert given[0]["features_rest"].shape == (expected, 8, 3)
            torch.testing.assert_close(given[0]["means"], points.xyz.flip(0)[:expected])
            assert given[0]["scales"][:, :2].exp().max() <= 4 * VOXEL + 1e-6
    assert expand([], 1.0, 5, Taker(given, 0, 9), 0) == 0


@pytest.mark.slow
def test_a_round_hands_new_splats_over():
    given = []
    config = LoopConfig(frames=8, clip_length=4, trajectories=("orbit",), expand=300)
    views = CapturedViews([*CAPTURED, SIDE], lambda i: textured([*CAPTURED, SIDE][i]).color)
    state = LoopState(GeneratedViews(99))
    repairer = OracleRepairer(textured, 0.02)
    report = Loop(config, repairer, 0, state).round(1, holed, views, splats=Taker(given, 1, 10_000))
    assert report.added == len(given[0]["means"]) > 50
    radius = given[0]["means"].norm(dim=-1)
    assert (radius - 1).abs().quantile(0.9) < 0.1
    assert Loop(config, repairer, 0, state).round(2, holed, views).added == 0
    off = replace(config, expand=0)
    assert Loop(off, repairer, 0, state).round(3, holed, views, splats=Taker(given, 1, 99)).added == 0
    assert len(given) == 1


def test_a_round_of_which_no_view_is_kept_adds_no_splats():
    """Frames that weigh next to nothing do not enter the pool; their surfaces would never be trained."""

    class Doubtful(OracleRepairer):
        def repair(self, clip, reference):
            repaired = super().repair(clip, reference)
            return replace(repaired, confidence=torch.where(clip.alpha < 0.5, repaired.confidence, 0.0))

    given = []
    config = LoopConfig(frames=4, clip_length=4, trajectories=("orbit",), expand=300)
    views = CapturedViews([*CAPTURED, SIDE], lambda i: textured([*CAPTURED, SIDE][i]).color)
    state = LoopState(GeneratedViews(99))
    state.reports = [RoundReport(0, 1, 1, 0, 0, 0, 1.0, 0.0, 1.0, outcome="rolled back")] * 3  # frames weigh 1/64
    report = Loop(config, Doubtful(textured, 0.02), 0, state).round(1, holed, views, splats=Taker(given, 1, 10_000))
    assert (report.admitted, report.added, report.outcome) == (0, 0, "empty") and report.refused > 0 and not given
