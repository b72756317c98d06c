"""`loop.plane_sweep`: photos find their place where the splats' surface is wrong, and say where they do not."""

import torch
from loop_scene import aimed, textured

from genfusion_ns.cameras import Camera
from genfusion_ns.loop.captured import CapturedViews, SeenViews
from genfusion_ns.loop.plane_sweep import Match, plane_sweep
from genfusion_ns.loop.reproject import reproject

ASIDE = [(3.0, y, 1.0) for y in (-0.6, 0.5, 0.9)]


def big(camera: Camera) -> Camera:
    return camera.resized(96, 72)


def photos_of(positions, truth=textured, shown=textured) -> SeenViews:
    cameras = [big(aimed(position)) for position in positions]
    return SeenViews(shown, CapturedViews(cameras, lambda i: truth(cameras[i]).color), max_side=96)


def swept(target: Camera, seen: SeenViews, depth_scale: float = 1.0, rgb=None) -> Match:
    render = textured(target, depth_scale=depth_scale)
    return plane_sweep(target, render.color if rgb is None else rgb, render.depth, seen.near(target, 4))


def blurred(image: torch.Tensor) -> torch.Tensor:
    channels = image.permute(2, 0, 1)[None]
    return torch.nn.functional.avg_pool2d(channels, 9, 1, 4, count_include_pad=False)[0].permute(1, 2, 0)


def test_at_a_wrong_depth_photos_are_found_where_warping_misses_them():
    target = big(aimed((3.0, 0.0, 1.0)))
    truth = textured(target)
    ball = truth.depth[..., 0] < 3
    for scale in (0.75, 1.3):
        wrong = lambda camera, scale=scale: textured(camera, depth_scale=scale)  # noqa: E731
        seen = photos_of(ASIDE, shown=wrong)
        found = swept(target, seen, scale, rgb=blurred(truth.color))
        shown = wrong(target)
        warped = reproject(target, shown.depth, shown.alpha, seen.near(target, 4), seen.unit)
        error, without = ((rgb - truth.color)[ball].abs().mean() for rgb in (found.rgb, warped.rgb))
        assert error < 0.03, (scale, error)
        assert error < 0.4 * without, (scale, error, without)


def test_agreement_tells_where_the_colours_are_right():
    target = big(aimed((3.0, 0.0, 1.0)))
    truth = textured(target)
    seen = photos_of(ASIDE)
    found = swept(target, seen)
    sure = found.agreement[..., 0] > 0.5
    assert sure.float().mean() > 0.5
    assert (found.rgb - truth.color)[sure].abs().mean() < 0.02
    # a ball that has turned by a quarter of its pattern in one photo of three
    lying = photos_of(ASIDE, truth=lambda camera: textured(camera, offset=3.0 * float(camera.position[1] > 0.7)))
    fooled = swept(target, lying)
    ball = truth.depth[..., 0] < 3
    assert fooled.agreement[ball].mean() < 0.6 * found.agreement[ball].mean()


def test_one_photo_agrees_with_nobody():
    target = big(aimed((3.0, 0.0, 1.0)))
    found = swept(target, photos_of(ASIDE[:1]))
    assert found.agreement.max() == 0
    assert (found.rgb - textured(target).color).abs().mean() < 0.05


def test_what_no_photo_reaches_stays_as_it_is_rendered():
    target = big(aimed((4.0, 0.0, 1.0), target=(8.0, 0.0, 1.0)))  # behind the photos' backs
    found = swept(target, photos_of(ASIDE))
    assert torch.equal(found.rgb, textured(target).color)
    assert found.agreement.max() == 0


def test_holes_are_searched_too():
    target = big(aimed((3.0, 0.0, 1.0)))
    truth = textured(target)
    ball = truth.depth[..., 0] < 3
    holed = ball & (torch.arange(96) > 48)
    rgb = torch.where(holed[..., None], 0.0, truth.color)
    depth = torch.where(holed[..., None], 0.0, truth.depth)
    found = plane_sweep(target, rgb, depth, photos_of(ASIDE).near(target, 4))
    assert found.rgb.isfinite().all()
    assert (found.rgb - truth.color)[holed].abs().mean() < 0.5 * (rgb - truth.color)[holed].abs().mean()
    nothing = plane_sweep(target, torch.zeros_like(rgb), torch.zeros_like(depth), photos_of(ASIDE).near(target, 4))
    assert nothing.rgb.isfinite().all() and nothing.agreement.isfinite().all()


def test_large_views_are_searched_on_a_smaller_grid_and_looked_up_on_their_own():
    target = aimed((3.0, 0.0, 1.0)).resized(640, 480)
    truth = textured(target)
    ball = truth.depth[..., 0] < 3
    cameras = [aimed(position).resized(640, 480) for position in ASIDE]
    seen = SeenViews(textured, CapturedViews(cameras, lambda i: textured(cameras[i]).color), max_side=96)
    found = plane_sweep(target, blurred(truth.color), 1.2 * truth.depth, seen.near(target, 4))
    assert found.rgb.shape == truth.color.shape and found.agreement.shape == truth.depth.shape
    assert (found.rgb - truth.color)[ball].abs().mean() < 0.03
    assert found.agreement[ball].mean() > 0.5
