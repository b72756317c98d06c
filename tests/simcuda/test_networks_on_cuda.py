"""Training of fusion network and denoiser on the make-believe device, and repair by what they wrote."""

from __future__ import annotations

import json

import pytest
import torch
from simulated_cuda import SimTensor
from tiny_networks import BOTH, FUSION_ARGUMENTS, clip, seeded, warped
from toy_fits import write_toys

from diffusion.models.fusion import FusionNetwork
from diffusion.pipeline import RGBDVideoRepairPipeline
from diffusion.train import denoiser, fusion
from diffusion.train.denoiser import DenoiserConfig
from diffusion.train.fit_clips import Window
from diffusion.train.fusion import FusionConfig


def test_the_fusion_network_trains_on_the_device_and_what_it_writes_loads_anywhere(cuda, tmp_path, monkeypatch):
    network = fusion.FusionNetwork
    monkeypatch.setattr(fusion, "FusionNetwork", lambda: network(**FUSION_ARGUMENTS))
    monkeypatch.setattr(fusion, "SMALL_WINDOWS", (Window(2, 16, 24),))
    write_toys(tmp_path / "fits")
    common = {"fits": tmp_path / "fits", "output": tmp_path / "out", "perceptual_weight": 0.0}
    first = fusion.train(FusionConfig(steps=3, stop_after=2, **common))
    assert all(isinstance(p, SimTensor) for p in first.parameters())
    trained = fusion.train(FusionConfig(steps=3, **common))
    assert all(isinstance(p, SimTensor) for p in trained.parameters())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["steps"] == 3

    # half precision, as it is stored
    loaded = FusionNetwork.from_pretrained(tmp_path / "out" / "fusion")
    pipeline = RGBDVideoRepairPipeline(fusion=loaded)
    output = pipeline(**clip(), warped=warped())
    assert type(output.rgb) is torch.Tensor and bool(output.rgb.isfinite().all())
    for name, value in loaded.state_dict().items():
        torch.testing.assert_close(value.float(), trained.state_dict()[name].cpu(), atol=1e-3, rtol=1e-2)


def test_the_denoiser_trains_on_the_device_and_what_it_writes_loads_anywhere(cuda, tmp_path, monkeypatch):
    monkeypatch.setattr(denoiser, "LITE", BOTH)
    monkeypatch.setattr(denoiser, "WINDOWS", (Window(2, 16, 24),))
    write_toys(tmp_path / "fits")
    FusionNetwork(**FUSION_ARGUMENTS).save_pretrained(tmp_path / "fusion")
    common = {"fits": tmp_path / "fits", "fusion": tmp_path / "fusion", "output": tmp_path / "out"}
    trained = denoiser.train(DenoiserConfig(steps=2, perceptual_weight=0.0, **common))
    assert not any(isinstance(p, SimTensor) for p in trained.unet.parameters())
    loaded = RGBDVideoRepairPipeline.from_pretrained(tmp_path / "out" / "pipeline", torch_dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    output = loaded(**clip(), warped=warped(), generator=seeded(0))
    assert type(output.rgb) is torch.Tensor and bool(output.rgb.isfinite().all())


@pytest.mark.parametrize("size", [(48, 80), (272, 480)], ids=["trained", "larger"])
def test_bundled_weights_repair_on_the_device_as_on_a_cpu(cuda, size):
    given = {**clip(0, 2, *size), "warped": warped(0, 2, *size)}
    pipeline = RGBDVideoRepairPipeline.from_pretrained("lite", torch_dtype=torch.float32)
    expected = pipeline(**given, generator=seeded(0))
    pipeline.to("cuda")
    found = pipeline(**{name: value.to("cuda") for name, value in given.items()}, generator=seeded(0))
    assert isinstance(found.rgb, SimTensor)
    torch.testing.assert_close(found.rgb.cpu(), expected.rgb, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.certainty.cpu(), expected.certainty, rtol=1e-3, atol=1e-4)
