"""Photos warped into other views, against a scene of two planes of which everything is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from two_planes import PLATE, clip_of, colours, hits, intrinsics, photo, pose, rays, view

from diffusion.inputs.source_views import CHANNELS, LOOK_ALIKE, filled_cracks, nearest_sources, warp, warp_sources

WIDTH, HEIGHT = 64, 48
K = intrinsics(WIDTH, HEIGHT)
AHEAD = pose((0.0, 0.0, 0.0))


def warped(source, w2c=AHEAD, depth=None):
    truth = view(w2c, K, HEIGHT, WIDTH)[1]
    return warp(w2c, K, truth if depth is None else depth, source)


def inner(mask: torch.Tensor) -> torch.Tensor:
    """[H, W] pixels that are further than two pixels from any outside the mask."""
    outside = (~mask).float()[None, None]
    return torch.nn.functional.max_pool2d(outside, 5, 1, 2)[0, 0] == 0


@pytest.mark.parametrize("place", [(0.3, 0.0, 0.0), (-0.2, 0.25, -0.3), (0.0, -0.3, 0.6)])
def test_colours_and_depth_are_the_true_ones_where_the_photo_sees_the_place(place):
    rgb, depth = view(AHEAD, K, HEIGHT, WIDTH)
    found = warped(photo(pose(place, 0.1)))
    centre, directions = rays(AHEAD, K, HEIGHT, WIDTH)
    on_plate = hits(centre, directions)[1]
    for surface in (inner(on_plate), inner(~on_plate)):
        shown = (found[3] > 0) & surface
        assert shown.sum() > 0.4 * surface.sum()
        off = (found[:3].permute(1, 2, 0) - rgb).abs().amax(-1)[shown]
        assert float(off.quantile(0.95)) < 0.02
        assert float(found[4][shown].abs().quantile(0.95)) < 1e-2
        assert float((found[7] * depth[..., 0] - 1)[shown].abs().quantile(0.95)) < 1e-2
    assert set(found[3].unique().tolist()) <= {0.0, 1.0}


def test_what_the_plate_hides_from_the_photo_is_not_shown_and_the_plate_hides_the_wall():
    place = (0.6, 0.0, 0.0)
    found = warped(photo(pose(place)))
    centre, directions = rays(AHEAD, K, HEIGHT, WIDTH)
    distance, on_plate = hits(centre, directions)
    points = centre + directions * distance[..., None]
    there = torch.tensor(place)
    hidden = ~on_plate & hits(there, points - there)[1]  # the wall, seen from here, with the plate before it from there
    assert hidden.sum() > 100
    assert float(found[3][inner(hidden)].mean()) < 0.02
    plate = inner(on_plate)
    torch.testing.assert_close(found[7][plate], torch.full((int(plate.sum()),), 1 / PLATE), rtol=1e-3, atol=0)


def test_outside_of_the_photo_nothing_is_shown():
    found = warped(photo(pose((0.0, 0.0, 0.0), yaw=0.5)))
    centre, directions = rays(AHEAD, K, HEIGHT, WIDTH)
    local = (centre + directions * hits(centre, directions)[0][..., None]) @ pose((0, 0, 0), 0.5)[:3, :3].T
    column = (local @ K.T)[..., 0] / local[..., 2]
    assert (column > WIDTH + 1).any() or (column < -1).any()
    assert found[3][(column > WIDTH + 1) | (column < -1)].max() == 0
    assert 0.2 < float(found[3].mean()) < 0.9
    assert warped(photo(pose((0.0, 0.0, 0.0), yaw=math.pi))).abs().max() == 0


@settings(max_examples=6, deadline=None)
@given(st.floats(-0.4, 0.4), st.floats(-0.4, 0.4), st.floats(-0.5, 0.5), st.floats(-0.3, 0.3))
def test_a_photo_warped_into_its_own_view_is_itself(x, y, z, yaw):
    w2c = pose((x, y, z), yaw)
    source = photo(w2c, confidence=0.7)
    found = warped(source, w2c)
    assert found[3].min() == 1
    torch.testing.assert_close(found[5], torch.full((HEIGHT, WIDTH), 0.7))
    # whatever the depth: between cameras at one place it has no effect
    torch.testing.assert_close(found[:3].permute(1, 2, 0), source.rgb, atol=1e-3, rtol=0)
    assert float(found[6].min()) > 0.99
    # each pixel is drawn onto the four around its place, of which a nearer one wins
    assert found[4].max() < 1e-4 and float((found[4] > -0.02).float().mean()) > 0.85


@settings(max_examples=6, deadline=None)
@given(st.floats(0.0, 0.7), st.floats(0.01, 0.3))
def test_closeness_falls_with_the_angle_between_the_rays(angle, more):
    """Cameras on a circle around the middle of the plate, at the height of the view's own."""

    def found(a):
        place = (PLATE * math.sin(a), 0.0, PLATE - PLATE * math.cos(a))
        return warped(photo(pose(place, -a)))[6, HEIGHT // 2, WIDTH // 2]

    near, far = float(found(angle)), float(found(angle + more))
    assert near == pytest.approx(math.exp(-angle / LOOK_ALIKE), abs=0.03)
    assert far < near


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.25, 10.0])
def test_the_depth_ratio_says_how_much_farther_the_photo_sees(factor):
    _, depth = view(AHEAD, K, HEIGHT, WIDTH)
    source = photo(pose((0.2, 0.0, 0.0)))
    found, exact = warped(source, depth=depth * factor), warped(source)
    shown = (found[3] > 0) & (exact[4].abs() < 1e-2)
    assert float(found[4][shown].median()) == pytest.approx(max(-1.0, -math.log(factor)), abs=5e-3)
    assert torch.equal(found[:4], exact[:4]) and torch.equal(found[5:], exact[5:])


def test_without_a_rendered_depth_photos_still_show_what_they_see():
    source = photo(pose((0.2, 0.0, 0.0)))
    nothing = torch.zeros(HEIGHT, WIDTH, 1)
    found = warped(source, depth=nothing)
    assert found[4].abs().max() == 0 and torch.equal(found[:4], warped(source)[:4])
    assert nearest_sources(AHEAD, nothing, [photo(pose((2.0, 0, 0))), source]) == [1, 0]


def test_pixels_without_depth_or_confidence_show_nothing():
    source = photo(pose((0.0, 0.0, 0.0)))
    left = torch.arange(WIDTH)[None, :, None].expand(HEIGHT, -1, 1) < WIDTH // 2
    for changed in (
        replace(source, depth=torch.where(left, 0.0, source.depth)),
        replace(source, confidence=torch.where(left, 0.0, source.confidence)),
    ):
        found = warped(changed)[3]
        assert found[:, : WIDTH // 2 - 2].max() == 0 and found[:, WIDTH // 2 + 1 :].min() == 1
    assert warped(replace(source, depth=0 * source.depth)).abs().max() == 0
    assert warped(photo(AHEAD, confidence=0.0)).abs().max() == 0


def test_a_photo_of_another_size_is_looked_up_as_well():
    rgb, _ = view(AHEAD, K, HEIGHT, WIDTH)
    found = warped(photo(pose((0.1, 0.0, 0.0)), 160, 120))
    shown = (found[3] > 0) & (found[4].abs() < 1e-2)
    assert float((found[:3].permute(1, 2, 0) - rgb).abs().amax(-1)[shown].quantile(0.95)) < 0.02
    assert float(shown.float().mean()) > 0.8


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_the_unit_of_the_world_changes_nothing_but_the_inverse_depth(factor):
    def scaled(w2c):
        out = w2c.clone()
        out[:3, 3] *= factor
        return out

    source, depth = photo(pose((0.3, 0.1, 0.0))), view(AHEAD, K, HEIGHT, WIDTH)[1]
    larger = replace(source, depth=source.depth * factor, w2c=scaled(source.w2c))
    found, other = warped(source), warp(AHEAD, K, depth * factor, larger)
    same = found[3] == other[3]
    assert float(same.float().mean()) > 0.99
    both = same & (found[3] > 0)
    assert float((found[:7] - other[:7])[:, both].abs().quantile(0.99)) < 1e-3
    assert float((other[7] * factor / found[7].clamp_min(1e-9) - 1)[both].abs().quantile(0.99)) < 1e-3


def test_photos_come_by_likeness_and_too_few_leave_the_rest_empty():
    places = [(1.5, 0.0, 0.0), (0.2, 0.0, 0.0), (0.6, 0.0, 0.0)]
    sources = [photo(pose(place)) for place in places] + [photo(pose((0.0, 0.0, 0.0), yaw=math.pi))]
    depth = view(AHEAD, K, HEIGHT, WIDTH)[1]
    assert nearest_sources(AHEAD, depth, sources) == [1, 2, 0, 3]
    cameras, _, depths = clip_of([pose((0.0, 0.0, 0.0)), pose((1.4, 0.0, 0.0))])
    two = warp_sources(cameras, depths, sources[:3], 2)
    assert two.shape == (2, 2, CHANNELS, HEIGHT, WIDTH)
    assert torch.equal(two[0, 0], warped(sources[1])) and torch.equal(two[0, 1], warped(sources[2]))
    assert torch.equal(two[1, 0], warp(cameras.w2c[1], K, depths[1], sources[0]))
    one = warp_sources(cameras, depths, sources[1:2], 3)
    assert one[:, 0].abs().max() > 0 and one[:, 1:].abs().max() == 0
    none = warp_sources(cameras, depths, [], 3)
    assert none.shape == (2, 3, CHANNELS, HEIGHT, WIDTH) and none.abs().max() == 0
    assert nearest_sources(AHEAD, depth, []) == []


def test_cracks_are_closed_and_borders_are_not_grown():
    depth = torch.full((9, 12), 2.0)
    depth[4, 5] = 0
    depth[:, 9:] = 0
    filled = filled_cracks(depth)
    assert float(filled[4, 5]) == pytest.approx(2.0)
    assert filled[:, 10:].max() == 0 and filled[:, 9].max() == 0
    known = depth > 0
    assert torch.equal(filled[known], depth[known])


def test_the_pattern_is_not_flat():
    assert colours(torch.randn(500, 3, generator=torch.Generator().manual_seed(0))).std() > 0.2
