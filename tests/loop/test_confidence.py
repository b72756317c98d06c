"""`loop.confidence` and `loop.refine`: what is believed, and what is not."""

from dataclasses import replace

import pytest
import torch
from loop_scene import aimed, textured
from oracle import OracleRepairer

from genfusion_ns.loop import confidence
from genfusion_ns.loop.captured import CapturedViews, SeenViews
from genfusion_ns.loop.config import LoopConfig
from genfusion_ns.loop.refine import merge, refine_clip, with_photos
from genfusion_ns.loop.repair import IdentityRepairer
from genfusion_ns.loop.reproject import reproject
from genfusion_ns.loop.round import render_clip

CAPTURED = [aimed((3.0, y, 1.0)).resized(96, 72) for y in (-0.6, 0.0, 0.6)]
BETWEEN = [aimed((3.0, y, 1.0)).resized(96, 72) for y in (-0.6, -0.4, -0.2, 0.0)]
ALL = torch.ones(72, 96, 1)


def seen(shown=textured) -> SeenViews:
    return SeenViews(shown, CapturedViews(CAPTURED, lambda i: textured(CAPTURED[i]).color), 96)


def other(camera):
    return textured(camera, offset=2.0)


def refined_clip(repairer, config=None, cameras=BETWEEN, shown=textured):
    config = config or LoopConfig()
    clip = with_photos(render_clip(shown, cameras), seen(shown), config.neighbours)
    return refine_clip(clip, repairer.repair(clip, torch.zeros(1, 1, 3)), config)


def refined(*args, **settings):
    return refined_clip(*args, **settings).frames


def test_difference_forgives_shifts_but_no_other_content():
    image = textured(CAPTURED[0]).color
    assert confidence.difference(image, image).max() == 0
    shifted = float(confidence.difference(image, image.roll(2, 1)).mean())
    assert shifted < 0.3 * float(confidence.difference(image, other(CAPTURED[0]).color).mean())
    assert confidence.difference(image[:1, :1], image[:1, :1]).shape == (1, 1, 1)


def test_contradicting_a_supported_render_costs_confidence():
    image, wrong = textured(CAPTURED[0]).color, other(CAPTURED[0]).color
    assert confidence.render_confidence(image, image, ALL).min() == 1
    contradicted = confidence.render_confidence(wrong, image, ALL)
    assert contradicted.min() >= confidence.LEAST
    assert contradicted.mean() < 0.6
    assert confidence.render_confidence(wrong, image, 0 * ALL).min() == 1


def test_only_what_a_repair_changed_is_new():
    image = textured(CAPTURED[0]).color
    assert confidence.novelty(image, image).max() == 0
    repaired = image.clone()
    repaired[30:40, 40:60] += 0.1
    found = confidence.novelty(repaired, image)
    assert found[32:38, 42:58].min() > 0.99
    assert found[:25].max() == found[:, :30].max() == 0
    assert confidence.novelty(image + 0.005, image).max() < 0.1


def reprojected(render):
    views = seen()
    return reproject(BETWEEN[1], render.depth, render.alpha, views.near(BETWEEN[1], 3), views.unit)


def test_contradiction_tells_right_from_wrong():
    render = textured(BETWEEN[1])
    photos = reprojected(render)

    def share(rgb, rendered=render.color):
        contradicted, shown = confidence.contradiction(rgb.clamp(0, 1), rendered, photos)
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
    render = textured(BETWEEN[1])
    photos = reprojected(render)
    strip = torch.zeros_like(photos.trust)
    strip[30:33] = 1
    narrow = replace(photos, trust=photos.trust * strip)
    wrong = render.color + 0.06 * strip
    contradicted, shown = confidence.contradiction(wrong, render.color, narrow)
    assert contradicted > 0.9 * shown > 0
    assert confidence.contradiction(render.color, render.color, replace(photos, trust=0 * ALL)) == (0, 0)


def test_frames_share_the_fate_of_their_clip():
    assert confidence.clip_agreements([(0.0, 0.01), (0.0, 0.0)]) == [0.5, 0.5]
    assert confidence.clip_contradiction([(0.01, 0.01), (0.0, 0.0)]) is None
    assert confidence.clip_agreements([(0.0, 0.5), (0.0, 0.01)]) == [1, 1]
    frames = [(0.1, 0.4), (0.05, 0.1), (0.0, 0.0)]
    assert confidence.clip_contradiction(frames) == pytest.approx(0.3)
    clip, first, second = (confidence.agreement(share) for share in (0.3, 0.25, 0.5))
    assert 1 > first > clip > second > 0
    expected = [(first * clip) ** 0.5, (second * clip) ** 0.5, clip]
    assert confidence.clip_agreements(frames) == pytest.approx(expected)


def test_the_truth_is_believed_and_a_lie_is_not():
    good = refined_clip(OracleRepairer(textured, 0.02))
    bad = refined_clip(OracleRepairer(textured, 0.02, wrong=other, wrong_every=1))
    assert (good.refused, bad.refused) == (False, True)
    assert good.contradicted < 0.1 < confidence.REFUSED < 0.6 < bad.contradicted
    assert min(f.agreement for f in good.frames) > 0.9
    assert max(f.agreement for f in bad.frames) < 0.05
    assert not refined_clip(OracleRepairer(other, 0.02), replace(LoopConfig(), weigh=False)).refused
    uncovered = refined(
        OracleRepairer(textured, 0.02, wrong=other, wrong_every=1), replace(LoopConfig(), weigh=False, paste=False)
    )
    assert all(f.agreement == 1 and f.confidence.min() == 1 for f in uncovered)
    unpasted = replace(LoopConfig(), paste=False)
    bad = refined(OracleRepairer(textured, 0.02, wrong=other, wrong_every=1), unpasted)
    assert all(f.confidence.mean() < 0.7 for f in bad)
    faded = lambda camera: replace(textured(camera), color=0.8 * textured(camera).color)  # noqa: E731
    assert all(f.confidence.mean() > 0.8 for f in refined(OracleRepairer(textured, 0.02), unpasted, shown=faded))


def test_a_frame_left_unchanged_teaches_nothing_pasted_or_not():
    class Toucher(OracleRepairer):
        """Changes the second frame only, a corner of it."""

        def repair(self, clip, reference):
            rgb = clip.rgb.clone()
            rgb[1, :36, :48] = 0.5
            return replace(super().repair(clip, reference), rgb=rgb)

    touched = refined(Toucher(textured), replace(LoopConfig(), paste=False))
    assert [float(f.confidence.max()) > 0 for f in touched] == [False, True, False, False]
    assert touched[1].confidence[:30, :42].min() > 0.15
    assert touched[1].confidence[45:].max() == touched[1].confidence[:, 57:].max() == 0
    assert all(f.confidence.max() == 0 for f in refined(IdentityRepairer()))
    assert all(f.confidence.min() == 1 for f in refined(IdentityRepairer(), replace(LoopConfig(), weigh=False)))


def test_anchored_ends_are_the_photos_themselves():
    for frames in (refined(OracleRepairer(textured, 0.3)), refined(IdentityRepairer(), shown=other)):
        for i, k in ((0, 0), (3, 1)):
            torch.testing.assert_close(frames[i].rgb, textured(CAPTURED[k]).color, atol=2e-3, rtol=0)

    for i in (0, 3):
        assert refined(OracleRepairer(textured, 0.3))[i].confidence.min() == 1


def test_disparity_comes_back_in_the_scenes_units():
    class Bent(OracleRepairer):
        def repair(self, clip, reference):
            full = super().repair(clip, reference)
            return replace(full, disparity=0.2 * full.disparity + 0.3)

    for frame in refined(Bent(textured, 0.0)):
        assert frame.aligned
        torch.testing.assert_close(frame.disparity, 1 / textured(frame.camera).depth, rtol=0.01, atol=1e-3)


def test_merged_frames_are_means_that_doubt_their_differences():
    frame = refined(OracleRepairer(textured, 0.0))[1]
    assert merge([frame]) is frame
    same = merge([frame, frame])
    torch.testing.assert_close(same.rgb, frame.rgb)
    torch.testing.assert_close(same.confidence, frame.confidence)
    sure, unsure = replace(frame, confidence=0.9 * ALL), replace(frame, rgb=1 - frame.rgb, confidence=0.1 * ALL)
    mixed = merge([sure, unsure])
    torch.testing.assert_close(mixed.rgb, 0.9 * sure.rgb + 0.1 * unsure.rgb)
    assert mixed.confidence.mean() < 0.5
    lost = merge([replace(frame, aligned=False), frame])
    assert lost.aligned
    assert torch.equal(lost.disparity, frame.disparity)
    holes = replace(frame, disparity=0 * frame.disparity)
    assert torch.equal(merge([holes, frame]).disparity, frame.disparity)
    assert merge([replace(frame, agreement=0.2), replace(frame, agreement=0.8)]).agreement == pytest.approx(0.4)
    nothing = merge([replace(frame, confidence=0 * ALL)] * 2)
    assert nothing.rgb.isfinite().all()
