"""`gaussians`: start values against brute force, and inputs that are not points."""

import math

import pytest
import torch
from scipy.stats import kstest

from genfusion_ns.errors import UserError
from genfusion_ns.gaussians import parameters


def cloud(n: int, seed: int = 0):
    gen = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, generator=gen), torch.rand(n, 3, generator=gen)


def test_start_values():
    xyz, rgb = cloud(50)
    params = parameters.init_gaussians(xyz, rgb, sh_degree=2, seed=1)
    assert tuple(params) == parameters.PARAMETER_NAMES
    shapes = {name: tuple(values.shape) for name, values in params.items()}
    assert shapes == {
        "means": (50, 3),
        "scales": (50, 3),
        "quats": (50, 4),
        "features_dc": (50, 3),
        "features_rest": (50, 8, 3),
        "opacities": (50, 1),
    }
    assert all(values.dtype == torch.float32 and values.isfinite().all() for values in params.values())
    torch.testing.assert_close(params["means"], xyz)
    distance = torch.cdist(xyz, xyz).topk(4, largest=False).values[:, 1:]
    expected = distance.square().mean(dim=1).sqrt()
    torch.testing.assert_close(params["scales"][:, 0].exp(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(params["scales"][:, 0], params["scales"][:, 1])
    assert params["scales"][:, 2].unique().numel() == 1
    assert params["scales"][0, 2] < params["scales"][:, :2].min()


def test_activate():
    xyz, rgb = cloud(5)
    params = parameters.init_gaussians(xyz, rgb, sh_degree=3)
    splats = parameters.activate(params)
    torch.testing.assert_close(splats.opacities, torch.full((5,), 0.1))
    assert splats.colors.shape == (5, 16, 3)
    # a splat's base colour is SH basis * coefficient + 0.5
    torch.testing.assert_close(splats.colors[:, 0] * 0.5 / math.sqrt(math.pi) + 0.5, rgb)
    assert (splats.scales > 0).all()
    params["means"].requires_grad_()
    assert parameters.activate(params).means is params["means"]
    no_bands = parameters.activate(parameters.init_gaussians(xyz, rgb, sh_degree=0))
    assert no_bands.colors.shape == (5, 1, 3)


def test_rotations_are_uniform():
    quats = parameters.random_rotations(4000, seed=0)
    torch.testing.assert_close(quats.norm(dim=-1), torch.ones(4000))
    # the z axis of a uniform rotation has a uniform height
    w, x, y, z = quats.unbind(-1)
    height = 1 - 2 * (x * x + y * y)
    assert kstest(((height + 1) / 2).numpy(), "uniform").pvalue > 1e-3
    assert torch.equal(quats, parameters.random_rotations(4000, seed=0))
    assert not torch.equal(quats, parameters.random_rotations(4000, seed=1))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_few_points(n):
    xyz, rgb = cloud(n)
    size = parameters.init_gaussians(xyz, rgb, 0, fallback_scale=0.03)["scales"][:, 0].exp()
    if n == 1:
        torch.testing.assert_close(size, torch.tensor([0.03]))
    else:
        others = torch.cdist(xyz, xyz).square().sum(1) / (n - 1)
        torch.testing.assert_close(size, others.sqrt(), rtol=1e-4, atol=1e-6)


def test_coincident_points():
    xyz, rgb = cloud(20)
    xyz[:10] = xyz[0]
    size = parameters.init_gaussians(xyz, rgb, 0)["scales"][:, 0].exp()
    assert size[:10].min() > 1e-4 * size[10:].median()
    same = parameters.init_gaussians(torch.ones(7, 3), torch.ones(7, 3), 0, fallback_scale=0.5)["scales"][:, 0].exp()
    torch.testing.assert_close(same, torch.full((7,), 0.5))


def test_size_is_capped():
    xyz, rgb = cloud(20)
    xyz[0] = 1000.0
    size = parameters.init_gaussians(xyz, rgb, 0, max_scale=0.7)["scales"][:, 0].exp()
    assert size.max() == pytest.approx(0.7, rel=1e-5)


def test_broken_points_are_dropped_and_said(caplog):
    xyz, rgb = cloud(10)
    xyz[2, 1], xyz[5, 0], rgb[7, 2] = math.nan, math.inf, math.nan
    params = parameters.init_gaussians(xyz, rgb, 1)
    assert len(params["means"]) == 8
    assert all(values.isfinite().all() for values in params.values())
    assert "dropped 2 of 10" in caplog.text


@pytest.mark.parametrize("xyz", [torch.zeros(0, 3), torch.full((3, 3), math.nan)])
def test_no_points(xyz):
    with pytest.raises(UserError, match=r"found \d initial points, none of them finite; expected at least 1"):
        parameters.init_gaussians(xyz, torch.zeros_like(xyz), 3)


def test_random_points_in_a_cube():
    xyz, rgb = parameters.random_points(1000, 2.0, seed=3)
    assert xyz.abs().max() <= 2.0
    assert xyz.abs().max() > 1.9
    assert (rgb == 0.5).all()
