"""Repair of clips on the make-believe device: every kind of weights, precision, with and without offload."""

from __future__ import annotations

import pytest
import torch
from simulated_cuda import SimTensor
from tiny_networks import BOTH, FUSION, LITE, OFFICIAL, PATCHES, clip, repaired, tiny_pipeline, warped

NETWORKS = ("unet", "vae", "resampler", "image_encoder", "fusion")
PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)


def placed(configuration, dtype: torch.dtype, offload: bool):
    """A tiny pipeline on the device."""
    pipe = tiny_pipeline(configuration)
    for name in NETWORKS:
        network = getattr(pipe, name)
        if network is not None:
            torch.nn.Module.to(network, dtype=dtype)
    if offload:
        pipe.enable_model_cpu_offload(device="cuda:0")
    else:
        pipe.to("cuda")
    return pipe


def inputs(device: str) -> dict[str, torch.Tensor]:
    """A clip with opacity and with what photos show of it."""
    given = clip()
    given["alpha"] = (given["depth"] > 0).float()
    given["warped"] = warped(5)
    return {name: value.to(device) for name, value in given.items()}


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("configuration", [LITE, PATCHES, FUSION, BOTH, OFFICIAL], ids=lambda c: c.name)
def test_every_precision_with_and_without_offload(cuda, configuration, dtype, offload):
    pipe = placed(configuration, dtype, offload)
    output = repaired(pipe, **inputs("cuda"))
    assert isinstance(output.rgb, SimTensor) and bool(output.rgb.isfinite().all())
    if dtype == torch.float32:
        expected = repaired(tiny_pipeline(configuration), **inputs("cpu"))
        torch.testing.assert_close(output.rgb.cpu(), expected.rgb, rtol=1e-4, atol=1e-4)
    if offload:
        left = {name for name in NETWORKS if getattr(pipe, name) is not None and on_device(getattr(pipe, name))}
        assert left == set()


def on_device(network: torch.nn.Module) -> bool:
    return any(isinstance(p, SimTensor) for p in network.parameters())


@pytest.mark.parametrize("configuration", [BOTH, OFFICIAL], ids=lambda c: c.name)
def test_small_chunks_and_one_branch_after_the_other(cuda, configuration):
    pipe = placed(configuration, torch.float32, offload=True)
    output = repaired(pipe, vae_chunk=1, batch_guidance=False, guidance_scale=2.0, **inputs("cuda"))
    assert isinstance(output.rgb, SimTensor) and bool(output.rgb.isfinite().all())
