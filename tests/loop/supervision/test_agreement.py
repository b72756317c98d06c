"""`supervision.agreement` and `supervision.refine`: what is believed, and what is not."""

from dataclasses import replace

import pytest
import torch
from loop_scene import aimed, textured
from oracle import OracleRepairer

from genfusion_ns.loop.captured import CapturedViews, SeenViews
from genfusion_ns.loop.repairers.base import IdentityRepairer, RepairedClip
from genfusion_ns.loop.round import render_clip
from genfusion_ns.loop.supervision import agreement
from genfusion_ns.loop.supervision.refine import refine_clip, with_photos
from genfusion_ns.stereo.posed_photos import PhotoDepth

CAPTURED = [aimed((3.0, y, 1.0)).resized(96, 72) for y in (-0.6, 0.0, 0.6)]
BETWEEN = [aimed((3.0, y, 1.0)).resized(96, 72) for y in (-0.6, -0.4, -0.2, 0.0)]


def measured(i: int) -> PhotoDepth:
    """The truth, and sure of it."""
    depth = textured(CAPTURED[i]).depth
    return PhotoDepth(depth, torch.ones_like(depth), 0.02 * torch.ones_like(depth))


def seen(shown=textured, depth=measured) -> SeenViews:
    return SeenViews(shown, CapturedViews(CAPTURED, lambda i: textured(CAPTURED[i]).color, depth=depth), 96)


def other(camera):
    return textured(camera, offset=2.0)


def refined_clip(repairer, cameras=BETWEEN, shown=textured):
    clip = with_photos(render_clip(shown, cameras), seen(shown), 3)
    return refine_clip(clip, repairer.repair(clip, torch.zeros(1, 1, 3)))


def warped(index: int = 1):
    return with_photos(render_clip(textured, BETWEEN), seen(), 3).warped[index]


def test_sure_photos_show_what_the_view_shows():
    colour, sure = agreement.sure_photos(warped())
    believed = sure[..., 0] > 0.5
    assert believed.float().mean() > 0.5
    assert (colour - textured(BETWEEN[1]).color)[believed].abs().mean() < 0.02
    assert sure.min() >= 0 and sure.max() <= 1


def test_of_many_photos_the_surest_says_most():
    maps = torch.zeros(3, 8, 1, 2)
    maps[:2, 3] = maps[:2, 6] = 1
    maps[0, :3], maps[1, :3] = 0.2, 0.8
    maps[0, 5], maps[1, 5] = 1.0, 0.1
    colour, sure = agreement.sure_photos(maps)
    torch.testing.assert_close(colour, torch.full((1, 2, 3), (0.2 + 0.01 * 0.8) / 1.01), atol=1e-4, rtol=0)
    assert sure.min() == 1
    doubtful = maps.clone()
    doubtful[:2, 5] = 0  # still shown, by photos whose depth nobody believes
    colour, sure = agreement.sure_photos(doubtful)
    torch.testing.assert_close(colour, torch.full((1, 2, 3), 0.5), atol=1e-3, rtol=0)
    assert sure.max() == 0
    for nothing in (0 * maps, maps[:0]):
        colour, sure = agreement.sure_photos(nothing)
        assert sure.shape == (1, 2, 1) and sure.max() == 0 and colour.isfinite().all()


def test_contradiction_tells_right_from_wrong():
    render, photos = textured(BETWEEN[1]), warped()

    def share(rgb, rendered=render.color):
        contradicted, shown = agreement.contradiction(rgb.clamp(0, 1), rendered, photos)
        assert 0.3 < shown <= 1
        return contradicted / shown

    assert share(render.color) == 0
    noise = torch.randn(render.color.shape, generator=torch.Generator().manual_seed(0))
    assert share(render.color + 0.05 * noise) < 0.02
    assert share(0.95 * render.color) < 0.02
    assert share(other(BETWEEN[1]).color) > 0.6
    assert share(1 - render.color.flip(0, 1)) > 0.6
    # what the render gets wrong too is not the repairer's doing
    assert share(other(BETWEEN[1]).color, other(BETWEEN[1]).color) == 0


def test_a_strip_that_photos_show_says_as_much_as_a_whole_frame():
    render, photos = textured(BETWEEN[1]), warped()
    strip = torch.zeros(72, 96, 1)
    strip[30:33] = 1
    narrow = photos * strip[..., 0]
    contradicted, shown = agreement.contradiction(render.color + 0.09 * strip, render.color, narrow)
    assert contradicted > 0.9 * shown > 0
    assert agreement.contradiction(render.color, render.color, 0 * photos) == (0, 0)


def test_frames_share_the_fate_of_their_clip():
    assert agreement.clip_agreements([(0.0, 0.01), (0.0, 0.0)]) == [0.5, 0.5]
    assert agreement.clip_contradiction([(0.01, 0.01), (0.0, 0.0)]) is None
    assert agreement.clip_agreements([(0.0, 0.5), (0.0, 0.01)]) == [1, 1]
    frames = [(0.1, 0.4), (0.05, 0.1), (0.0, 0.0)]
    assert agreement.clip_contradiction(frames) == pytest.approx(0.3)
    clip, first, second = (agreement.agreement(share) for share in (0.3, 0.25, 0.5))
    assert 1 > first > clip > second > 0
    expected = [(first * clip) ** 0.5, (second * clip) ** 0.5, clip]
    assert agreement.clip_agreements(frames) == pytest.approx(expected)


def test_the_truth_is_believed_and_a_lie_is_not():
    good = refined_clip(OracleRepairer(textured, 0.02))
    bad = refined_clip(OracleRepairer(textured, 0.02, wrong=other, wrong_every=1))
    assert (good.refused, bad.refused) == (False, True)
    assert good.contradicted < 0.1 < agreement.REFUSED < 0.6 < bad.contradicted
    assert min(f.agreement for f in good.frames) > 0.9
    assert max(f.agreement for f in bad.frames) < 0.05


def test_a_repairers_own_confidence_is_kept():
    class Doubtful(OracleRepairer):
        def repair(self, clip, reference):
            repaired = super().repair(clip, reference)
            return replace(repaired, confidence=0.3 * repaired.confidence)

    for frame in refined_clip(Doubtful(textured)).frames:
        assert torch.equal(frame.confidence, torch.full((72, 96, 1), 0.3))


def test_disparity_comes_back_in_the_scenes_units():
    class Bent(OracleRepairer):
        """Up to an unknown scale and shift, as monocular networks have it."""

        def repair(self, clip, reference):
            full = super().repair(clip, reference)
            return replace(full, disparity=0.2 * full.disparity + 0.3)

    for frame in refined_clip(Bent(textured, 0.0)).frames:
        assert frame.metric
        torch.testing.assert_close(frame.disparity, 1 / textured(frame.camera).depth, rtol=0.01, atol=1e-3)


def test_metric_clips_are_left_as_they_are():
    """Their colours are the photos' own, their disparity the scene's: neither is fitted to a render that may be off."""

    class Metric(OracleRepairer):
        def repair(self, clip, reference):
            full = super().repair(clip, reference)
            return replace(full, rgb=0.9 * full.rgb, disparity=1.3 * full.disparity, metric=True)

    repairer = Metric(textured, 0.0)
    for frame in refined_clip(repairer).frames:
        view = textured(frame.camera)
        torch.testing.assert_close(frame.rgb, 0.9 * view.color)
        torch.testing.assert_close(frame.disparity, 1.3 / view.depth)
        assert frame.metric


def test_a_tint_of_the_repairer_is_taken_off_where_photos_and_render_agree():
    class Tinted(OracleRepairer):
        def repair(self, clip, reference):
            full = super().repair(clip, reference)
            return replace(full, rgb=(full.rgb * torch.tensor([0.9, 1.0, 0.8])).clamp(0, 1))

    found = refined_clip(Tinted(textured, 0.0))
    tinted = torch.tensor([0.9, 1.0, 0.8])
    for frame in found.frames:
        truth = textured(frame.camera).color
        assert (frame.rgb - truth).abs().mean() < 0.5 * (truth * tinted - truth).abs().mean()


def test_without_photos_there_is_nothing_to_judge_by():
    clip = render_clip(textured, BETWEEN)
    with pytest.raises(ValueError, match="expected a clip with warped photos"):
        refine_clip(clip, IdentityRepairer().repair(clip, torch.zeros(1, 1, 3)))


def test_each_frame_gets_the_photos_nearest_to_it():
    clip = with_photos(render_clip(textured, BETWEEN), seen(), 2)
    assert clip.warped.shape == (4, 2, 8, 72, 96)
    # the first and the last frame stand where a photo was taken, and it comes first
    for frame, photo in ((0, 0), (3, 1)):
        own = clip.warped[frame, 0]
        shown = own[3] > 0
        assert shown.float().mean() > 0.95
        off = (own[:3].permute(1, 2, 0) - textured(CAPTURED[photo]).color)[shown].abs()
        assert float(off.quantile(0.95)) < 0.03


def test_surfaces_are_rendered_once_and_only_the_last_are_held(around):
    calls = []
    views = SeenViews(
        lambda c: calls.append(c) or textured(c),
        CapturedViews(around, lambda i: textured(around[i]).color),
        max_side=16,
        keep=3,
    )
    assert len(views.near(around[2], 2)) == 2
    assert views.near(around[2], 1)[0].camera.width == 16
    assert len(calls) == 2
    for i in range(len(views)):
        views[i]
    assert len(views._held) == 3
    torch.testing.assert_close(views.near(around[4], 1)[0].camera.w2c, around[4].w2c)


def test_a_photo_without_measured_depth_is_half_as_sure_as_its_render_is_opaque():
    view = seen(lambda c: replace(textured(c), alpha=0.6 * textured(c).alpha), depth=None)[0]
    assert torch.equal(view.confidence, 0.3 * torch.ones(72, 96, 1))
    source = view.source()
    assert source.rgb is view.photo and source.depth is view.depth and source.confidence is view.confidence
    known = seen()[0]
    assert known.confidence.min() == 1 and torch.equal(known.depth, textured(CAPTURED[0]).depth)


@pytest.mark.parametrize("told", [True, False])
def test_what_is_no_better_than_the_render_is_not_believed(told):
    """By the repairer's own word, or where it has none by how far it changed a pixel."""

    class HalfChanged:
        name, fingerprint = "half", ""

        def repair(self, clip, reference):
            rgb = clip.rgb.clone()
            rgb[:, :, :20] = 1 - rgb[:, :, :20]
            gain = torch.full_like(clip.depth, 0.25) if told else None
            return RepairedClip(rgb, 1 / clip.depth, 0.8 * torch.ones_like(clip.depth), metric=True, gain=gain)

    for frame in refined_clip(HalfChanged()).frames:
        if told:
            torch.testing.assert_close(frame.confidence, torch.full_like(frame.confidence, 0.2))
        else:
            assert frame.confidence[:, 20:].max() == 0
            assert frame.confidence[:, :20].mean() > 0.2 and frame.confidence.max() <= 0.8
