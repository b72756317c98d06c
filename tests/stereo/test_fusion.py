"""What photos say of each other's depth."""

import pytest
import torch
from stereo_scene import certain, photo_at

from genfusion_ns.stereo import fusion
from genfusion_ns.stereo.fusion import fused_confidence, support
from genfusion_ns.stereo.posed_photos import PhotoDepth


def two():
    return zip(*(photo_at(p) for p in ((3.0, 0.12, 0.4), (3.0, -0.12, 0.4))), strict=True)


def test_exact_depths_agree_and_are_never_contradicted_but_at_edges():
    photos, exact = two()
    found = support(0, photos, [certain(d) for d in exact], [1])
    assert float(found.agree.mean()) > 0.7
    assert float(found.contradict.mean()) < 0.03


def test_a_surface_in_front_of_what_another_photo_sees_is_contradicted_one_behind_is_not():
    photos, exact = two()
    for factor, contradicted in ((0.6, True), (1.5, False)):
        found = support(0, photos, [certain(factor * exact[0]), certain(exact[1])], [1])
        assert float(found.agree.mean()) < 0.1
        assert (float(found.contradict.mean()) > 0.5) == contradicted


def test_doubtful_photos_say_little():
    photos, exact = two()
    found = support(0, photos, [certain(exact[0]), certain(exact[1], 0.1)], [1])
    assert 0.05 < float(found.agree.max()) <= 0.1 + 1e-6


def test_confidence_rises_with_agreement_and_falls_with_contradiction(monkeypatch):
    photos, exact = two()
    monkeypatch.setattr(fusion, "FUSION_WEIGHTS", (0.0, 1.0, 2.0, -2.0))
    right = support(0, photos, [certain(d, 0.6) for d in exact], [1])
    wrong = support(0, photos, [certain(0.6 * exact[0], 0.6), certain(exact[1], 0.6)], [1])
    start = torch.full_like(exact[0], 0.6)
    up, down = fused_confidence(start, right), fused_confidence(start, wrong)
    assert float(up.median()) > 0.6 > float(down.median())
    alone = fused_confidence(start, support(0, photos, [certain(d) for d in exact], []))
    torch.testing.assert_close(alone, start)


def test_maps_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(5, 4, 1\)"):
        PhotoDepth(torch.ones(4, 5, 1), torch.ones(4, 5, 1), torch.ones(5, 4, 1))
