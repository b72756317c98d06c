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
    levels = _level_widths(shapes)
    attended = _attended(shapes)
    width_of_first = shapes["init_attn.0.proj_in.weight"][0]
    model = on_meta(
        lambda: RGBDVideoUNet(
            in_channels=shapes["input_blocks.0.0.weight"][1],
            out_channels=shapes["out.2.weight"][0],
            down_block_types=tuple("CrossAttnDownBlock3D" if on else "DownBlock3D" for on in attended),
            up_block_types=tuple("CrossAttnUpBlock3D" if on else "UpBlock3D" for on in reversed(attended)),
            block_out_channels=tuple(levels),
            layers_per_block=_layers_per_level(shapes),
            cross_attention_dim=shapes["middle_block.1.transformer_blocks.0.attn2.to_k.weight"][1],
            attention_head_dim=width_of_first // FIRST_TRANSFORMER_HEADS,
            context_split=CONTEXT_SPLIT if any(".to_k_ip." in name for name in shapes) else None,
        ),
        "UNet",
    )
    pieces = {}
    blocks = _blocks(shapes)
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


def _is_down(shapes: Shapes, number: int) -> bool:
    return f"input_blocks.{number}.0.op.weight" in shapes


def _blocks(shapes: Shapes) -> dict[str, tuple[str, int]]:
    """LDM block -> (diffusers' block, position in it): "input_blocks.4" -> ("down_blocks.1", 0)."""
    blocks = {}
    level = position = 0
    for number in range(1, shapes.count("input_blocks.{}.")):
        blocks[f"input_blocks.{number}"] = (f"down_blocks.{level}", position)
        position += 1
        if _is_down(shapes, number):
            level, position = level + 1, 0
    level = position = 0
    for number in range(shapes.count("output_blocks.{}.")):
        blocks[f"output_blocks.{number}"] = (f"up_blocks.{level}", position)
        position += 1
        if any(f"output_blocks.{number}.{sub}.conv.weight" in shapes for sub in range(1, 4)):
            level, position = level + 1, 0
    return blocks


def _first_of_levels(shapes: Shapes) -> list[int]:
    """Number of the first residual input block of each level."""
    numbers = range(1, shapes.count("input_blocks.{}."))
    return [1] + [number + 1 for number in numbers if _is_down(shapes, number)]


def _level_widths(shapes: Shapes) -> list[int]:
    return [shapes[f"input_blocks.{number}.0.out_layers.3.weight"][0] for number in _first_of_levels(shapes)]


def _attended(shapes: Shapes) -> list[bool]:
    """Whether each level has transformers."""
    return [f"input_blocks.{number}.1.norm.weight" in shapes for number in _first_of_levels(shapes)]


def _layers_per_level(shapes: Shapes) -> int:
    firsts = _first_of_levels(shapes)
    following = firsts[1] - 1 if len(firsts) > 1 else shapes.count("input_blocks.{}.")
    return following - firsts[0]


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
