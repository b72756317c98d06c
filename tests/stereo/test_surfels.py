"""First splats against the exact surface."""

import pytest
import torch
from stereo_scene import certain, colours, photo_at

from genfusion_ns.gaussians import facing
from genfusion_ns.stereo.surfels import ALONG_RAY, dithered, sampling_weight, surfels_of
from genfusion_ns.stereo.views import PhotoDepth


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
    assert float(on_surface(made.xyz).max()) < 1e-3
    assert float((made.rgb - colours(made.xyz)).abs().max()) < 0.02
    outward = torch.nn.functional.normalize(made.xyz, dim=-1) * torch.where(made.xyz.norm(dim=-1) < 2, 1, -1)[:, None]
    known = made.normals.norm(dim=-1) > 0.5
    assert float(known.float().mean()) > 0.8
    assert float((outward * made.normals)[known].sum(-1).median()) > 0.97
    assert float(made.opacities.min()) > 0.5


def test_size_is_half_of_the_distance_to_the_next_sample():
    photos, depths = scene(1)
    made = surfels_of(photos, [certain(depths[0])], 1000, seed=1)
    near = made.xyz.norm(dim=-1) < 2
    facing_us = near & ((made.normals * torch.nn.functional.normalize(photos[0].camera.position, dim=0)).sum(-1) > 0.8)
    places = made.xyz[facing_us]
    gap = torch.cdist(places, places).fill_diagonal_(9).min(1).values
    assert 0.3 < float(made.radii[facing_us].median() / gap.median()) < 1.2


def test_doubtful_pixels_become_fainter_samples_along_their_rays():
    photos, depths = scene(1)
    estimate = PhotoDepth(depths[0], torch.full_like(depths[0], 0.1), torch.full_like(depths[0], 0.2))
    made = surfels_of(photos, [estimate], 600, seed=1)
    assert len(made.xyz) % len(ALONG_RAY) == 0 or len(made.xyz) == 600
    off = on_surface(made.xyz)
    assert 0.2 < float((off < 1e-3).float().mean()) < 0.5
    assert float(off.max()) > 0.2
    assert float(made.opacities.max()) < 0.3


def test_a_surface_that_two_photos_show_is_sampled_once():
    photos, depths = scene()
    estimates = [certain(d) for d in depths]
    alone, repeated = sampling_weight(1, photos[1:2] * 2, estimates[1:2] * 2), sampling_weight(1, photos, estimates)
    assert float(sampling_weight(0, photos, estimates).mean()) > 3 * float(alone.mean())
    assert float((repeated < 0.5 * sampling_weight(0, photos[1:], estimates[1:])).float().mean()) > 0.6


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
