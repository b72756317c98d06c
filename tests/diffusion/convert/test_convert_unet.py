"""The converter on UNets of other depths and widths than the official one."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion.convert.pieces import Shapes
from diffusion.convert.plan import Plan, find_problems
from diffusion.convert.unet import plan_unet
from diffusion.models.unet import RGBDVideoUNet

RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
PREFIX = "model.diffusion_model."


class OfficialNames(dict[str, tuple[int, ...]]):
    """Names and shapes in the official numbering of blocks, filled module by module."""

    def put(self, module: Any, where: str, renames: dict[str, str] | None = None) -> None:
        for name, tensor in module.state_dict().items():
            for old, new in (renames or {}).items():
                name = re.sub(rf"^{old}\b", new, name)
            self[f"{PREFIX}{where}.{name}"] = tuple(tensor.shape)

    def put_block(self, block: Any, index: int, where: str) -> int:
        """One residual block with what follows it; returns the number of sub-modules."""
        self.put(block.resnets[index], f"{where}.0", RESIDUAL)
        self.put(block.temp_convs[index], f"{where}.0.temopral_conv")
        if not hasattr(block, "attentions"):
            return 1
        self.put(block.attentions[index], f"{where}.1")
        self.put(block.temp_attentions[index], f"{where}.2")
        return 3


def official_shapes(unet: RGBDVideoUNet) -> dict[str, tuple[int, ...]]:
    """Names and shapes that the official code would give a UNet of these sizes."""
    names = OfficialNames()
    for where, module in (
        ("time_embed", unet.time_embedding),
        ("fps_embedding", unet.time_embedding.fps_embedding),
    ):
        names.put(module, where, {"linear_1": "0", "linear_2": "2"})
    for name in [name for name in names if "time_embed.fps_embedding" in name]:
        del names[name]
    names.put(unet.conv_in, "input_blocks.0.0")
    names.put(unet.transformer_in, "init_attn.0")
    for name in ("proj_in", "proj_out"):
        names[f"{PREFIX}init_attn.0.{name}.weight"] += (1,)
    number = 1
    for block in unet.down_blocks:
        for index in range(len(block.resnets)):
            names.put_block(block, index, f"input_blocks.{number}")
            number += 1
        if block.downsamplers:
            names.put(block.downsamplers[0], f"input_blocks.{number}.0", {"conv": "op"})
            number += 1
    number = 0
    for block in unet.up_blocks:
        for index in range(len(block.resnets)):
            position = names.put_block(block, index, f"output_blocks.{number}")
            if block.upsamplers and index == len(block.resnets) - 1:
                names.put(block.upsamplers[0], f"output_blocks.{number}.{position}")
            number += 1
    names.put_block(unet.mid_block, 0, "middle_block")
    # Its second residual block has the sizes of its first.
    first = {k: v for k, v in names.items() if ".middle_block.0." in k}
    names |= {k.replace(".middle_block.0.", ".middle_block.3."): v for k, v in first.items()}
    names.put(unet.conv_norm_out, "out.0")
    names.put(unet.conv_out, "out.2")
    return names


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(
    widths=st.lists(st.sampled_from([32, 64, 96]), min_size=1, max_size=4),
    layers=st.integers(1, 3),
    attended=st.lists(st.booleans(), min_size=4, max_size=4),
    head_width=st.sampled_from([8, 16, 32]),
    split=st.booleans(),
)
def test_networks_of_other_depths_are_inferred(
    widths: list[int], layers: int, attended: list[bool], head_width: int, split: bool
) -> None:
    attended = attended[: len(widths)]
    with torch.device("meta"):
        unet = RGBDVideoUNet(
            in_channels=9,
            block_out_channels=tuple(widths),
            down_block_types=tuple("CrossAttnDownBlock3D" if on else "DownBlock3D" for on in attended),
            up_block_types=tuple("CrossAttnUpBlock3D" if on else "UpBlock3D" for on in reversed(attended)),
            layers_per_block=layers,
            cross_attention_dim=24,
            attention_head_dim=head_width,
            context_split=77 if split else None,
        )
    shapes = official_shapes(unet)
    network = plan_unet(Shapes(shapes, "model.diffusion_model.", "UNet"))
    for key, value in unet.config.items():
        if not key.startswith("_"):
            assert network.model.config[key] == value, key
    assert not find_problems(Plan([network], {}), shapes)
