"""The pipeline as a whole: bars on saving, batches, chunks and sizes, on tiny random networks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_networks import LITE, OFFICIAL, clip, difference, repaired, tiny_pipeline

from diffusion.pipeline import RGBDVideoRepairPipeline

BOTH = pytest.mark.parametrize("configuration", [LITE, OFFICIAL], ids=lambda c: c.name)


@pytest.fixture(scope="module")
def pipes() -> dict[str, RGBDVideoRepairPipeline]:
    return {c.name: tiny_pipeline(c) for c in (LITE, OFFICIAL)}


def assert_valid(output: Any, frames: int, height: int, width: int) -> None:
    assert output.rgb.shape == (frames, height, width, 3)
    assert output.disparity.shape == (frames, height, width, 1)
    for values in (output.rgb, output.disparity):
        assert torch.isfinite(values).all() and values.min() >= 0 and values.max() <= 1


@pytest.mark.slow
@BOTH
def test_saved_and_loaded_it_returns_the_same_bits(pipes, configuration, tmp_path):
    pipe = pipes[configuration.name]
    pipe.save_pretrained(tmp_path)
    loaded = RGBDVideoRepairPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert not list(tmp_path.rglob("*.bin"))
    assert type(loaded.scheduler) is type(pipe.scheduler)
    for kwargs in ({}, {"guidance_scale": 2.0}):
        before, after = (repaired(p, **clip(), **kwargs) for p in (pipe, loaded))
        assert torch.equal(before.rgb, after.rgb) and torch.equal(before.disparity, after.disparity)


@pytest.mark.slow
@BOTH
def test_chunks_and_separate_passes_change_nothing(pipes, configuration):
    pipe = pipes[configuration.name]
    kwargs = {"guidance_scale": 2.0, **clip(frames=5)}
    whole = repaired(pipe, **kwargs, vae_chunk=5)
    for chunk in (1, 2):
        assert difference(repaired(pipe, **kwargs, vae_chunk=chunk), whole) < 1e-5
    assert difference(repaired(pipe, **kwargs, batch_guidance=False), whole) < 1e-5


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize(("frames", "height", "width"), [(1, 16, 24), (2, 1, 1), (3, 17, 9), (5, 30, 50)])
def test_any_size(pipes, configuration, frames, height, width):
    pipe = pipes[configuration.name]
    output = repaired(pipe, **clip(0, frames, height, width), guidance_scale=2.0)
    assert_valid(output, frames, height, width)


@BOTH
@pytest.mark.parametrize("fill", [0.0, 3.0], ids=["all holes", "constant"])
def test_empty_and_constant_depth(pipes, configuration, fill):
    c = clip()
    c["depth"] = torch.full_like(c["depth"], fill)
    assert_valid(repaired(pipes[configuration.name], **c, guidance_scale=2.0), 3, 16, 24)


def test_unknown_depth_is_not_the_same_as_holes(pipes):
    pipe = pipes["tiny-official"]
    c = clip()
    unknown = repaired(pipe, **{**c, "depth": None})
    assert_valid(unknown, 3, 16, 24)
    assert difference(unknown, repaired(pipe, **{**c, "depth": torch.zeros_like(c["depth"])})) > 1e-4


def test_numpy_uint8_and_lists_are_taken(pipes):
    pipe = pipes["tiny-lite"]
    c = clip()
    bytes_ = {"rgb": (c["rgb"] * 255).round().to(torch.uint8), "depth": c["depth"]}
    photos = [c["references"][0], c["references"][1][:15, :15]]
    floats = {"rgb": bytes_["rgb"] / 255, "depth": c["depth"]}
    a = repaired(pipe, **floats, references=photos)
    b = repaired(
        pipe, **{k: v.numpy() for k, v in bytes_.items()}, references=[p.numpy() for p in photos], output_type="np"
    )
    assert isinstance(b.rgb, np.ndarray)
    assert np.allclose(a.rgb.numpy(), b.rgb, atol=1e-6)


@pytest.mark.slow
@BOTH
def test_every_reference_counts_and_their_order_does_not(pipes, configuration):
    pipe = pipes[configuration.name]
    c = clip()
    both = repaired(pipe, **c)
    first = repaired(pipe, **{**c, "references": c["references"][0]})
    swapped = repaired(pipe, **{**c, "references": c["references"].flip(0)})
    twice = repaired(pipe, **{**c, "references": c["references"][:1].expand(2, -1, -1, -1)})
    assert difference(both, first) > 1e-6
    assert difference(both, swapped) < 1e-5
    # The same keys and values twice leave a softmax-weighted mean as it is.
    assert difference(twice, first) < 1e-5


@pytest.mark.slow
def test_alpha_reaches_the_lite_network_only(pipes):
    c = clip()
    alpha = (c["depth"] > 0).float()
    for name, reaches in (("tiny-lite", True), ("tiny-official", False)):
        pipe = pipes[name]
        assert pipe.takes_opacity == reaches
        default, same = repaired(pipe, **c), repaired(pipe, **c, alpha=alpha)
        assert difference(default, same) == 0
        other = repaired(pipe, **c, alpha=torch.zeros_like(alpha))
        assert (difference(default, other) > 1e-6) == reaches


def test_guidance_off_means_one_branch(pipes):
    pipe = pipes["tiny-official"]
    batches = []
    hook = pipe.unet.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
    try:
        repaired(pipe, **clip(), guidance_scale=1.0, num_inference_steps=4)
        assert batches == [1, 1, 1, 1]
        batches.clear()
        repaired(pipe, **clip(), guidance_scale=2.0, num_inference_steps=4)
        assert batches == [2, 2, 2, 2]
    finally:
        hook.remove()


def test_seeds_decide(pipes):
    pipe = pipes["tiny-official"]
    assert difference(repaired(pipe, 3, **clip()), repaired(pipe, 3, **clip())) == 0
    assert difference(repaired(pipe, 3, **clip()), repaired(pipe, 4, **clip())) > 1e-4


def test_a_model_of_rgb_alone():
    pipe = tiny_pipeline(replace(LITE, vae={**LITE.vae, "image_channels": 3}))
    output = repaired(pipe, **clip())
    assert output.rgb.shape == (3, 16, 24, 3) and output.disparity is None


@pytest.mark.slow
def test_bfloat16_networks_with_a_float32_schedule():
    pipe = tiny_pipeline().to(torch.bfloat16)
    dtypes = set()

    def note(pipe: Any, step: int, timestep: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        dtypes.add(tensors["latents"].dtype)
        return {}

    output = repaired(pipe, **clip(), callback_on_step_end=note)
    assert dtypes == {torch.float32}
    assert_valid(output, 3, 16, 24)
    exact = repaired(tiny_pipeline(), **clip())
    assert float((output.rgb - exact.rgb).abs().mean()) < 0.02


def test_model_offload_gives_the_same_and_leaves_the_modules_parked():
    plain = repaired(tiny_pipeline(OFFICIAL), **clip(), guidance_scale=2.0)
    pipe = tiny_pipeline(OFFICIAL)
    pipe.enable_model_cpu_offload(device="cpu")
    for _ in range(2):
        assert difference(repaired(pipe, **clip(), guidance_scale=2.0), plain) == 0


def test_channels_last_changes_rounding_only():
    plain = repaired(tiny_pipeline(), **clip())
    pipe = tiny_pipeline()
    pipe.use_channels_last()
    assert pipe.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert difference(repaired(pipe, **clip()), plain) < 1e-4
