"""What must hold for every rasteriser, whatever the scene."""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raster_scenes import MAPS, random_scene, relative

from genfusion_ns.raster.numba.rasterizer import NumbaRasterizer
from genfusion_ns.raster.torch_reference import TorchRasterizer

F64 = torch.float64
BACKENDS = [pytest.param(TorchRasterizer(), id="torch"), pytest.param(NumbaRasterizer(), id="numba")]
FEW = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
SEEDS = st.integers(0, 10_000)


def _multiply(a, b):
    """Hamilton product of quaternions [..., 4] (wxyz)."""
    (w, x, y, z), (p, q, r, s) = a.unbind(-1), b.unbind(-1)
    parts = [
        w * p - x * q - y * r - z * s,
        w * q + x * p + y * s - z * r,
        w * r - x * s + y * p + z * q,
        w * s + x * r - y * q + z * p,
    ]
    return torch.stack(parts, -1)


@pytest.mark.parametrize("rasterizer", BACKENDS)
@given(seed=SEEDS)
@FEW
def test_moving_splats_and_camera_together_changes_nothing(rasterizer, seed):
    """Plain colours: harmonics are a function of the world's axes."""
    g = torch.Generator().manual_seed(seed)
    scene = random_scene(40, seed, channels=3)
    turn = torch.nn.functional.normalize(torch.randn(4, generator=g, dtype=F64), dim=0)
    conjugate = turn * torch.tensor([1.0, -1, -1, -1], dtype=F64)

    def rotate(points):
        quats = torch.cat([torch.zeros_like(points[:, :1]), points], 1)
        return _multiply(_multiply(turn, quats), conjugate)[:, 1:]

    rotation = rotate(torch.eye(3, dtype=F64)).T
    shift = torch.randn(3, generator=g, dtype=F64)
    w2c = scene.camera.w2c.clone()
    w2c[:3, :3] = scene.camera.w2c[:3, :3] @ rotation.T
    w2c[:3, 3] = scene.camera.w2c[:3, 3] - w2c[:3, :3] @ shift
    moved = replace(
        scene,
        means=rotate(scene.means) + shift,
        quats=_multiply(turn, scene.quats),
        camera=replace(scene.camera, w2c=w2c),
    )
    before, after = scene.render(rasterizer), moved.render(rasterizer)
    for name in MAPS:
        expected = getattr(before, name)
        expected = expected @ rotation.T if name == "normal" else expected
        torch.testing.assert_close(getattr(after, name), expected, atol=1e-8, rtol=0, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("rasterizer", BACKENDS)
@given(seed=SEEDS)
@FEW
def test_order_of_the_gaussians_does_not_matter(rasterizer, seed):
    scene = random_scene(40, seed)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
    one, other = scene.attach(), scene.take(order).attach()
    for s in (one, other):
        s.render(rasterizer).color.square().sum().backward()
    for name in MAPS:
        difference = getattr(one.render(rasterizer), name) - getattr(other.render(rasterizer), name)
        assert difference.abs().max() <= 1e-12, name
    for a, b in zip(one.leaves(), other.leaves(), strict=True):
        assert relative(b.grad, a.grad[order]) <= 1e-9


@pytest.mark.parametrize("rasterizer", BACKENDS)
@given(seed=SEEDS)
@FEW
def test_color_is_linear_in_the_background(rasterizer, seed):
    scene = random_scene(30, seed)
    black = replace(scene, background=None).render(rasterizer)
    lit = scene.render(rasterizer)
    torch.testing.assert_close(lit.color, black.color + (1 - black.alpha) * scene.background, atol=1e-12, rtol=0)


@pytest.mark.parametrize("rasterizer", BACKENDS)
@given(seed=SEEDS, size=st.floats(0.01, 3.0))
@FEW
def test_ranges(rasterizer, seed, size):
    scene = random_scene(60, seed, size=size)
    r = scene.render(rasterizer)
    assert r.alpha.min() >= 0 and r.alpha.max() <= 1 - 1e-4
    assert (r.normal.norm(dim=-1, keepdim=True) <= r.alpha + 1e-12).all()
    assert r.distortion.min() >= -1e-12
    hit = r.alpha > 0
    shown = r.radii > 0
    near, far = scene.means[shown, 2].amin(), scene.means[shown, 2].amax()
    for depth in (r.depth, r.median_depth):
        assert ((depth == 0) == ~hit).all()
        assert (depth[hit] >= near - 1e-9).all() and (depth[hit] <= far + 1e-9).all()


@pytest.mark.parametrize("rasterizer", BACKENDS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_renders_where_gradients_are_off(rasterizer, mode):
    scene = random_scene(30, 7).attach()
    with mode():
        plain = scene.render(rasterizer)
    assert not plain.color.requires_grad
    assert torch.equal(plain.color, scene.render(rasterizer).color)


@pytest.mark.parametrize("rasterizer", BACKENDS)
def test_equal_depths_keep_their_order(rasterizer):
    scene = random_scene(12, 5, channels=1, size=1.0)
    means = scene.means.clone()
    means[:, 2] = 2.0
    scene = replace(scene, means=means)
    expected = scene.render(TorchRasterizer()).color
    torch.testing.assert_close(scene.render(rasterizer).color, expected, atol=1e-12, rtol=0)
    swapped = scene.take(torch.arange(11, -1, -1)).render(rasterizer).color
    assert (swapped - expected).abs().max() > 1e-3


@pytest.mark.parametrize("rasterizer", BACKENDS)
def test_faces_the_camera_from_either_side(rasterizer):
    scene = random_scene(30, 6, channels=2)
    flipped = replace(
        scene, quats=_multiply(scene.quats, torch.tensor([0.0, 1, 0, 0], dtype=F64))
    )  # half a turn about x
    for name in MAPS:
        torch.testing.assert_close(
            getattr(flipped.render(rasterizer), name), getattr(scene.render(rasterizer), name), atol=1e-9, rtol=0
        )


@pytest.mark.parametrize("rasterizer", BACKENDS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quats": torch.zeros(5, 3)}, r"quats has shape \[5, 3\], expected \[5, 4\] \(5 Gaussians\)"),
        ({"opacities": torch.zeros(5, 1)}, r"opacities has shape \[5, 1\], expected \[5\]"),
        ({"colors": torch.zeros(5, 4, 3)}, r"colors has shape \[5, 4, 3\], expected \[5, K, 3\] with K >= 16"),
        ({"sh_degree": None}, r"colors has shape \[5, 16, 3\], expected \[5, C\] when sh_degree is None"),
        ({"sh_degree": 4}, "sh_degree is 4, expected 0 to 3"),
        ({"background": torch.zeros(1)}, r"background has shape \[1\], expected \[3\]"),
        ({"scales": torch.zeros(5, 3, dtype=F64)}, "scales is torch.float64 on cpu, expected torch.float32"),
    ],
)
def test_wrong_shapes_are_named(rasterizer, change, message):
    scene = replace(random_scene(5, 0, dtype=torch.float32), **change)
    with pytest.raises(ValueError, match=message):
        scene.render(rasterizer)
