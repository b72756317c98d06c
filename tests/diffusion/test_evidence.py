"""What photos show beside the renderings: each rule on pictures whose answer is known."""

from __future__ import annotations

import torch

from diffusion.evidence import as_photos_agree, as_photos_show, as_surroundings_suggest, no_evidence


def frames() -> torch.Tensor:
    return torch.rand(1, 4, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1


def evidence(seen: torch.Tensor) -> torch.Tensor:
    colour, agreed = torch.rand(2, 1, 3, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    return torch.cat([colour, 0 * seen, seen, 0 * seen, agreed, 0 * seen], dim=1)


def half_seen() -> torch.Tensor:
    seen = torch.ones(1, 1, 3, 16, 24)
    seen[..., 12:] = 0
    return seen


def test_no_evidence_changes_nothing() -> None:
    clip = frames()
    nothing = no_evidence(clip)
    assert nothing.shape == (1, 10, 3, 16, 24)
    assert torch.allclose(as_photos_show(clip, nothing), clip, atol=1e-6)
    assert torch.allclose(as_photos_agree(clip, nothing), clip, atol=1e-6)
    assert torch.allclose(as_surroundings_suggest(clip, nothing), clip, atol=1e-6)


def test_photos_colour_what_they_show_and_leave_disparity_alone() -> None:
    clip, known = frames(), evidence(half_seen())
    found = as_photos_show(clip, known)
    assert torch.allclose(found[:, :3, ..., :12], 2 * known[:, :3, ..., :12] - 1, atol=1e-6)
    assert torch.equal(found[..., 12:], clip[..., 12:])
    assert torch.equal(found[:, 3:], clip[:, 3:])


def test_photos_that_agree_colour_everything_and_leave_disparity_alone() -> None:
    clip, known = frames(), evidence(half_seen())
    found = as_photos_agree(clip, known)
    assert torch.allclose(found[:, :3], 2 * known[:, 6:9] - 1, atol=1e-6)
    assert torch.equal(found[:, 3:], clip[:, 3:])


def test_surroundings_replace_what_no_photo_shows() -> None:
    clip = torch.full((1, 4, 3, 16, 24), 0.5)
    clip[..., 12:] = -1.0  # splats of chance colours
    found = as_surroundings_suggest(clip, evidence(half_seen()))
    assert torch.allclose(found[..., :12], clip[..., :12], atol=1e-5)
    # what is not seen weighs little, but not nothing; two pixels off, windows hold about as much of either half
    assert (found[..., 12:] > -0.7).all() and (found[..., 12:] < 0.5).all()
    assert float(found[..., 12:14].mean()) > -0.25


def test_where_nothing_is_seen_at_all_the_clip_is_smoothed_not_lost() -> None:
    clip = frames()
    found = as_surroundings_suggest(clip, evidence(torch.zeros(1, 1, 3, 16, 24)))
    assert torch.allclose(found.mean((3, 4)), clip.mean((3, 4)), atol=0.1)
