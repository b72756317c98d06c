"""The pipeline with a fusion network: warped photos count, and only what is unsure is drawn."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_networks import BOTH as FUSION_FIRST
from tiny_networks import FUSION, LITE, clip, difference, repaired, seeded, tiny_pipeline, warped

from diffusion.errors import UserError
from diffusion.fuse import DRAWN_BELOW
from diffusion.pipeline import RGBDVideoRepairPipeline


def test_fusion_alone_needs_no_seed_and_saves_and_loads(tmp_path):
    pipe = tiny_pipeline(FUSION)
    first, second = (pipe(**clip(), warped=warped(), generator=seeded(seed)) for seed in (0, 1))
    assert torch.equal(first.rgb, second.rgb)
    assert first.certainty.shape == first.disparity.shape == (3, 16, 24, 1)
    assert first.certainty.min() >= 0 and first.certainty.max() <= 1 and first.disparity.min() > 0
    pipe.save_pretrained(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["fusion", "model_index.json"]
    loaded = RGBDVideoRepairPipeline.from_pretrained(tmp_path)
    assert loaded.unet is loaded.vae is loaded.scheduler is None
    assert torch.equal(loaded(**clip(), warped=warped()).rgb, first.rgb)


@pytest.mark.parametrize("configuration", [FUSION, FUSION_FIRST], ids=lambda c: c.name)
def test_warped_photos_count(configuration):
    pipe = tiny_pipeline(configuration)
    assert difference(*(repaired(pipe, 0, **clip(), warped=photos) for photos in (warped(), None))) > 1e-4


@pytest.mark.parametrize(("scale", "drawn"), [(0.01, False), (1.0, True)])
def test_only_what_fusion_is_unsure_of_is_drawn(scale, drawn, monkeypatch):
    """Frames with a certainty of 1 - exp(-0.06 / scale), everywhere alike."""
    pipe = tiny_pipeline(FUSION_FIRST)
    network = type(pipe.fusion)
    forward = network.forward
    patched = lambda self, *args: forward(self, *args)._replace(scale=torch.full((1, 3, 1, 16, 24), scale))  # noqa: E731
    monkeypatch.setattr(network, "forward", patched)
    fused = RGBDVideoRepairPipeline(fusion=pipe.fusion)(**clip(), warped=warped())
    outputs = [repaired(pipe, seed, **clip(), warped=warped()) for seed in (0, 1)]
    assert (float(fused.certainty[0, 0, 0, 0]) > DRAWN_BELOW) != drawn
    for output in outputs:
        assert (float((output.rgb - fused.rgb).abs().max()) > 1e-3) == drawn
        assert torch.equal(output.disparity, fused.disparity) and torch.equal(output.certainty, fused.certainty)


def test_temperature_is_the_noises_deviation():
    cold, warm = (tiny_pipeline(replace(LITE, settings=LITE.settings | {"temperature": t})) for t in (0.0, 1.0))
    same = [repaired(cold, seed, **clip()).rgb for seed in (0, 1)]
    assert torch.equal(*same) and not torch.equal(same[0], repaired(warm, 0, **clip()).rgb)
    given = torch.randn(1, 4, 3, 4, 6, generator=seeded(5))
    outputs = [repaired(pipe, 0, **clip(), latents=given).rgb for pipe in (cold, warm)]
    assert torch.equal(*outputs)  # noise that is given is taken as it is


def test_without_steps_the_fused_frames_are_the_result():
    pipe = tiny_pipeline(FUSION_FIRST)
    fused = RGBDVideoRepairPipeline(fusion=pipe.fusion)(**clip(), warped=warped())
    found = pipe(**clip(), warped=warped(), num_inference_steps=0)
    assert torch.equal(found.rgb, fused.rgb) and torch.equal(found.certainty, fused.certainty)
    with pytest.raises(UserError, match="num_inference_steps is 0"):
        tiny_pipeline(LITE)(**clip(), num_inference_steps=0)


def test_weights_that_hold_nothing_are_named():
    with pytest.raises(UserError, match="neither a fusion network nor a video diffusion model"):
        RGBDVideoRepairPipeline()(**clip())
