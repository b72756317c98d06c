"""The UNet against the official network's recorded outputs, and its cross-attention against a slow twin."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import Timesteps
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_data import SLACK, Parity, gap
from torch import Tensor, nn

from diffusion.models.attention import SplitCrossAttention, add_image_projections
from diffusion.models.unet import RGBDVideoUNet

TOLERANCE = 2e-6 * SLACK


@pytest.mark.slow
@pytest.mark.parametrize("case", ["ref256", "text77", "acts"])
@torch.no_grad()
def test_output_is_the_official_one(case: str, parity: Parity, unet: RGBDVideoUNet) -> None:
    io = parity.io("tiny_unet_io")
    out = unet(io[f"{case}.x"], io[f"{case}.t"], io[f"{case}.context"], io[f"{case}.fs"]).sample
    assert gap(out, io[f"{case}.out"]) < TOLERANCE


def sinusoid_bound(t: Tensor, width: int) -> Tensor:
    """[N, width] how far two float32 computations of the embedding of timesteps `t` [N] may lie apart.

    An angle is t * exp(-x) with x = ln(10000) i / half. With the unit roundoff u = 2^-24, x has a relative error of at
    most 3 u (constant, product, quotient), which makes 3 u x of the exponential; that is itself right to 2 u (one unit
    in the last place, whatever the library), and the product adds u. Sine and cosine pass an error of the angle on, and
    add 2 u. Two computations may be off by as much each, in opposite directions: 3.6e-4 for t = 999, where the angle's
    own spacing in float32 is 6e-5.
    """
    u = 2.0**-24
    x = math.log(10_000) * torch.arange(width // 2, dtype=torch.float64) / (width // 2)
    angle = t.double()[:, None] * torch.exp(-x)
    return (2 * (angle * (3 * x + 3) * u + 2 * u)).repeat(1, 2)


@torch.no_grad()
@pytest.mark.parametrize("recorded", ["sinusoid.emb", "sinusoid.emb320"])
def test_sinusoid(recorded: str, parity: Parity, unet: RGBDVideoUNet) -> None:
    io = parity.io("tiny_unet_io")
    t, expected = io["sinusoid.t"], io[recorded]
    wide = Timesteps(expected.shape[1], flip_sin_to_cos=True, downscale_freq_shift=0)
    found = (unet.time_proj if recorded == "sinusoid.emb" else wide)(t)
    bound = sinusoid_bound(t, expected.shape[1])
    assert found.shape == expected.shape and bool(((found.double() - expected.double()).abs() <= bound).all())
    swapped = Timesteps(expected.shape[1], flip_sin_to_cos=False, downscale_freq_shift=0)(t)
    shifted = Timesteps(expected.shape[1], flip_sin_to_cos=True, downscale_freq_shift=1)(t)
    for wrong in (swapped, shifted):  # the bound tells apart what differs by more than rounding
        assert bool(((wrong.double() - expected.double()).abs() > bound).any())


@torch.no_grad()
def test_frame_rate_defaults_to_the_official_one(parity: Parity, unet: RGBDVideoUNet) -> None:
    io = parity.io("tiny_unet_io")
    inputs = io["acts.x"], io["acts.t"], io["acts.context"]
    omitted = unet(*inputs).sample
    assert torch.equal(omitted, unet(*inputs, fps=parity.config["unet_full_kwargs"]["default_fs"]).sample)
    assert gap(omitted, unet(*inputs, fps=7).sample) > TOLERANCE


def official_blocks(unet: RGBDVideoUNet) -> Iterator[tuple[str, nn.Module]]:
    """The official name of each block, and the module here whose output is that block's."""
    yield "init_attn", unet.transformer_in
    yield "input_blocks.0", unet.conv_in
    yield "middle_block", unet.mid_block
    first = unet.down_blocks[0]
    yield "detail.input_blocks.1.0", first.temp_convs[0]
    for kind, blocks, resampling in (("input", unet.down_blocks, "down"), ("output", unet.up_blocks, "up")):
        number = 1 if kind == "input" else 0
        for block in blocks:
            last = getattr(block, "temp_attentions", block.temp_convs)
            steps = list(last)
            samplers = getattr(block, f"{resampling}samplers") or []
            # On the way down, a block of its own changes the resolution; on the way up, the level's last one does.
            steps = steps + list(samplers) if kind == "input" else steps[:-1] + (list(samplers) or steps[-1:])
            for step in steps:
                yield f"{kind}_blocks.{number}", step
                number += 1
    if hasattr(first, "attentions"):
        yield "detail.input_blocks.1.1", first.attentions[0]
        yield "detail.input_blocks.1.2", first.temp_attentions[0]


@torch.no_grad()
def test_activations_are_the_official_ones(parity: Parity, unet: RGBDVideoUNet) -> None:
    io = parity.io("tiny_unet_io")
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            seen[name] = output[0] if isinstance(output, tuple) else output

        return hook

    modules = {
        **dict(official_blocks(unet)),
        "both embeddings": unet.time_embedding,
        "fps_embedding": unet.time_embedding.fps_embedding,
    }
    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        unet(io["acts.x"], io["acts.t"], io["acts.context"], io["acts.fs"])
    finally:
        for handle in handles:
            handle.remove()
    seen["time_embed"] = seen.pop("both embeddings") - seen["fps_embedding"]
    recorded = {k.removeprefix("acts.act."): v for k, v in io.items() if k.startswith("acts.act.")}
    assert set(seen) == set(recorded)
    for name, expected in recorded.items():
        if seen[name].shape != expected.shape:  # Some of them were recorded as [B, C, T, h, w].
            expected = expected.transpose(1, 2).flatten(0, 1)
        assert gap(seen[name], expected) < TOLERANCE * max(1.0, float(expected.abs().max())), name


@torch.no_grad()
def test_training_target(parity: Parity, unet: RGBDVideoUNet) -> None:
    io = parity.io("tiny_train_io")
    sample = torch.cat([io["x_noisy"], io["concat"]], dim=1)
    out = unet(sample, io["t"], io["context"], io["fs"]).sample
    assert gap(out, io["model_out_eval"]) < 1e-5 * SLACK
    loss = torch.nn.functional.mse_loss(out, io["v_target"])
    assert gap(loss.reshape(-1), io["loss_eval"]) < 1e-5 * SLACK


@torch.no_grad()
def test_a_batch_equals_single_clips(parity: Parity, unet: RGBDVideoUNet) -> None:
    io = parity.io("tiny_unet_io")
    names = ("ref256.x", "ref256.t", "ref256.context", "ref256.fs")
    together = unet(*(io[name] for name in names)).sample
    for index in range(len(together)):
        alone = unet(*(io[name][index : index + 1] for name in names)).sample
        assert gap(together[index : index + 1], alone) < 1e-5


def small_unet(**options: Any) -> RGBDVideoUNet:
    torch.manual_seed(0)
    model = RGBDVideoUNet(
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=12,
        attention_head_dim=4,
        **options,
    ).eval()
    for parameter in model.parameters():
        # Some layers start at zero, which would hide what comes before them.
        nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.parametrize("split", [None, 3])
@torch.no_grad()
def test_saved_and_loaded_it_computes_the_same(split: int | None, tmp_path: Path) -> None:
    model = small_unet(in_channels=9, context_split=split, default_fps=24)
    model.save_pretrained(tmp_path)
    assert list(tmp_path.glob("*.safetensors"))
    loaded = RGBDVideoUNet.from_pretrained(tmp_path).eval()
    assert loaded.config["in_channels"] == 9 and loaded.config["context_split"] == split
    inputs = torch.randn(2, 9, 3, 4, 6), torch.tensor([3, 999]), torch.randn(2, 7, 12)
    assert torch.equal(model(*inputs).sample, loaded(*inputs).sample)
    has_image_projections = any("to_k_ip" in name for name in loaded.state_dict())
    assert has_image_projections == (split is not None)


@pytest.mark.parametrize("frames", [1, 2, 5])
@torch.no_grad()
def test_any_number_of_frames(frames: int) -> None:
    model = small_unet()
    out = model(torch.randn(1, 8, frames, 4, 4), 5, torch.randn(1, 100, 12)).sample
    assert out.shape == (1, 4, frames, 4, 4)
    assert torch.isfinite(out).all()


@torch.no_grad()
def test_where_the_context_is_cut_matters() -> None:
    sample, context = torch.randn(1, 8, 2, 4, 4), torch.randn(1, 9, 12)
    cut = {split: small_unet(context_split=split)(sample, 5, context).sample for split in (3, 4)}
    assert gap(cut[3], cut[4]) > 1e-4


def slow_cross_attention(attn: Any, hidden: Tensor, context: Tensor, split: int | None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for each head and frame, once for each part of that frame's own context."""
    parts = [(context, attn.to_k, attn.to_v)]
    if split is not None and split < context.shape[1]:
        parts = [
            (context[:, :split], attn.to_k, attn.to_v),
            (context[:, split:], attn.to_k_ip, attn.to_v_ip),
        ]
    query, total = attn.to_q(hidden), 0.0
    depth = query.shape[-1] // attn.heads
    for tokens, to_k, to_v in parts:
        key, value = to_k(tokens), to_v(tokens)
        heads = []
        for head in range(attn.heads):
            part = slice(head * depth, (head + 1) * depth)
            logits = query[..., part] @ key[..., part].transpose(1, 2) / depth**0.5
            heads.append(torch.softmax(logits, dim=-1) @ value[..., part])
        total = total + torch.cat(heads, dim=-1)
    return attn.to_out[0](total)


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3),
    frames=st.integers(1, 4),
    length=st.integers(1, 9),
    split=st.none() | st.integers(1, 5),
    framewise=st.booleans(),
    seed=st.integers(0, 99),
)
@torch.no_grad()
def test_cross_attention_equals_its_slow_twin(
    batch: int, frames: int, length: int, split: int | None, framewise: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    attn = Attention(query_dim=8, cross_attention_dim=6, heads=2, dim_head=4)
    tokens_per_frame = None
    if split is not None:
        add_image_projections(attn)
        if framewise:
            tokens_per_frame = 2
            length = split + tokens_per_frame * frames
    processor = SplitCrossAttention(split, tokens_per_frame)
    processor.num_frames = frames
    attn.set_processor(processor)
    hidden, context = torch.randn(batch * frames, 5, 8), torch.randn(batch, length, 6)
    repeated = context.repeat_interleave(frames, 0)
    out = attn(hidden, encoder_hidden_states=repeated)
    own = repeated
    if tokens_per_frame is not None and split is not None:
        own = torch.stack(
            [
                torch.cat([clip[:split], clip[split + tokens_per_frame * t :][:tokens_per_frame]])
                for clip in context
                for t in range(frames)
            ]
        )
    assert gap(out, slow_cross_attention(attn, hidden, own, split)) < 1e-6
