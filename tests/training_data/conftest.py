"""An estimator without weights, and fits of a few steps."""

from __future__ import annotations

import pytest
import torch

from genfusion_ns.stereo.posed_photos import PhotoDepth
from genfusion_ns.training_data import fanout, make


class FlatEstimator:
    """A wall at the middle of the depths that the cameras suggest, surer where it is bright."""

    name = "flat"
    fingerprint = "flat"

    def estimate(self, photos, progress=None):
        del progress
        found = []
        for photo in photos:
            middle = sum(photo.depth_bounds) / 2
            depth = torch.full_like(photo.rgb[..., :1], middle)
            found.append(PhotoDepth(depth, photo.rgb.mean(-1, keepdim=True).clamp(0.1, 1), 0.05 * depth / middle))
        return found


@pytest.fixture
def estimator(monkeypatch) -> FlatEstimator:
    made = FlatEstimator()
    monkeypatch.setattr(fanout, "_estimator", lambda: made)
    return made


@pytest.fixture
def brief(monkeypatch) -> None:
    """Looked at after two and after five steps."""
    monkeypatch.setattr(make, "fit_steps", lambda *_: [2, 5])
