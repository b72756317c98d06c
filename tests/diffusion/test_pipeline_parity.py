"""The official `repair` call, through the pipeline, from converted weights."""

from __future__ import annotations

import pytest
import torch
from parity_data import official_depth
from torch import Tensor

from diffusion.pipeline import RGBDVideoRepairPipeline

pytestmark = pytest.mark.slow


def outside(clip: Tensor) -> Tensor:
    """[C, T, H, W] in [-1, 1] -> [T, H, W, C] in [0, 1]."""
    return (clip.movedim(0, -1) + 1) / 2


@pytest.fixture(scope="module")
def run(parity, converted):
    """Arguments of the pipeline for the recorded call, its records, and what the pipeline returned for it."""
    io = parity.io("tiny_e2e_io")
    disparity = outside(io["artifact_depth"])
    kwargs = {
        "rgb": outside(io["artifact_rgb"]),
        # The record holds the normalised disparity d; 1 / (1 + d) is a depth that normalises to it over [1, 2].
        "depth": torch.where(disparity > 0, 1 / (1 + disparity), 0.0),
        "disparity_range": (1.0, 2.0),
        "references": outside(io["ref_frames"]),
        "num_inference_steps": len(io["timesteps"]),
        "guidance_scale": float(io["guidance_scale"]),
        "guidance_rescale": 0.7,
        "eta": 1.0,
        "fps": 30,
        "latents": io["x_T"],
        "posterior_noise": io["posterior_noise"].movedim(0, 1)[None],
        "step_noise": io["noise"],
    }
    pipe = RGBDVideoRepairPipeline.from_pretrained(converted)
    pipe.set_progress_bar_config(disable=True)
    steps: list[tuple[int, Tensor]] = []

    def record(pipe, step, timestep, tensors):
        steps.append((timestep, tensors["latents"]))
        return {}

    return io, pipe(**kwargs, callback_on_step_end=record), steps, pipe, kwargs


def test_every_step_of_the_official_call(run):
    io, _, steps, _, _ = run
    assert [t for t, _ in steps] == io["timesteps"].tolist()
    for (_, latents), wanted in zip(steps, io["x"], strict=True):
        assert (latents - wanted).abs().max() < 4e-5


def test_the_frames_of_the_official_call(run):
    io, output, *_ = run
    assert (output.rgb.movedim(-1, 0) - io["repaired_rgb"]).abs().max() < 6e-5
    wanted = (io["orig_repaired_depth"].clamp(-1, 1) + 1) / 2
    assert (output.disparity.movedim(-1, 0) - wanted).abs().max() < 6e-5
    depth = official_depth(output.disparity).movedim(-1, 0)
    # Depth runs up to 1e6; its reciprocal is what can be compared.
    assert (1 / depth - 1 / io["repaired_depth"]).abs().max() < 6e-5


def test_the_converted_defaults_are_the_official_settings(run):
    _, output, _, pipe, kwargs = run
    defaults = {
        "num_inference_steps": pipe.config["default_steps"],
        "guidance_scale": pipe.config["default_guidance_scale"],
        "guidance_rescale": pipe.config["default_guidance_rescale"],
    }
    assert defaults == {"num_inference_steps": 25, "guidance_scale": 3.2, "guidance_rescale": 0.7}
    if any(kwargs[key] != value for key, value in defaults.items()):
        pytest.skip("this parity folder was not recorded at the official settings")
    again = pipe(**{k: v for k, v in kwargs.items() if k not in {*defaults, "eta", "fps"}})
    assert torch.equal(again.rgb, output.rgb) and torch.equal(again.disparity, output.disparity)


def test_the_recorded_noise_matters(run):
    _, output, _, pipe, kwargs = run
    other = pipe(**{**kwargs, "step_noise": kwargs["step_noise"].flip(0)})
    assert (other.rgb - output.rgb).abs().max() > 1e-3
