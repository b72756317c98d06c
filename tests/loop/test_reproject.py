"""`loop.reproject` and `loop.paste`: photos where they belong, and only there."""

from dataclasses import replace

import pytest
import torch
from loop_scene import aimed, textured

from genfusion_ns.cameras import Camera
from genfusion_ns.loop.captured import CapturedViews, SeenViews
from genfusion_ns.loop.paste import paste
from genfusion_ns.loop.reproject import reproject

BIG = {"width": 96, "height": 72}


def big(camera: Camera) -> Camera:
    return camera.resized(BIG["width"], BIG["height"])


def seen_from(cameras, truth=textured, shown=textured) -> SeenViews:
    """Photos of `truth`, splats that show `shown`."""
    return SeenViews(shown, CapturedViews(cameras, lambda i: truth(cameras[i]).color), max_side=96)


def warp(camera, seen, shown=textured, n=4):
    render = shown(camera)
    return reproject(camera, render.depth, render.alpha, seen.near(camera, n), seen.unit)


def test_warped_photos_show_what_the_view_shows():
    cameras = [big(aimed((3.0, 0.1 * i, 1.0))) for i in range(3)]
    target = big(aimed((3.0, 0.15, 1.02)))
    found = warp(target, seen_from(cameras))
    truth = textured(target).color
    sure = found.trust[..., 0] > 0.5
    assert sure.float().mean() > 0.8
    assert (found.rgb - truth)[sure].abs().mean() < 0.02
    assert (found.rgb - truth)[sure].abs().quantile(0.95) < 0.08


def test_what_the_photo_does_not_see_is_not_trusted():
    # from the other side: the ball hides its back, and the wall behind the new view is out of the photo's frame
    found = warp(big(aimed((-3.0, 0.0, 1.0))), seen_from([big(aimed((3.0, 0.0, 1.0)))]))
    ball = textured(big(aimed((-3.0, 0.0, 1.0)))).depth[..., 0] < 4
    assert found.seen[ball].max() == 0
    assert found.trust.max() < 0.01


def test_an_occluder_is_not_smeared_over_what_it_hides():
    photo, target = big(aimed((3.0, 0.0, 1.0))), big(aimed((2.9, 0.8, 1.0)))
    found = warp(target, seen_from([photo]))
    shown = found.seen[..., 0] > 0
    assert 0.3 < shown.float().mean() < 0.98
    assert (found.rgb - textured(target).color)[shown].abs().mean() < 0.04


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.5])
def test_at_the_photos_own_place_depth_does_not_matter(scale):
    camera = big(aimed((3.0, 0.0, 1.0)))
    others = [big(aimed((3.0, 0.5, 1.0))), big(aimed((3.0, -0.5, 1.0)))]
    wrong = lambda c: textured(c, depth_scale=scale)  # noqa: E731
    found = warp(camera, seen_from([camera, *others], shown=wrong), shown=wrong)
    assert found.trust.min() == 1
    torch.testing.assert_close(found.rgb, textured(camera).color, atol=2e-3, rtol=0)


def test_a_window_of_the_photo_covers_just_that(around):
    full = big(around[0])
    window = full.window(20, 10, 40, 30)
    seen = SeenViews(textured, CapturedViews([window], lambda i: textured(window).color), max_side=96)
    found = warp(full, seen, n=1)
    expected = torch.zeros(72, 96)
    expected[10:40, 20:60] = 1
    assert torch.equal(found.trust[..., 0], expected)
    torch.testing.assert_close(found.rgb[10:40, 20:60], textured(window).color, atol=2e-3, rtol=0)


def test_one_photo_from_the_side_is_not_trusted_but_two_that_agree_are():
    left, right, target = (big(aimed((3.0, y, 1.0))) for y in (-1.2, 1.2, 0.0))
    alone, both = warp(target, seen_from([left])), warp(target, seen_from([left, right]))
    ball = textured(target).depth[..., 0] < 3
    shared = ball & (alone.seen[..., 0] > 0) & (warp(target, seen_from([right])).seen[..., 0] > 0)
    assert shared.sum() > 100
    assert alone.trust[shared].mean() < 0.15
    assert both.trust[shared].mean() > 0.5
    # photos of a wrong depth contradict each other, and are not trusted
    wrong = lambda c: textured(c, depth_scale=0.8)  # noqa: E731
    fooled = warp(target, seen_from([left, right], shown=wrong), shown=wrong)
    assert fooled.trust[shared].mean() < 0.5 * both.trust[shared].mean()


def test_empty_renders_trust_nothing(around):
    nothing = lambda c: replace(  # noqa: E731
        textured(c), depth=torch.zeros(c.height, c.width, 1), alpha=torch.zeros(c.height, c.width, 1)
    )
    found = warp(around[0], seen_from(around[1:], shown=nothing), shown=nothing)
    assert found.trust.max() == found.seen.max() == 0
    assert found.rgb.isfinite().all()


def test_surfaces_are_rendered_once_and_only_the_last_are_held(around):
    calls = []
    seen = SeenViews(
        lambda c: calls.append(c) or textured(c),
        CapturedViews(around, lambda i: textured(around[i]).color),
        max_side=16,
        keep=3,
    )
    assert len(seen.near(around[2], 2)) == 2
    assert seen.near(around[2], 1)[0].camera.width == 16
    assert len(calls) == 2
    for i in range(len(seen)):
        seen[i]
    assert len(seen._held) == 3
    torch.testing.assert_close(seen.near(around[4], 1)[0].camera.w2c, around[4].w2c)


def test_paste_replaces_sure_pixels_and_keeps_the_rest():
    rgb, confidence = torch.zeros(1, 5, 3), torch.full((1, 5, 1), 0.3)
    trust = torch.tensor([0.0, 0.25, 0.5, 0.8, 1.0]).view(1, 5, 1)
    found = warp(aimed((3, 0, 1)), seen_from([aimed((3, 0, 1))]))
    photos = replace(found, rgb=torch.ones(1, 5, 3), trust=trust)
    pasted, believed = paste(rgb, confidence, photos)
    torch.testing.assert_close(pasted[0, :, 0], torch.tensor([0.0, 0.5, 1.0, 1.0, 1.0]))
    torch.testing.assert_close(believed[0, :, 0], torch.tensor([0.3, 0.3, 0.5, 0.8, 1.0]))


def test_near_falls_with_the_angle_between_photo_and_view():
    target = big(aimed((3.0, 0.0, 0.0)))
    centre = (36, 48)
    for degrees in (0.0, 20.0, 60.0):
        place = torch.deg2rad(torch.tensor(degrees))
        # around the point of the ball that the target's middle shows
        photo = big(aimed((1 + 2 * float(place.cos()), 2 * float(place.sin()), 0.0), target=(1.0, 0.0, 0.0)))
        found = warp(target, seen_from([photo]))
        assert float(found.near[centre]) == pytest.approx(float(torch.exp(torch.tensor(-degrees / 20.0))), abs=0.02)
    behind = warp(target, seen_from([big(aimed((4.0, 0.0, 0.0), target=(8.0, 0.0, 0.0)))]))
    assert behind.near.max() == 0
