"""The fit: it learns what it sees, sees nothing that is hidden, and is the plugin's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from genfusion_ns.data.sequences import within_unit
from genfusion_ns.errors import UserError
from genfusion_ns.gaussians import losses
from genfusion_ns.gaussians.fit import MEANS_RATE_END, RATES, Fit, FitConfig, FitView, capped, snapshots
from genfusion_ns.raster import choose_rasterizer
from genfusion_ns.synthetic.families import make_family_scene
from genfusion_ns.synthetic.render import Studio

SIZE = (40, 24)


@pytest.fixture(scope="module")
def views() -> list[FitView]:
    """Four photos of a table."""
    staged = make_family_scene("tables", 1)
    cameras = staged.cameras(4, *SIZE)
    studio = Studio(staged.scene)
    photos = [torch.from_numpy(studio.photo(camera, 1).rgb).float() / 255 for camera in cameras]
    unit, _ = within_unit(cameras)
    return [FitView(camera.to(dtype=torch.float32), rgb) for camera, rgb in zip(unit, photos, strict=True)]


@pytest.fixture(scope="module")
def points() -> tuple[torch.Tensor, torch.Tensor]:
    """Grey points around the middle."""
    random = torch.Generator().manual_seed(0)
    return torch.randn(300, 3, generator=random), torch.full((300, 3), 0.5)


def fit_of(views, points, **changes) -> Fit:
    return Fit(views, *points, choose_rasterizer("numba"), capped(replace(FitConfig(), **changes), 400))


def error(fit: Fit, views) -> float:
    return sum(float(losses.l1(fit.render(view.camera).color, view.rgb)) for view in views) / len(views)


@pytest.mark.slow
def test_the_fit_learns_its_photos(views, points):
    fit = fit_of(views, points)
    errors = [error(fit, views)] + [error(fit, views) for _ in snapshots(fit, (120, 40))]
    assert fit.step == 120 and errors[2] < errors[1] < errors[0] and errors[2] < 0.6 * errors[0]


def test_the_fit_follows_from_its_seed(views, points):
    fits = [fit_of(views, points, seed=seed) for seed in (1, 1, 2)]
    for fit in fits:
        fit.advance(12)
    colors = [fit.render(views[0].camera).color for fit in fits]
    assert torch.equal(colors[0], colors[1]) and not torch.equal(colors[0], colors[2])


def test_hidden_pixels_make_no_difference(views, points):
    mask = torch.zeros(SIZE[1], SIZE[0], 1)
    mask[5:17, 8:30] = 1.0
    shown = [replace(view, mask=mask) for view in views]
    spoiled = [replace(view, rgb=torch.where(mask > 0, view.rgb, 1.0 - view.rgb), mask=mask) for view in views]
    fits = [fit_of(some, points) for some in (shown, spoiled)]
    for fit in fits:
        fit.advance(30)
    for name in fits[0].params:
        assert torch.equal(fits[0].params[name], fits[1].params[name]), name
    assert not torch.equal(shown[0].rgb, spoiled[0].rgb)


def test_splats_grow_up_to_the_cap_and_stay_finite(views, points):
    eager = replace(FitConfig().densifier, start=20, every=10, visible_base=2, visible_cap=2, grow_grad2d=1e-6)
    config = capped(replace(FitConfig(), run_length=200, reference=200, densifier=eager), 350)
    fit = Fit(views, *points, choose_rasterizer("numba"), config)
    fit.advance(80)
    count = len(fit.params["means"])
    assert 300 < count <= 350
    assert all(value.isfinite().all() and len(value) == count for value in fit.params.values())


def test_renders_are_over_black(views, points):
    fit = fit_of(views, (points[0] + 1000.0, points[1]))
    render = fit.render(views[0].camera)
    assert (render.color[render.alpha[..., 0] == 0] == 0).all() and (render.alpha == 0).any()


def test_rates_and_numbers_are_the_plugins():
    from genfusion_ns.plugin.config import SHORT_RUN_DENSIFIER, cpu_config
    from genfusion_ns.plugin.optimizers import gaussian_optimizers

    plugin = gaussian_optimizers()
    assert {name: entry["optimizer"].lr for name, entry in plugin.items()} == RATES
    assert {entry["optimizer"].eps for entry in plugin.values()} == {1e-15}
    assert plugin["means"]["scheduler"].lr_final == MEANS_RATE_END
    ours, theirs = FitConfig(), cpu_config("x").pipeline.model
    surfaces = ("ssim_lambda", "normal_lambda", "normal_start", "opacity_lambda", "opacity_start")
    same = ("sh_degree", "sh_degree_interval", *surfaces, "near")
    assert [getattr(ours, name) for name in same] == [getattr(theirs, name) for name in same]
    assert ours.reference == theirs.reference_iterations and theirs.distortion_lambda == 0
    assert replace(ours.densifier, max_gaussians=0) == replace(SHORT_RUN_DENSIFIER, max_gaussians=0)


def test_a_short_fit_takes_larger_steps(views, points):
    fit = fit_of(views, points, run_length=1750)
    assert {name: optimizer.param_groups[0]["lr"] for name, optimizer in fit.optimizers.items()} == {
        name: 2 * rate for name, rate in RATES.items()
    }
    fit.advance(1)
    assert fit.optimizers["means"].param_groups[0]["lr"] == 2 * RATES["means"]


def test_a_fit_needs_views_and_points(views, points):
    with pytest.raises(ValueError, match="at least one view"):
        fit_of([], points)
    with pytest.raises(UserError):
        fit_of(views, (torch.zeros(0, 3), torch.zeros(0, 3)))
