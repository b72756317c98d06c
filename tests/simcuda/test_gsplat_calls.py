"""`rasterize_surfels` against gsplat's own function: the same maps and gradients from the same kernels, fewer waits."""

from __future__ import annotations

import pytest
import torch
from simulated_gsplat import Steps, install

from genfusion_ns.cameras import Camera, look_at
from genfusion_ns.raster.gsplat import GsplatRasterizer, rasterize_surfels
from genfusion_ns.raster.numba.rasterizer import NumbaRasterizer


def view(device: str = "cuda") -> Camera:
    pose = look_at(torch.tensor([0.3, -0.2, -3.0]), torch.zeros(3), torch.tensor([0.1, -1.0, 0.0]))
    K = torch.tensor([[40.0, 0, 20], [0, 41.0, 17], [0, 0, 1]])
    return Camera(torch.linalg.inv(pose), K, 37, 31).to(device)


def splats(harmonics: bool, device: str = "cuda", n: int = 12) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    shapes = [(n, 3), (n, 4), (n, 3), (n,), (n, 9, 3) if harmonics else (n, 7)]
    values = [torch.rand(shape, generator=random) for shape in shapes]
    return [x.to(device).requires_grad_() for x in values]


def summed(maps) -> torch.Tensor:
    """A scalar in which every map has a weight of its own."""
    return sum(weight * (m.square()).sum() for weight, m in zip((1.0, 0.1, 0.3, 0.7, 0.2, 0.4), maps, strict=False))


@pytest.mark.parametrize("harmonics", [True, False])
def test_maps_and_gradients_are_those_of_gsplats_own_function(cuda, monkeypatch, harmonics):
    import gsplat

    steps, camera = Steps(), view()
    steps.install(monkeypatch)
    degree = 2 if harmonics else None
    leaves = splats(harmonics)
    color, alpha, normal, _, distortion, median, meta = gsplat.rasterization_2dgs(
        *leaves,
        camera.w2c[None],
        camera.K[None],
        camera.width,
        camera.height,
        near_plane=0.2,
        far_plane=50.0,
        sh_degree=degree,
        render_mode="RGB+ED",
        distloss=True,
    )
    expected = color[0, ..., :-1], alpha[0], color[0, ..., -1:], median[0], normal[0], distortion[0], meta["radii"][0]
    expected_calls, steps.calls = steps.calls, []
    summed(expected).backward()
    wanted = [*[leaf.grad for leaf in leaves], meta["gradient_2dgs"].grad[0]]

    mine = splats(harmonics)
    signal = torch.zeros(12, 2, device="cuda", requires_grad=True)
    with cuda.record():
        *found, _ = vars(rasterize_surfels(*mine, signal, camera, degree, 0.2, 50.0)).values()
    assert not [line for _, line in cuda.syncs if "genfusion_ns" in line], cuda.table()
    summed(found).backward()
    assert sorted(steps.calls) == sorted(expected_calls)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.cpu(), b.cpu(), rtol=1e-5, atol=1e-5)
    for a, b in zip([*[leaf.grad for leaf in mine], signal.grad], wanted, strict=True):
        torch.testing.assert_close(a.cpu(), b.cpu(), rtol=1e-4, atol=1e-4)


def test_gsplats_own_function_waits_three_times_more(cuda, monkeypatch):
    import gsplat

    Steps().install(monkeypatch)
    camera = view()
    with cuda.record():
        gsplat.rasterization_2dgs(
            *splats(True),
            camera.w2c[None],
            camera.K[None],
            camera.width,
            camera.height,
            sh_degree=2,
            render_mode="RGB+ED",
            distloss=True,
        )
    waits = {kind for kind, line in cuda.syncs if "gsplat/rendering.py" in line}
    assert "_linalg_check_errors" in waits
    assert sum(n for (kind, _), n in cuda.syncs.items() if kind == "_linalg_check_errors") == 3


@pytest.mark.parametrize("harmonics", [True, False])
def test_the_stand_in_for_its_kernels_renders_what_numba_renders(cuda, monkeypatch, harmonics):
    install(monkeypatch)
    degree, results = 2 if harmonics else None, []
    for device, render in (("cpu", NumbaRasterizer()), ("cuda", GsplatRasterizer())):
        leaves = splats(harmonics, device)
        r = render(
            *leaves, view(device), sh_degree=degree, background=torch.full((3 if harmonics else 7,), 0.5, device=device)
        )
        summed((r.color, r.alpha, r.depth, r.normal)).backward()
        results.append([r.color, r.depth, r.alpha, *[leaf.grad for leaf in leaves], r.densify_signal.grad])
    assert results[0][0].std() > 0.01
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(b.cpu(), a, rtol=1e-4, atol=1e-5)


def test_the_stand_in_refuses_what_the_kernels_would(cuda, monkeypatch):
    install(monkeypatch)
    with pytest.raises(AssertionError, match="gsplat is given means, torch.float64 on cuda:0"):
        GsplatRasterizer()(*[x.double() for x in splats(True)], view(), sh_degree=2)
    with pytest.raises(ValueError, match="quats is torch.float32 on cpu"):
        means, quats, *rest = splats(True)
        GsplatRasterizer()(means, quats.cpu(), *rest, view(), sh_degree=2)
