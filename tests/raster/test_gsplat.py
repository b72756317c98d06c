"""The CUDA rasteriser: against the torch reference where there is CUDA; its adapter's logic everywhere."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from raster_scenes import MAPS, gradients, random_scene, relative

from genfusion_ns.raster import Render, gsplat
from genfusion_ns.raster.gsplat import GsplatRasterizer
from genfusion_ns.raster.torch_reference import TorchRasterizer

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="gsplat's kernels need CUDA")
RENDER = GsplatRasterizer()


def to_cuda(scene):
    """A float32 copy on the GPU."""
    scene = scene.to(torch.float32)
    moved = {n: getattr(scene, n).cuda() for n in ("means", "quats", "scales", "opacities", "colors", "background")}
    return replace(scene, **moved, camera=scene.camera.to("cuda"))


@needs_cuda
@pytest.mark.parametrize("channels", [None, 1, 3, 5])
@pytest.mark.parametrize(
    ("size", "bound"),
    # on an H200 gradients of splats that cover the image came off by .02 to .08 (torch in float32: 1e-5)
    [(0.02, 0.02), (0.2, 0.1)],
)
def test_agrees_with_torch(channels, size, bound):
    scene = random_scene(300, 1, width=70, height=50, channels=channels, size=size)
    expected, expected_gradients = gradients(scene, TorchRasterizer())
    actual, actual_gradients = gradients(to_cuda(scene), RENDER)
    for name in MAPS:
        difference = (getattr(actual, name).cpu().double() - getattr(expected, name)).abs()
        # A contribution next to the cut of 1/255 may be on either side of it.
        assert difference.mean() < 5e-4, name
    assert ((actual.radii.cpu() - expected.radii).abs() <= 1).all()
    pairs = zip(actual_gradients[:-1], expected_gradients[:-1], strict=True)
    off = [relative(a.cpu().double(), b) for a, b in pairs]
    assert max(off) <= bound, off
    # gsplat 1.4.0 writes this signal while other threads still add to it: the sum may lack a few of its terms.
    signal, exact = actual_gradients[-1].cpu().double(), expected_gradients[-1]
    assert torch.nn.functional.cosine_similarity(signal.flatten(), exact.flatten(), 0) > 0.9


@needs_cuda
def test_degenerate_gaussians_on_cuda():
    scene = to_cuda(random_scene(20, 2))
    scene.means[0], scene.quats[1], scene.scales[2], scene.opacities[3] = torch.nan, 0.0, torch.inf, torch.nan
    scene.colors[4], scene.scales[5] = torch.nan, 1e30
    render, grads = gradients(scene, RENDER)
    assert all(getattr(render, name).isfinite().all() for name in MAPS)
    assert all(g.isfinite().all() for g in grads)


class FakeKernels:
    """Stands in for `rasterize_surfels`: records the call, renders with the torch reference."""

    def __init__(self):
        self.call = None

    def __call__(self, means, quats, scales, opacities, colors, signal, camera, sh_degree, near, far):
        self.call = SimpleNamespace(means=means, colors=colors, near=near, far=far)
        options = {"sh_degree": sh_degree, "near": near, "far": far}
        r = TorchRasterizer()(means, quats, scales, opacities, colors, camera, **options)
        # The gradient of the signal is 0, 1, 2, ... times that of the sum over the colours.
        tied = r.color + (signal * torch.arange(2.0 * len(means), dtype=means.dtype).reshape(-1, 2)).sum()
        return Render(tied, r.alpha, r.depth, r.median_depth, r.normal, r.distortion, r.radii, signal)


@pytest.fixture
def fake(monkeypatch):
    kernels = FakeKernels()
    monkeypatch.setattr(gsplat, "rasterize_surfels", kernels)
    return kernels


@pytest.mark.parametrize(("channels", "padded"), [(None, None), (1, 1), (3, 3), (4, 7), (7, 7), (8, 15)])
def test_maps_are_those_of_gsplat_without_the_padding(fake, channels, padded):
    scene = random_scene(30, 3, channels=channels)
    expected, actual = scene.render(TorchRasterizer()), scene.render(RENDER)
    for name in MAPS:
        torch.testing.assert_close(getattr(actual, name), getattr(expected, name), atol=1e-12, rtol=0)
    assert torch.equal(actual.radii, expected.radii) and actual.radii.dtype == torch.int32
    if padded is not None:
        # With the depth behind them that is a number gsplat has kernels for: it pads with garbage otherwise.
        assert fake.call.colors.shape == (30, padded)


def test_near_and_far_are_passed_on(fake):
    random_scene(5, 4).render(RENDER, near=0.2, far=7.0)
    assert fake.call.near == 0.2 and fake.call.far == 7.0


def test_the_signal_gets_the_gradient_of_the_kernels(fake):
    scene = random_scene(6, 5).attach()
    r = scene.render(RENDER)
    assert r.densify_signal.shape == (6, 2) and r.densify_signal.requires_grad and r.densify_signal.grad is None
    r.color[0, 0, 0].backward()
    expected = torch.arange(12.0, dtype=torch.float64).reshape(6, 2)
    assert torch.equal(r.densify_signal.grad, expected)


@pytest.mark.parametrize(
    ("field", "value"),
    [("means", torch.nan), ("quats", 0.0), ("quats", torch.inf), ("scales", 1e30), ("opacities", torch.nan)]
    + [("colors", -torch.inf)],
)
def test_degenerate_gaussians_are_moved_out_of_sight(fake, field, value):
    scene = random_scene(8, 6, dtype=torch.float32).attach()
    with torch.no_grad():
        getattr(scene, field)[2] = value
    r = scene.render(RENDER)
    assert torch.equal(fake.call.means[2], scene.camera.position)
    kept = torch.arange(8) != 2
    assert torch.equal(fake.call.means[kept], scene.means[kept])
    r.depth.sum().backward()
    assert (scene.means.grad[2] == 0).all()


def test_without_gaussians_gsplat_is_not_called(fake):
    scene = random_scene(4, 7).take(torch.arange(0))
    r = scene.render(RENDER)
    assert fake.call is None
    assert torch.equal(r.color.detach(), scene.background.expand_as(r.color))


def test_too_many_channels_are_named(fake):
    with pytest.raises(ValueError, match="colors has 600 channels, gsplat can take 511"):
        random_scene(2, 8, channels=600).render(RENDER)
