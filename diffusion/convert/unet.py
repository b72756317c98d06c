"""The UNet's tensors: from the LDM family's block numbering to diffusers' levels."""

from __future__ import annotations

from diffusion.convert.pieces import NetworkPlan, Piece, Shapes, on_meta, rename
from diffusion.models.unet import RGBDVideoUNet

PREFIX = "model.diffusion_model."

# The number of leading context tokens that the official attention code sends through the text projections.
CONTEXT_SPLIT = 77

# diffusers gives the first temporal transformer this many heads, as the official network does.
FIRST_TRANSFORMER_HEADS = 8

EMBEDDINGS = (
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("fps_embedding.0", "time_embedding.fps_embedding.linear_1"),
    ("fps_embedding.2", "time_embedding.fps_embedding.linear_2"),
    # Older DynamiCrafter files.
    ("framestride_embed.0", "time_embedding.fps_embedding.linear_1"),
    ("framestride_embed.2", "time_embedding.fps_embedding.linear_2"),
    ("input_blocks.0.0", "conv_in"),
    ("init_attn.0", "transformer_in"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
)

# {0} = diffusers' block, {1} = position in it.
RESIDUAL = (
    ("in_layers.0", "{0}.resnets.{1}.norm1"),
    ("in_layers.2", "{0}.resnets.{1}.conv1"),
    ("emb_layers.1", "{0}.resnets.{1}.time_emb_proj"),
    ("out_layers.0", "{0}.resnets.{1}.norm2"),
    ("out_layers.3", "{0}.resnets.{1}.conv2"),
    ("skip_connection", "{0}.resnets.{1}.conv_shortcut"),
    ("temopral_conv", "{0}.temp_convs.{1}"),
)


def plan_unet(shapes: Shapes) -> NetworkPlan:
    """Infer the sizes from the tensors and say where each converted tensor comes from.

    Raises:
        UserError: for tensors that make no such network.
    """
    blocks = _blocks(shapes)
    down = {theirs: place for theirs, place in blocks.items() if place[0].startswith("down_blocks")}
    firsts = [theirs for theirs, (_, position) in down.items() if position == 0]
    first_level = [theirs for theirs, (ours, _) in down.items() if ours == "down_blocks.0"]
    layers = sum(f"{theirs}.0.op.weight" not in shapes for theirs in first_level)
    attended = [f"{first}.1.norm.weight" in shapes for first in firsts]
    width_of_first = shapes["init_attn.0.proj_in.weight"][0]
    model = on_meta(
        lambda: RGBDVideoUNet(
            in_channels=shapes["input_blocks.0.0.weight"][1],
            out_channels=shapes["out.2.weight"][0],
            down_block_types=tuple("CrossAttnDownBlock3D" if on else "DownBlock3D" for on in attended),
            up_block_types=tuple("CrossAttnUpBlock3D" if on else "UpBlock3D" for on in reversed(attended)),
            block_out_channels=tuple(shapes[f"{first}.0.out_layers.3.weight"][0] for first in firsts),
            layers_per_block=layers,
            cross_attention_dim=shapes["middle_block.1.transformer_blocks.0.attn2.to_k.weight"][1],
            attention_head_dim=width_of_first // FIRST_TRANSFORMER_HEADS,
            context_split=CONTEXT_SPLIT if any(".to_k_ip." in name for name in shapes) else None,
        ),
        "UNet",
    )
    pieces = {}
    gains = {name for name in shapes if name.endswith(".attn2.alpha")}
    for name in shapes:
        target = _target(name, blocks)
        if target is None or name in gains:
            continue
        gain = name.replace("to_v_ip.weight", "alpha") if ".to_v_ip." in name else None
        # Only the first temporal transformer's projections are 1x1 convolutions.
        rank = 2 if name.startswith("init_attn.0.proj_") and name.endswith(".weight") else None
        pieces[target] = Piece(name, rank=rank, gain=gain if gain in gains else None)
    return NetworkPlan("unet", shapes.prefix, model, pieces)


def _blocks(shapes: Shapes) -> dict[str, tuple[str, int]]:
    """LDM block -> (diffusers' block, position in it): "input_blocks.4" -> ("down_blocks.1", 0)."""
    blocks = {}
    up_ends = ("1.conv.weight", "2.conv.weight", "3.conv.weight")
    for theirs, ours, ends in (
        ("input_blocks", "down_blocks", ("0.op.weight",)),
        ("output_blocks", "up_blocks", up_ends),
    ):
        level = position = 0
        for number in range(shapes.count(theirs + ".{}.")):
            block = f"{theirs}.{number}"
            if block == "input_blocks.0":  # the convolution before all levels
                continue
            blocks[block] = (f"{ours}.{level}", position)
            position += 1
            if any(f"{block}.{end}" in shapes for end in ends):
                level, position = level + 1, 0
    return blocks


def _target(name: str, blocks: dict[str, tuple[str, int]]) -> str | None:
    """diffusers' name of an official tensor; None if there is no place for it."""
    if not name.startswith(("input_blocks.", "output_blocks.", "middle_block.")) or name.startswith("input_blocks.0."):
        renamed = rename(name, EMBEDDINGS)
        return renamed if renamed != name else None
    if name.startswith("middle_block."):
        _, sub, rest = name.split(".", 2)
        if sub in ("1", "2"):
            return f"mid_block.{'attentions' if sub == '1' else 'temp_attentions'}.0.{rest}"
        return _residual(rest, "mid_block", 0 if sub == "0" else 1)
    kind, number, sub, rest = name.split(".", 3)
    if f"{kind}.{number}" not in blocks:
        return None
    block, position = blocks[f"{kind}.{number}"]
    if rest.startswith("op."):
        return f"{block}.downsamplers.0.conv.{rest.removeprefix('op.')}"
    if rest.startswith("conv."):
        return f"{block}.upsamplers.0.{rest}"
    if sub == "0":
        return _residual(rest, block, position)
    return f"{block}.{'attentions' if sub == '1' else 'temp_attentions'}.{position}.{rest}"


def _residual(rest: str, block: str, position: int) -> str | None:
    renamed = rename(rest, RESIDUAL)
    return renamed.format(block, position) if renamed != rest else None
