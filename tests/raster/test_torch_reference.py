"""The readable rasteriser against analytic cases, a brute-force renderer and finite differences."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from raster_scenes import MAPS, Scene, brute_force, random_scene

from genfusion_ns.cameras import Camera
from genfusion_ns.raster.torch_projection import rotation_matrices, shade, spherical_harmonics
from genfusion_ns.raster.torch_reference import TorchRasterizer

F64 = torch.float64
RENDER = TorchRasterizer()
FACING = [1.0, 0.0, 0.0, 0.0]


def facing_scene(depths, opacities, colors, *, scale=0.6, x=0.0, quat=FACING, background=None, cx=8.5) -> Scene:
    """Splats on the axis, parallel to the image; their centre falls on the centre of pixel (8, 8) when cx = 8.5."""
    count = len(depths)
    K = torch.tensor([[20.0, 0, cx], [0, 20.0, 8.5], [0, 0, 1]], dtype=F64)
    return Scene(
        torch.tensor([[x, 0.0, z] for z in depths], dtype=F64),
        torch.tensor([quat] * count, dtype=F64),
        torch.full((count, 3), scale, dtype=F64),
        torch.tensor(opacities, dtype=F64),
        torch.tensor(colors, dtype=F64),
        Camera(torch.eye(4, dtype=F64), K, 17, 17),
        None,
        background,
    )


def test_single_splat_is_a_gaussian_over_the_background():
    background = torch.tensor([0.1, 0.2, 0.3], dtype=F64)
    scene = facing_scene([2.0], [0.7], [[0.9, 0.5, 0.2]], background=background)
    r = scene.render(RENDER)
    # 2 pixels from the centre; one sigma is 20 * 0.6 / 2 = 6 pixels, so that the disc is wider than the low-pass.
    alpha = 0.7 * math.exp(-0.5 * (2 / 6) ** 2)
    assert r.alpha[8, 8].item() == pytest.approx(0.7, abs=1e-12)
    assert r.alpha[8, 10].item() == pytest.approx(alpha, abs=1e-12)
    assert r.alpha[6, 8].item() == pytest.approx(alpha, abs=1e-12)
    expected = alpha * scene.colors[0] + (1 - alpha) * background
    torch.testing.assert_close(r.color[8, 10], expected, atol=1e-12, rtol=0)
    assert r.depth[8, 10].item() == pytest.approx(2.0, abs=1e-12)
    assert r.median_depth[8, 10].item() == pytest.approx(2.0, abs=1e-12)
    torch.testing.assert_close(r.normal[8, 10], torch.tensor([0, 0, -alpha], dtype=F64), atol=1e-12, rtol=0)
    assert r.distortion.abs().max() < 1e-12
    assert r.radii.tolist() == [18]


def test_tiny_splat_is_widened_by_the_low_pass():
    r = facing_scene([2.0], [0.7], [[1.0]], scale=1e-4).render(RENDER)
    assert r.alpha[8, 9].item() == pytest.approx(0.7 * math.exp(-1.0), abs=1e-12)  # exp(-2 d^2 / 2)
    assert r.alpha[9, 9].item() == pytest.approx(0.7 * math.exp(-2.0), abs=1e-12)


def test_two_splats_one_behind_the_other():
    r = facing_scene([3.0, 2.0], [0.6, 0.3], [[1.0, 0.0], [0.0, 1.0]]).render(RENDER)
    front, back = 0.3, 0.7 * 0.6
    torch.testing.assert_close(r.color[8, 8], torch.tensor([back, front], dtype=F64), atol=1e-12, rtol=0)
    assert r.alpha[8, 8].item() == pytest.approx(front + back, abs=1e-12)
    assert r.depth[8, 8].item() == pytest.approx((2 * front + 3 * back) / (front + back), abs=1e-12)
    assert r.median_depth[8, 8].item() == 3.0  # transmittance in front of the second splat is still 0.7
    assert r.distortion[8, 8].item() == pytest.approx(2 * front * back * 1.0, abs=1e-12)


def test_median_depth_is_that_of_the_last_splat_before_half_transmittance():
    r = facing_scene([2.0, 3.0], [0.6, 0.6], [[1.0], [1.0]]).render(RENDER)
    assert r.median_depth[8, 8].item() == 2.0  # behind the first splat only 0.4 is left


def test_opacity_is_capped_and_a_pixel_stops_before_it_is_empty():
    r = facing_scene([2.0, 3.0, 4.0], [1.0, 1.0, 1.0], [[1.0], [1.0], [1.0]]).render(RENDER)
    assert r.alpha[8, 8].item() == pytest.approx(0.999, abs=1e-12)  # two layers would leave 1e-6


def test_contributions_below_the_cut_are_skipped():
    assert facing_scene([2.0], [1 / 256], [[1.0]]).render(RENDER).alpha.max() == 0
    assert facing_scene([2.0], [1 / 254], [[1.0]]).render(RENDER).alpha[8, 8] > 0


def test_empty_pixels_show_the_background():
    background = torch.tensor([0.3], dtype=F64)
    r = facing_scene([2.0], [0.9], [[1.0]], scale=0.05, background=background).render(RENDER)
    assert r.color[0, 0].item() == pytest.approx(0.3)
    assert all(getattr(r, name)[0, 0].abs().max() == 0 for name in MAPS if name != "color")


def test_near_and_far_planes():
    r = facing_scene([0.5, 2.0, 9.0, -1.0], [0.5] * 4, [[1.0]] * 4).render(RENDER, near=1.0, far=5.0)
    assert (r.radii > 0).tolist() == [False, True, False, False]
    assert r.depth[8, 8].item() == pytest.approx(2.0)


def test_principal_point_shifts_the_image():
    # Opacities under 0.35 fade out before three sigmas, so that no tile border cuts them.
    centred = facing_scene([2.0, 3.0], [0.3, 0.3], [[1.0], [0.5]], scale=0.2).render(RENDER)
    shifted = facing_scene([2.0, 3.0], [0.3, 0.3], [[1.0], [0.5]], scale=0.2, cx=12.5).render(RENDER)
    for name in MAPS:
        torch.testing.assert_close(getattr(shifted, name)[:, 4:], getattr(centred, name)[:, :-4], atol=1e-12, rtol=0)


def test_tilted_splat_is_foreshortened():
    turn = math.radians(60)
    quat = [math.cos(turn / 2), 0.0, math.sin(turn / 2), 0.0]  # about y: the x extent shrinks
    r = facing_scene([50.0], [0.9], [[1.0]], scale=15.0, quat=quat).render(RENDER)
    # The disc's first axis is (cos, 0, -sin) of the turn: the ray 3 pixels to the right has x / z = 3 / 20 and meets it
    # at 15 u cos = 3 / 20 (50 - 15 u sin).
    u = 0.15 * 50 / (15 * math.cos(turn) + 0.15 * 15 * math.sin(turn))
    assert r.alpha[8, 11].item() == pytest.approx(0.9 * math.exp(-(u**2) / 2), abs=1e-9)
    assert r.alpha[11, 8].item() == pytest.approx(0.9 * math.exp(-0.5 / 4), abs=1e-9)  # untouched: 6 pixels a sigma
    normal = r.normal[8, 8] / r.alpha[8, 8]
    expected = torch.tensor([math.sin(turn), 0, math.cos(turn)], dtype=F64)
    torch.testing.assert_close(normal, -expected, atol=1e-9, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_matches_brute_force(seed):
    scene = random_scene(200, seed, width=35, height=18, channels=2, size=0.15)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=F64)).Q
    w2c = torch.eye(4, dtype=F64)
    w2c[:3, :3], w2c[:3, 3] = turn * torch.linalg.det(turn), torch.tensor([0.3, -0.2, 0.4], dtype=F64)
    # The same view as seen from another place, so that world and camera axes differ.
    world = (scene.means - w2c[:3, 3]) @ w2c[:3, :3]
    scene = replace(scene, means=world, camera=replace(scene.camera, w2c=w2c))
    scene = scene.take((scene.scales[:, :2].amax(1) < 0.3).nonzero()[:, 0])
    assert len(scene.means) > 100
    expected, actual = brute_force(scene), scene.render(RENDER)
    assert expected["alpha"].max() > 0.9 and expected["distortion"].max() > 0.01
    for name in MAPS:
        # The oracle walks around the bounding box in finite steps.
        np.testing.assert_allclose(getattr(actual, name).detach().numpy(), expected[name], atol=2e-6, err_msg=name)


def test_harmonics_are_orthonormal_over_the_sphere():
    nodes, weights = np.polynomial.legendre.leggauss(8)
    azimuth = np.arange(16) * 2 * math.pi / 16
    z, turn = (torch.tensor(a.reshape(-1)) for a in np.meshgrid(nodes, azimuth, indexing="ij"))
    radius = (1 - z * z).sqrt()
    basis = spherical_harmonics(3, torch.stack([radius * turn.cos(), radius * turn.sin(), z], 1))
    weight = torch.tensor(np.repeat(weights, 16)) * 2 * math.pi / 16
    gram = (basis * weight[:, None]).T @ basis
    torch.testing.assert_close(gram, torch.eye(16, dtype=F64), atol=1e-12, rtol=0)


def test_first_harmonics_have_the_order_and_signs_of_gaussian_splatting():
    directions = torch.eye(3, dtype=F64)
    first = spherical_harmonics(1, directions)[:, 1:]
    expected = math.sqrt(3 / (4 * math.pi)) * torch.tensor([[0, 0, -1.0], [-1, 0, 0], [0, 1, 0]], dtype=F64)
    torch.testing.assert_close(first, expected, atol=1e-12, rtol=0)


def test_shading_adds_a_half_and_clamps_at_black():
    sh = torch.zeros(1, 4, 3, dtype=F64)
    sh[0, 0] = torch.tensor([0.0, 1.0, -9.0])
    color = shade(torch.tensor([[0.0, 0, 2]], dtype=F64), sh, 0, torch.zeros(3, dtype=F64))
    expected = torch.tensor([[0.5, 0.5 + 1 / math.sqrt(4 * math.pi), 0.0]], dtype=F64)
    torch.testing.assert_close(color, expected, atol=1e-12, rtol=0)


def test_rotation_matrices_ignore_the_norm():
    quats = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    matrices = rotation_matrices(quats)
    torch.testing.assert_close(matrices @ matrices.transpose(1, 2), torch.eye(3, dtype=F64).expand(5, 3, 3))
    torch.testing.assert_close(rotation_matrices(-7.0 * quats), matrices)


def test_densify_signal_is_the_gradient_of_a_shift_in_pixels():
    """Discs parallel to the image: a shift of the centre by one pixel is a shift of the splat by z / f, both in
    gsplat's definition and in the world, as long as no low-pass plays in."""
    scene = facing_scene([2.0, 2.5, 3.0], [0.5, 0.6, 0.4], [[1.0], [0.2], [0.6]], scale=0.5, x=0.07).attach()
    r = scene.render(RENDER)
    weights = torch.randn(17, 17, 1, generator=torch.Generator().manual_seed(0), dtype=F64)
    (weights * r.color).sum().backward()
    expected = scene.means.grad[:, :2] * scene.means.detach()[:, 2:] / 20.0
    assert expected.abs().min() > 1e-3
    torch.testing.assert_close(r.densify_signal.grad, expected, atol=1e-12, rtol=1e-9)


def test_large_views_are_recomputed_with_the_same_result(monkeypatch):
    scene = random_scene(20, 3)
    results = []
    for limit in (10**9, 0):
        monkeypatch.setattr("genfusion_ns.raster.torch_reference._RECOMPUTE_ABOVE", limit)
        attached = scene.attach()
        attached.render(RENDER).color.square().sum().backward()
        results.append([leaf.grad for leaf in attached.leaves()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)
