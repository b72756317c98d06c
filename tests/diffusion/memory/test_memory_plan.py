"""The memory plan against what torch's profiler sees a real run allocate, at tiny sizes on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file
from tiny_networks import BOTH, FUSION, LITE, OFFICIAL, clip, repaired, tiny_pipeline, warped
from torch import nn
from torch.profiler import ProfilerActivity, profile

from diffusion.configurations import CONFIGURATIONS
from diffusion.errors import UserError
from diffusion.memory import memory_plan
from diffusion.memory.blueprint import Blueprint, read_blueprint
from diffusion.memory.memory_plan import ALLOWANCE, MIB, MemoryPlan, Run, parse_bytes, plan_memory
from diffusion.memory.tracing import peak_bytes

pytestmark = pytest.mark.slow

RUN = Run(frames=4, height=64, width=96, steps=2, guidance=False)


def allocated(function: Callable[[], Any]) -> int:
    """Peak of the bytes that the CPU allocator handed out and not yet got back, during a call."""
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    current = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            current += event.nbytes()
            peak = max(peak, current)
    return peak


def test_tracing_a_small_network_gives_the_numbers_by_hand():
    with torch.device("meta"):
        network = nn.Sequential(nn.Linear(100, 200), nn.ReLU(), nn.Linear(200, 10))
        x = torch.empty(1000, 100)
    # The first layer's output and the activation's are alive together; the last output is smaller.
    assert peak_bytes(lambda: network(x)) == 2 * 1000 * 200 * 4


def test_tracing_counts_attention_as_fused():
    q, k = torch.empty(1, 2, 50, 8, device="meta"), torch.empty(1, 2, 70, 8, device="meta")
    assert peak_bytes(lambda: nn.functional.scaled_dot_product_attention(q, k, k)) == 2 * 50 * 8 * 4


@pytest.mark.parametrize("configuration", [LITE, OFFICIAL], ids=lambda c: c.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_of_each_phase(configuration, dtype):
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU computes bfloat16 convolutions in float32 copies")
    plan = plan_memory(Blueprint.of(configuration), replace(RUN, dtype=dtype))
    pipe = tiny_pipeline(configuration).to(dtype)
    height, width = RUN.height // pipe.vae_factor, RUN.width // pipe.vae_factor
    frames = torch.zeros(4, 4, RUN.height, RUN.width, dtype=dtype)
    latents = torch.zeros(4, 4, height, width, dtype=dtype)
    noisy = torch.zeros(1, pipe.unet.config["in_channels"], 4, height, width, dtype=dtype)
    context = torch.zeros(1, 8, pipe.unet.config["cross_attention_dim"], dtype=dtype)
    measured = {
        "encode": allocated(lambda: pipe.vae.encode(frames)),
        "denoise": allocated(lambda: pipe.unet(noisy, torch.tensor(5), context)),
        "decode": allocated(lambda: pipe.vae.decode(latents)),
    }
    for phase, size in measured.items():
        ratio = size / plan.activations[phase]
        assert 0.9 < ratio <= ALLOWANCE, f"{phase}: measured {size}, planned {plan.activations[phase]}"


@pytest.mark.parametrize("configuration", [BOTH, FUSION], ids=lambda c: c.name)
@pytest.mark.parametrize(("frames", "height", "width"), [(4, 61, 94), (3, 96, 160)])
def test_the_fusion_network_is_planned_with_four_photos(configuration, frames, height, width):
    """The largest of these sizes is beyond the side that it was trained for, and looked at on fewer pixels."""
    plan = plan_memory(Blueprint.of(configuration), Run(frames, height, width, guidance=False))
    wide, high = (-(-side // 4) * 4 for side in (width, height))
    clips = [torch.rand(1, frames, *n, high, wide) for n in ((3,), (1,), (1,), (4, 8))]
    fusion = tiny_pipeline(configuration).fusion
    measured = allocated(lambda: fusion(*clips))
    assert 0.9 < measured / plan.activations["fuse"] <= ALLOWANCE
    assert plan.peak >= measured


def test_a_plan_of_fusion_alone_has_nothing_to_sample():
    plan = plan_memory(Blueprint.of(FUSION), RUN)
    assert set(plan.weights) == {"fusion"}
    assert [phase for phase, size in plan.activations.items() if size] == ["fuse"]


def test_the_peak_of_a_whole_run_with_fusion_alone():
    plan = plan_memory(Blueprint.of(FUSION), RUN)
    pipe = tiny_pipeline(FUSION)
    arguments = {
        **clip(0, RUN.frames, RUN.height, RUN.width),
        "warped": warped(0, RUN.frames, RUN.height, RUN.width, 4),
    }
    size = allocated(lambda: pipe(**arguments))
    planned = plan.peak - sum(plan.weights.values())
    assert 0.3 * planned < size <= planned


SCALED = replace(
    OFFICIAL,
    name="scaled-official",
    unet={
        **OFFICIAL.unet,
        "block_out_channels": (32, 64, 64),
        "down_block_types": ("CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"),
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D"),
    },
    vae={"block_out_channels": (8, 16, 16), "layers_per_block": 2, "norm_num_groups": 8},
)
"""The official layout with a share of its widths, where UNet and autoencoder need about as much as each other, too."""
SIZES = ((4, 64, 96), (8, 64, 64), (3, 96, 128))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("configuration", "scale"), [(LITE, 1.0), (LITE, 2.0), (SCALED, 3.2)])
def test_the_peak_of_a_whole_run(configuration, scale, size):
    plan = plan_memory(Blueprint.of(configuration), Run(*size, steps=2, guidance=scale != 1.0))
    pipe = tiny_pipeline(configuration)
    arguments = clip(0, *size)
    arguments["references"] = arguments["references"][:1]
    measured = allocated(lambda: repaired(pipe, **arguments, guidance_scale=scale, vae_chunk=plan.vae_chunk))
    weights = sum(plan.weights.values())  # were there before
    assert measured <= plan.peak - weights
    with mock.patch.object(memory_plan, "ALLOWANCE", 1.0):
        assert measured == pytest.approx(plan.peak - weights, rel=0.15)


@pytest.mark.parametrize("configuration", [LITE, OFFICIAL], ids=lambda c: c.name)
def test_weight_bytes_are_those_on_disk(configuration, tmp_path):
    tiny_pipeline(configuration).to(torch.float16).save_pretrained(tmp_path)
    blueprint = read_blueprint(tmp_path)
    assert all(p.is_meta for m in blueprint.modules.values() for p in m.parameters())
    plan = plan_memory(blueprint, replace(RUN, dtype=torch.float16))
    for name, size in plan.weights.items():
        (file,) = (tmp_path / name).glob("*.safetensors")
        stored = sum(t.numel() * t.element_size() for t in load_file(file).values())
        # The CLIP tower has a table of position indices that is not stored.
        index = sum(b.numel() * b.element_size() for b in blueprint.modules[name].buffers())
        assert size == stored + index


def test_a_folder_and_its_configuration_give_the_same_plan(tmp_path):
    tiny_pipeline(OFFICIAL).save_pretrained(tmp_path)
    a, b = plan_memory(read_blueprint(tmp_path), RUN), plan_memory(Blueprint.of(OFFICIAL), RUN)
    assert (a.weights, a.activations, a.peak) == (b.weights, b.activations, b.peak)


@pytest.mark.parametrize("configuration", [LITE, OFFICIAL], ids=lambda c: c.name)
def test_a_budget_is_kept_by_the_cheapest_means_first(configuration):
    blueprint = Blueprint.of(configuration)
    run = Run(frames=8, height=64, width=64)
    plan = plan_memory(blueprint, run, budget=2**40)
    assert (plan.vae_chunk, plan.batch_guidance, plan.offload, plan.fits) == (8, True, False, True)
    costs = []
    while plan.fits:
        assert plan.peak <= (plan.budget or 0)
        costs.append((plan.offload, not plan.batch_guidance, -plan.vae_chunk))
        plan = plan_memory(blueprint, run, budget=plan.peak - 1)
    assert costs == sorted(costs) and len(costs) > 1
    assert "NOT enough" in str(plan)
    assert (plan.batch_guidance, plan.offload) == (False, True)


@pytest.fixture(scope="module")
def official() -> Callable[..., MemoryPlan]:
    """Plans of the official network for 16 frames of 960x512 in float16; it is traced once."""
    blueprint, run = Blueprint.of(CONFIGURATIONS["official"]), Run(16, 512, 960, torch.float16)
    traced = memory_plan._trace(blueprint, run)

    def plan(budget: int, shorten: bool = True) -> MemoryPlan:
        with mock.patch.object(memory_plan, "_trace", lambda *_: traced):
            return plan_memory(blueprint, run, budget, shorten)

    return plan


GIB = 2**30
BESIDE_TRAINING = 1.5
"""GiB: a million splats with gradient and moments (0.9), their renders, the photos."""


def test_the_official_network_on_cards_of_8_12_and_24_gb(official):
    """The whole card, then what a desktop and a training leave of it."""
    alone = {card: official(int(0.9 * (card - 0.5) * GIB)) for card in (8, 12, 24)}
    beside = {card: official(int(0.9 * (card - 0.5 - BESIDE_TRAINING) * GIB)) for card in (8, 12, 24)}
    assert all(plan.fits for plan in (*alone.values(), *beside.values()))
    assert [(p.run.frames, p.offload, p.batch_guidance) for p in alone.values()] == [
        (16, True, False),
        (16, False, False),
        (16, False, True),
    ]
    assert [(p.run.frames, p.offload, p.batch_guidance) for p in beside.values()] == [
        (8, True, False),
        (16, False, False),
        (16, False, True),
    ]
    told = beside[8].shortened or ""
    assert "a clip of 16 frames of 960x512 does not fit" in told and "so 8 frames are repaired at a time" in told
    assert "8 frames of 960x512" in beside[8].summary
    assert [plan.shortened for plan in (*alone.values(), beside[12], beside[24])] == [None] * 5


def test_a_clip_is_cut_only_where_nothing_else_helps_and_nobody_minds(official):
    whole = official(1, shorten=False)
    assert (whole.run.frames, whole.offload, whole.batch_guidance, whole.fits) == (16, True, False, False)
    assert official(whole.peak).run.frames == 16 and official(whole.peak - 1).run.frames == 8
    lengths = [official(budget * GIB // 4).run.frames for budget in range(20, 10, -1)]
    assert lengths == sorted(lengths, reverse=True) and set(lengths) >= {4, 6, 8}
    assert official(1).run.frames == 4 and official(1).fits is False


def test_a_part_of_a_clip_costs_what_a_clip_of_its_length_does():
    blueprint, run = Blueprint.of(OFFICIAL), Run(8, 32, 48, guidance=True)
    part = plan_memory(blueprint, run, plan_memory(blueprint, run, 1).peak - 1, shorten=True)
    assert part.fits and part.run.frames == 4 and part.asked == 8
    short = plan_memory(blueprint, replace(run, frames=4), part.budget)
    assert short.activations.keys() == part.activations.keys()
    for phase, needed in short.activations.items():
        assert part.activations[phase] == pytest.approx(needed, rel=0.01), phase
    assert part.clip == short.clip


def test_a_large_decoder_is_cut_into_chunks():
    vae = {**LITE.vae, "block_out_channels": (64, 64, 64)}
    settings = {**LITE.settings, "reference_size": (64, 96)}
    blueprint, run = Blueprint.of(replace(LITE, vae=vae, settings=settings)), replace(RUN, frames=8)
    free = plan_memory(blueprint, run, budget=2**40)
    plan = plan_memory(blueprint, run, budget=free.peak - 1)
    assert plan.fits and plan.vae_chunk < free.vae_chunk and plan.batch_guidance and not plan.offload


def test_activations_follow_the_size():
    blueprint = Blueprint.of(LITE)
    small, large = plan_memory(blueprint, RUN), plan_memory(blueprint, replace(RUN, height=2 * RUN.height))
    for phase in ("encode", "denoise", "decode"):
        assert large.activations[phase] == pytest.approx(2 * small.activations[phase], rel=0.02)
    padded = plan_memory(blueprint, replace(RUN, height=RUN.height - 3))
    assert padded.activations == small.activations


def test_full_size_plan_without_any_weights():
    run = Run(16, 512, 960, torch.bfloat16)
    plan = plan_memory(Blueprint.of(CONFIGURATIONS["official"]), run)
    assert plan.weights["unet"] == 2 * 1_438_854_980
    text = str(plan)
    for word in ("16 frames of 960x512", "bfloat16", "25 steps", "guidance on", "unet", "decode", "peak"):
        assert word in text


def test_senseless_runs_are_refused():
    with pytest.raises(UserError, match="below 1"):
        plan_memory(Blueprint.of(LITE), replace(RUN, frames=0))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("6GiB", 6 * 2**30), ("6 GB", 6 * 10**9), ("512MiB", 512 * MIB), ("1.5k", 1500), ("100", 100)],
)
def test_amounts_of_memory(text, wanted):
    assert parse_bytes(text) == wanted


@pytest.mark.parametrize("text", ["", "much", "-3GiB", "0", "1.2.3GB", "6 XB"])
def test_senseless_amounts_of_memory(text):
    with pytest.raises(UserError, match="6GiB"):
        parse_bytes(text)
