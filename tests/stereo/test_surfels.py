"""First splats against the exact surface."""

import pytest
import torch
from stereo_scene import certain, colours, photo_at

from genfusion_ns.gaussians.parameters import facing
from genfusion_ns.stereo.posed_photos import PhotoDepth
from genfusion_ns.stereo.surfels import dithered, sampling_weight, surfels_of


def scene(count=2):
    made = [photo_at(p, 96, 64) for p in ((3.0, 0.3, 0.4), (3.0, -0.3, 0.4), (3.0, 0.0, 0.9))[:count]]
    return [p for p, _ in made], [d for _, d in made]


def on_surface(xyz):
    """[N] distance from the ball or the wall."""
    radius = xyz.norm(dim=-1)
    return torch.minimum((radius - 1).abs(), (radius - 6).abs())


def test_sure_pixels_become_splats_on_the_surface_with_its_colour_and_normal():
    photos, depths = scene()
    made = surfels_of(photos, [certain(d) for d in depths], 800, seed=1)
    assert 600 <= len(made.xyz) <= 800
    placed = on_surface(made.xyz) < 1e-3
    assert float(placed.float().mean()) == 1
    assert float((made.rgb - colours(made.xyz))[placed].abs().max()) < 0.02
    outward = torch.nn.functional.normalize(made.xyz, dim=-1) * torch.where(made.xyz.norm(dim=-1) < 2, 1, -1)[:, None]
    known = made.normals.norm(dim=-1) > 0.5
    assert float(known.float().mean()) > 0.8
    assert float((outward * made.normals)[known].sum(-1).median()) > 0.97


def test_doubtful_pixels_lie_where_the_estimator_or_a_sure_place_nearby_says_by_their_confidence():
    photos, depths = scene(1)
    sure = torch.zeros_like(depths[0], dtype=torch.bool)
    sure[::4, ::4] = True
    shares = []
    for doubt in (0.05, 0.25):
        confidence = torch.where(sure, 1.0, doubt)
        estimate = PhotoDepth(torch.where(sure, depths[0], 20.0), confidence, torch.full_like(depths[0], 0.02))
        made = surfels_of(photos, [estimate], 1500, seed=1)
        z = made.xyz @ photos[0].camera.w2c[2, :3] + photos[0].camera.w2c[2, 3]
        wrong = z > 15
        shares.append(float(wrong.float().mean()))
        assert float(on_surface(made.xyz[~wrong]).median()) < 0.15
        assert float(made.normals[wrong].abs().max()) == 0
    assert 0.05 < shares[0] < 0.15 and 0.4 < shares[1] < 0.55


def test_nothing_starts_far_beyond_what_is_known():
    photos, depths = scene(1)
    low = torch.full_like(depths[0], 0.1)
    made = surfels_of(photos, [PhotoDepth(1e4 * torch.ones_like(low), low, low)], 300, seed=1)
    assert float(made.xyz.norm(dim=-1).max()) < 3.0 * photos[0].depth_bounds[1] * 4


def test_edges_are_sampled_more_than_plain_areas():
    photo, _ = photo_at((3.0, 0.3, 0.4), 96, 64)
    rgb = torch.zeros(64, 96, 3)
    rgb[:, 48:] = 1.0
    object.__setattr__(photo, "rgb", rgb)
    weight = sampling_weight(photo)
    assert float(weight[:, 46:50].min()) > 2 and float(weight[:, :40].max()) == 1


def test_seeds_choose_other_pixels_and_the_same_seed_the_same():
    photos, depths = scene()
    a, b, c = (surfels_of(photos, [certain(d) for d in depths], 300, seed) for seed in (1, 1, 2))
    assert torch.equal(a.xyz, b.xyz)
    assert a.xyz.shape != c.xyz.shape or not torch.equal(a.xyz, c.xyz)


def test_dithering_keeps_the_chances():
    chance = torch.zeros(32, 48)
    chance[:, :24], chance[:, 24:] = 0.5, 0.1
    chosen = dithered(chance, torch.Generator().manual_seed(0))
    left = (chosen % 48 < 24).sum()
    assert int(left) == pytest.approx(0.5 * 32 * 24, abs=3) and len(chosen) - int(left) == pytest.approx(77, abs=3)
    assert len(chosen.unique()) == len(chosen)


def test_facing_turns_z_to_the_normal():
    normals = torch.nn.functional.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(1)), dim=-1)
    normals = torch.cat([normals, torch.tensor([[0.0, 0.0, -1.0], [0.0, 0.0, 1.0]])])
    w, x, y, z = facing(normals).unbind(-1)
    turned = torch.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], -1)
    torch.testing.assert_close(turned, normals, atol=1e-5, rtol=1e-5)
