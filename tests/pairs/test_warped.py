"""What training photos show of a fit's other frames, and that they show nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from pair_units import TINY, tiny_unit

from genfusion_ns.pairs.footage import procedural_footage
from genfusion_ns.pairs.make import make_pairs
from genfusion_ns.pairs.variants import Variant

FOOTAGE = procedural_footage("points", 1, 4, 32, 32)


def test_a_frame_that_trained_whole_is_shown_its_own_photo():
    variant = Variant("sparse2", "sparse", 0, views=2, first=0.0, last=1.0)
    first, second = make_pairs(replace(tiny_unit(), variant=variant, steps=(3,)), TINY, FOOTAGE)
    assert first.provenance["captured"] == [0] and second.provenance["captured"] == [1]
    assert (first.warped[0, ..., 3:5] == 255).all()
    assert (first.warped[0, ..., 5] >= 254).all()  # the cosine of the angle between a ray and itself is rounded
    np.testing.assert_allclose(first.warped[0, ..., :3].numpy(), FOOTAGE.rgb[0], atol=1)
    # the other photo has its say too, at depths where it agrees
    np.testing.assert_allclose(first.warped[0, ..., 6:9].numpy(), FOOTAGE.rgb[0], atol=16)
    assert (first.warped[1, ..., 3] < 255).any()


def test_hidden_pixels_are_shown_to_nobody():
    unit = tiny_unit("polygon")
    masks = unit.variant.masks(4, 32, 32)
    spoiled = replace(FOOTAGE, rgb=np.where(masks[..., None], FOOTAGE.rgb, 255 - FOOTAGE.rgb))
    for one, other in zip(make_pairs(unit, TINY, FOOTAGE), make_pairs(unit, TINY, spoiled), strict=True):
        seen = one.warped[..., 4] > 0
        assert torch.equal(one.warped[..., 3:6], other.warped[..., 3:6])
        # bilinear sampling mixes a hidden neighbour in at the mask's very edge
        apart = (one.warped[..., :3].int() - other.warped[..., :3].int()).abs().amax(-1)
        assert float((apart[seen] > 2).float().mean()) < 0.1
        part = slice(one.provenance["first"], one.provenance["first"] + 2)
        sure = one.warped[..., 3] == 255
        assert torch.equal(sure, torch.from_numpy(masks[part]))
        assert one.provenance["captured"] == []
