"""Bad input to the pipeline gets one line that says what was found and what was expected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_networks import LITE, OFFICIAL, clip, repaired, tiny_pipeline, warped
from torch import Tensor

from diffusion.errors import UserError
from diffusion.inputs.repair_inputs import check_inputs, network_clips
from diffusion.pipeline import RGBDVideoRepairPipeline

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pipe() -> RGBDVideoRepairPipeline:
    return tiny_pipeline(LITE)


def spoiled(values: Tensor, value: float) -> Tensor:
    out = values.clone()
    out.view(-1)[7] = value
    return out


NAN, INF = float("nan"), float("inf")
C = clip()
BAD_INPUTS: list[tuple[dict[str, Any], str]] = [
    ({"rgb": C["rgb"][0]}, r"rgb has the shape \[16, 24, 3\]; expected \[T,H,W,3\]"),
    ({"rgb": C["rgb"].movedim(-1, 1)}, r"rgb has the shape \[3, 3, 16, 24\]"),
    ({"rgb": C["rgb"][:0]}, r"rgb has the shape \[0, 16, 24, 3\].*nothing of size 0"),
    ({"rgb": "frames"}, "rgb is a str; expected a torch tensor or a numpy array"),
    ({"rgb": np.array([["a"]])}, "rgb is a ndarray; expected"),
    ({"rgb": spoiled(C["rgb"], NAN)}, "rgb holds 1 NaN or infinite values of 3456"),
    ({"rgb": C["rgb"] * 255}, r"rgb lies in \[.*, 25.*\]; expected \[0, 1\]"),
    ({"rgb": C["rgb"] * 2 - 1}, r"rgb lies in \[-0.99"),
    ({"depth": C["depth"][..., 0]}, r"depth has the shape \[3, 16, 24\]; expected \[3, 16, 24, 1\]"),
    ({"depth": C["depth"][:2]}, r"depth has the shape \[2, 16, 24, 1\]; expected \[3, 16, 24, 1\]"),
    ({"depth": spoiled(C["depth"], NAN)}, "depth holds 1 NaN or infinite values"),
    ({"depth": spoiled(C["depth"], INF)}, "depth holds 1 NaN or infinite values"),
    ({"depth": spoiled(C["depth"], -2.0)}, "depth goes down to -2; expected positive depth, and 0"),
    ({"alpha": C["depth"][:, :5]}, "alpha has the shape"),
    ({"alpha": C["depth"] + 1}, r"alpha lies in \[1, 2.99"),
    ({"alpha": spoiled(C["depth"] * 0, NAN)}, "alpha holds 1 NaN"),
    ({"warped": C["rgb"]}, r"warped has the shape \[3, 16, 24, 3\]; expected \[T,S,8,16,24\]"),
    ({"warped": warped()[:2]}, r"warped has the shape \[2, 2, 8, 16, 24\]; expected"),
    ({"warped": warped()[..., :20]}, r"warped has the shape \[3, 2, 8, 16, 20\]; expected"),
    ({"warped": warped()[:, :, :7]}, r"warped has the shape \[3, 2, 7, 16, 24\]; expected"),
    ({"warped": spoiled(warped(), INF)}, "warped holds 1 NaN or infinite values"),
    ({"references": None}, "no reference was given; expected at least one photo"),
    ({"references": []}, "list of references is empty"),
    ({"references": C["references"][..., :2]}, r"a reference has the shape \[20, 30, 2\]"),
    ({"references": [C["references"][0, 0]]}, r"a reference has the shape \[30, 3\]"),
    ({"references": C["references"] * 255}, "reference lies in"),
    ({"num_inference_steps": 0}, "num_inference_steps is 0; expected a whole number of at least 1"),
    ({"num_inference_steps": 2.5}, "num_inference_steps is 2.5"),
    ({"num_inference_steps": 5000}, "num_inference_steps is 5000; expected 999 at most"),
    ({"guidance_scale": NAN}, "guidance_scale is nan; expected a finite number"),
    ({"guidance_rescale": -1}, "guidance_rescale is -1"),
    ({"eta": -1.0}, "eta is -1.0"),
    ({"vae_chunk": 0}, "vae_chunk is 0"),
    ({"output_type": "pil"}, "output_type is 'pil'; expected one of pt, np"),
    ({"disparity_range": (2.0, 1.0)}, "disparity_range is"),
    ({"latents": torch.zeros(1, 4, 3, 5, 5)}, r"latents has the shape \[1, 4, 3, 5, 5\]; expected \[1, 4, 3, 4, 6\]"),
    ({"step_noise": torch.zeros(1, 4)}, "step_noise has the shape"),
]


@pytest.mark.parametrize(("change", "message"), BAD_INPUTS, ids=lambda v: "" if isinstance(v, dict) else v[:30])
def test_bad_input_is_named_in_one_line(pipe, change, message):
    with pytest.raises(UserError, match=message) as caught:
        repaired(pipe, **{**C, **change})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_posterior_noise_of_the_wrong_shape_is_named():
    with pytest.raises(UserError, match=r"posterior_noise has the shape \[3\]"):
        repaired(tiny_pipeline(OFFICIAL), **C, posterior_noise=torch.zeros(3))


def test_broken_weights_are_named_instead_of_returning_nan():
    pipe = tiny_pipeline(LITE)
    with torch.no_grad():
        pipe.unet.conv_out.bias.fill_(NAN)
    with pytest.raises(UserError, match="NaN or infinite values.*float32"):
        repaired(pipe, **C)


def test_slight_overshoot_is_forgiven(pipe):
    repaired(pipe, **{**C, "rgb": C["rgb"].clamp(0.005, 0.995) * 1.01 - 0.005})


def test_the_depth_of_an_integer_image_keeps_its_unit():
    depth = (C["depth"] * 10).round().to(torch.uint8)
    inputs = check_inputs(C["rgb"], depth, None, C["references"], CPU)
    assert inputs.depth is not None and torch.equal(inputs.depth[0], depth.float())


def test_what_the_networks_see():
    alpha = torch.rand(C["depth"].shape, generator=torch.Generator().manual_seed(0))
    for given, wanted in ((alpha, alpha), (None, (C["depth"] > 0).float())):
        inputs = check_inputs(C["rgb"], C["depth"], given, C["references"], CPU)
        frames, opacity = network_clips(inputs, "minmax", has_depth=True)
        assert torch.allclose(frames[0, :3].movedim(0, -1), 2 * C["rgb"] - 1)
        assert (frames[0, 3:].movedim(0, -1)[C["depth"] == 0] == -1).all()
        assert frames[0, 3].max() == 1
        assert torch.equal(opacity[0].movedim(0, -1), wanted)
    unknown = check_inputs(C["rgb"], None, None, C["references"], CPU)
    frames, opacity = network_clips(unknown, "minmax", has_depth=True)
    assert (frames[:, 3] == 0).all() and (opacity == 1).all()
    assert network_clips(unknown, "minmax", has_depth=False)[0].shape[1] == 3


def test_an_unknown_rule_is_named():
    inputs = check_inputs(C["rgb"], C["depth"], None, C["references"], CPU)
    with pytest.raises(UserError, match="'median'; expected 'minmax' or 'percentile'"):
        network_clips(inputs, "median", has_depth=True)
